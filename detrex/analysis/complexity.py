"""What a detector costs: parameters, multiply-adds, time. Multiply-adds are counted without computing anything.

Convention: one multiply-add of convolutions, linear layers and attention products is one FLOP, as in the papers; norms,
activations, softmax and sums are not counted. Deformable attention counts 5 for each sampled value: 4 to interpolate
and 1 to weight it. Images are taken one by one, unpadded, in evaluation mode: of a hybrid model, what evaluation runs.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from detrex.layers import MultiScaleDeformableAttention

__all__ = [
    "PUBLISHED",
    "Published",
    "coco_test_sizes",
    "count_macs",
    "mean_macs",
    "measure_speed",
    "parts_of",
]

MACS_PER_SAMPLE = 5
SHORT_EDGE, LONG_EDGE = 800, 1333


@dataclass(frozen=True)
class Published:
    """A row of the official Deformable DETR README: millions of parameters, GFLOPs, images/s on a V100 one by one."""

    parameters: float
    gflops: float
    images_per_second: float


PUBLISHED = {
    "deformable_detr_r50_single_scale_50ep": Published(34, 78, 27.0),
    "deformable_detr_r50_single_scale_dc5_50ep": Published(34, 128, 22.1),
    "deformable_detr_r50_50ep": Published(40, 173, 15.0),
    "deformable_detr_r50_with_box_refinement_50ep": Published(41, 173, 15.0),
    "deformable_detr_r50_two_stage_50ep": Published(41, 173, 14.5),
}


def coco_test_sizes() -> Counter[tuple[int, int]]:
    """(height, width) -> number, of the first 100 images of COCO val2017 resized for testing (800, at most 1333)."""
    sizes = json.loads(files("detrex.analysis").joinpath("val2017_sizes.json").read_text())["width_height"]
    return Counter(ResizeShortestEdge.get_output_shape(h, w, SHORT_EDGE, LONG_EDGE) for w, h in sizes)


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a detector that do all of its work, in order."""
    transformer = model.transformer
    return {
        "backbone": model.backbone,
        "neck": model.neck,
        "encoder": transformer.encoder,
        "queries": transformer.queries,
        "decoder": transformer.decoder,
    }


# Neither the fused path of nn.MultiheadAttention, taken without gradients, nor fused kernels are known to the counter.
@torch.enable_grad()
@sdpa_kernel(SDPBackend.MATH)
def count_macs(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of each part of ``model`` on one image, by the module's convention.

    Args:
        model: a detector in evaluation mode. On the meta device
            (:func:`detrex.config.instantiation.build_on_meta`) nothing is computed.
        height, width: of the image that the model gets, in pixels.
    """
    sampled = 0
    macs: dict[str, int] = {}
    with ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))

        def total() -> int:
            return counter.get_total_flops() // 2 + MACS_PER_SAMPLE * sampled

        def count_samples(module: MultiScaleDeformableAttention, _inputs: object, output_BQC: torch.Tensor) -> None:
            nonlocal sampled
            sampled += output_BQC.numel() * module.num_levels * module.num_points

        def hook(module: nn.Module, function, *, before: bool = False) -> None:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(register(function).remove)

        for module in model.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                hook(module, count_samples)
        for name, part in parts_of(model).items():
            hook(part, lambda *_, name=name: macs.update({name: macs.get(name, 0) - total()}), before=True)
            hook(part, lambda *_, name=name: macs.update({name: macs[name] + total()}))
        model.outputs([torch.empty(3, height, width, device=model.device)])
    return macs


def mean_macs(model: nn.Module, sizes: Mapping[tuple[int, int], int]) -> dict[str, float]:
    """:func:`count_macs` averaged over images, given as (height, width) -> number."""
    total = Counter()
    for (height, width), number in sizes.items():
        total.update({part: macs * number for part, macs in count_macs(model, height, width).items()})
    return {part: macs / sum(sizes.values()) for part, macs in total.items()}


def measure_speed(
    function: Callable[[list[dict[str, Any]]], object],
    sizes: Sequence[tuple[int, int]],
    *,
    device: torch.device,
    num_classes: int = 1,
    batch_size: int = 1,
    repeats: int = 10,
    warmup: int = 3,
) -> float:
    """Seconds per image of inference or of a training step, the median of several batches; loading them is left out.

    Args:
        function: takes a batch: a detector in evaluation mode, or a function that trains on it.
        sizes: (height, width) in pixels of the images, used in turn; they and their eight objects are random.
        device: that ``function`` computes on.
        num_classes: of the objects.
        batch_size: images of one batch, all of the same size.
        repeats, warmup: batches that are measured, and batches before them that are not.
    """
    seconds = []
    for index in range(warmup + repeats):
        batch = [_random_input(*sizes[index % len(sizes)], num_classes) for _ in range(batch_size)]
        _synchronize(device)
        start = time.perf_counter()
        function(batch)
        _synchronize(device)
        seconds.append((time.perf_counter() - start) / batch_size)
    return statistics.median(seconds[warmup:])


def _random_input(height: int, width: int, num_classes: int, num_objects: int = 8) -> dict[str, Any]:
    corners = torch.rand(num_objects, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    objects = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    objects.gt_classes = torch.randint(0, num_classes, (num_objects,))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": objects}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
