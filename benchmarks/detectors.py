"""The two detectors: two-stage Deformable DETR with ResNet-50, ours and transformers', with the same weights."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detrex.checkpoint import match_state, read_checkpoint
from detrex.checkpoint.dialects import detect_dialect, to_ours

__all__ = [
    "Case",
    "build_hugging_face",
    "build_ours",
    "encoder_scores",
    "hugging_face_detections",
    "make_inputs",
    "save_random_weights",
]

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
NUM_CLASSES, NUM_BOXES, NUM_SELECT = 80, 10, 300

Case = tuple[int, int, int]  # batch, height, width


def save_random_weights(folder: str) -> None:
    """Save a model of transformers for both to load; in training it has the losses of all layers, as ours."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    torch.manual_seed(0)
    config = DeformableDetrConfig(
        num_labels=NUM_CLASSES,
        with_box_refine=True,
        two_stage=True,
        two_stage_num_proposals=300,
        auxiliary_loss=True,
        class_cost=2,
        use_pretrained_backbone=False,
    )
    DeformableDetrForObjectDetection(config).save_pretrained(folder)


def build_hugging_face(folder: str) -> nn.Module:
    """transformers' model."""
    from transformers import DeformableDetrForObjectDetection

    return DeformableDetrForObjectDetection.from_pretrained(folder)


def build_ours(folder: str) -> nn.Module:
    """The config's model; stem and first stage are frozen, as transformers freezes them.

    Raises:
        RuntimeError: if the weights do not fit.
    """
    config = LazyConfig.load(str(CONFIG)).model
    config.backbone.freeze_at = 2
    model = instantiate(config)
    state = read_checkpoint(f"{folder}/model.safetensors")["model"]
    assigned, report = match_state(model, to_ours(detect_dialect(state), state).state)
    if not report.complete:
        raise RuntimeError(report.describe())
    model.load_state_dict(assigned, strict=False)
    return model


def make_inputs(case: Case, device: torch.device) -> tuple[list[dict], dict[str, object]]:
    """Seeded random images with boxes: detectron2's format on the CPU, and transformers' on the device.

    transformers gets images that are normalised already; ours normalises in its forward.
    """
    batch, height, width = case
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    inputs, values, labels, scale = [], [], [], torch.tensor([width, height], dtype=torch.float32)
    for _ in range(batch):
        low = torch.rand(NUM_BOXES, 2, generator=generator) * 0.7
        size = 0.02 + torch.rand(NUM_BOXES, 2, generator=generator) * 0.28
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([low * scale, (low + size) * scale], 1))
        instances.gt_classes = torch.randint(0, NUM_CLASSES, (NUM_BOXES,), generator=generator)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
        boxes = torch.cat([low + size / 2, size], 1).to(device)
        labels.append({"class_labels": instances.gt_classes.to(device), "boxes": boxes})
        values.append((image - mean) / std)
    return inputs, {"pixel_values": torch.stack(values).to(device), "labels": labels}


@torch.inference_mode()
def encoder_scores(name: str, model: nn.Module) -> Tensor:
    """Logits of all tokens of a small image, on the CPU."""
    model.eval()
    inputs, values = make_inputs((1, 256, 320), next(model.parameters()).device)
    if name == "ours":
        return model.outputs([x["image"] for x in inputs]).proposals.logits_BQK.cpu()
    return model(values["pixel_values"]).enc_outputs_class.cpu()


def hugging_face_detections(model: nn.Module, values: Tensor) -> list[dict[str, Tensor]]:
    """Inference with transformers, its post-processing included."""
    from transformers.models.deformable_detr.image_processing_deformable_detr import DeformableDetrImageProcessor

    sizes = [tuple(values.shape[-2:])] * len(values)
    processor = DeformableDetrImageProcessor()
    return processor.post_process_object_detection(model(values), threshold=0.0, target_sizes=sizes, top_k=NUM_SELECT)
