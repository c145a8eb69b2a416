"""The two contestants: two-stage Deformable DETR with ResNet-50, ours and transformers', with the same weights."""

from __future__ import annotations

import tempfile
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
    "check_agreement",
    "copy_weights",
    "hugging_face_detections",
    "make_inputs",
]

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py"
NUM_CLASSES, NUM_BOXES, NUM_SELECT = 80, 10, 300

Case = tuple[int, int, int]  # batch, height, width


def build_ours() -> nn.Module:
    """The config's model; stem and first stage are frozen, as transformers freezes them."""
    config = LazyConfig.load(str(CONFIG)).model
    config.backbone.freeze_at = 2
    return instantiate(config)


def build_hugging_face() -> nn.Module:
    """transformers' model of the same size."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    config = DeformableDetrConfig(
        num_labels=NUM_CLASSES,
        with_box_refine=True,
        two_stage=True,
        two_stage_num_proposals=300,
        auxiliary_loss=True,
        class_cost=2,
        use_pretrained_backbone=False,
    )
    return DeformableDetrForObjectDetection(config)


def copy_weights(theirs: nn.Module, mine: nn.Module) -> None:
    """Give ours their weights, by way of the file that they save."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        state = read_checkpoint(f"{folder}/model.safetensors")["model"]
    assigned, report = match_state(mine, to_ours(detect_dialect(state), state).state)
    if not report.complete:
        raise RuntimeError(report.describe())
    mine.load_state_dict(assigned, strict=False)


@torch.inference_mode()
def check_agreement(theirs: nn.Module, mine: nn.Module, tolerance: float = 1e-3) -> float:
    """Largest difference of the encoder's scores of all tokens, as logits.

    Raises:
        RuntimeError: if it exceeds the tolerance; then times would not be comparable.
    """
    theirs.eval()
    mine.eval()
    inputs, values = make_inputs((1, 256, 320), mine)
    expected = theirs(values["pixel_values"]).enc_outputs_class
    difference = float((mine.outputs([x["image"] for x in inputs]).proposals.logits_BQK - expected).abs().max())
    if not difference <= tolerance:
        raise RuntimeError(f"the two models differ by {difference:.1e} in the encoder's scores")
    return difference


def make_inputs(case: Case, model: nn.Module) -> tuple[list[dict], dict[str, object]]:
    """Seeded random images with boxes: detectron2's format on the CPU, and transformers' on the model's device.

    transformers gets images that are normalised already; ours normalises in its forward.
    """
    batch, height, width = case
    generator = torch.Generator().manual_seed(0)
    inputs, labels, scale = [], [], torch.tensor([width, height], dtype=torch.float32)
    for _ in range(batch):
        low = torch.rand(NUM_BOXES, 2, generator=generator) * 0.7
        size = 0.02 + torch.rand(NUM_BOXES, 2, generator=generator) * 0.28
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([low * scale, (low + size) * scale], 1))
        instances.gt_classes = torch.randint(0, NUM_CLASSES, (NUM_BOXES,), generator=generator)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
        boxes = torch.cat([low + size / 2, size], 1).to(model.device)
        labels.append({"class_labels": instances.gt_classes.to(model.device), "boxes": boxes})
    values = torch.stack([(x["image"].to(model.device) - model.pixel_mean) / model.pixel_std for x in inputs])
    return inputs, {"pixel_values": values, "labels": labels}


def hugging_face_detections(model: nn.Module, values: Tensor) -> list[dict[str, Tensor]]:
    """Inference with transformers, its post-processing included."""
    from transformers.models.deformable_detr.image_processing_deformable_detr import DeformableDetrImageProcessor

    sizes = [tuple(values.shape[-2:])] * len(values)
    processor = DeformableDetrImageProcessor()
    return processor.post_process_object_detection(model(values), threshold=0.0, target_sizes=sizes, top_k=NUM_SELECT)
