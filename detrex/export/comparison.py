"""Compares exported detectors with the detector itself: boxes, speed and AP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from detrex.data import prepare_data
from detrex.data.class_names import follow_class_order
from detrex.structures import Size

__all__ = ["TOLERANCE", "Comparison", "check_images", "check_sizes", "compare", "compare_instances", "evaluate_each"]

Detector = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Instances]]]

TOLERANCE = 1e-5  # of the longer side: 1e-3 pixels for every 100
TIE = 1e-5  # scores closer than this may change places by rounding
DRAWS = 8
REPEATS = 3


@dataclass(frozen=True)
class Comparison:
    """An exported detector beside the detector on one batch.

    Attributes:
        name: of the export. batch, size: of the images.
        detections: of all images.
        box_error: largest difference of a coordinate in pixels; infinite if a detection has no counterpart.
        score_error: largest difference of a score.
        seconds, eager_seconds: of the batch, the best of some runs in turns.
    """

    name: str
    batch: int
    size: Size
    detections: int
    box_error: float
    score_error: float
    seconds: float
    eager_seconds: float

    @property
    def relative_error(self) -> float:
        """The box error as a part of the longer side."""
        return self.box_error / max(self.size)

    @property
    def agrees(self) -> bool:
        """Whether the boxes are within ``TOLERANCE``."""
        return self.relative_error <= TOLERANCE


@torch.no_grad()
def compare(
    detector: nn.Module, exports: Mapping[str, Detector], sizes: Sequence[Size], batches: Sequence[int], seed: int = 0
) -> list[Comparison]:
    """Run the detector and its exports on generated images of equal size, and time them.

    Args:
        detector: in evaluation mode. exports: by name.
        sizes: (H, W) of the images. batches: how many at once.
        seed: of the images.
    """
    result = []
    for size in sizes:
        inputs = [{"image": image} for image in check_images(detector, size, max(batches), seed)]
        for batch in batches:
            runs = {"eager": detector, **exports}
            found, seconds = {}, dict.fromkeys(runs, float("inf"))
            for _ in range(REPEATS):
                for name, run in runs.items():
                    start = time.perf_counter()
                    found[name] = run(inputs[:batch])
                    seconds[name] = min(seconds[name], time.perf_counter() - start)
            for name in exports:
                pairs = zip(found["eager"], found[name], strict=True)
                errors = [compare_instances(a["instances"], b["instances"]) for a, b in pairs]
                box_error, score_error = (max(column) for column in zip(*errors, strict=True))
                detections = sum(len(x["instances"]) for x in found["eager"])
                times = (seconds[name], seconds["eager"])
                result.append(Comparison(name, batch, size, detections, box_error, score_error, *times))
    return result


def check_sizes(metadata: Mapping[str, Any]) -> list[Size]:
    """(H, W) to compare at: of the resizing rule, upright, lying and half as large."""
    rule = metadata["resize"] if isinstance(metadata["resize"], Mapping) else {}
    short = rule.get("short_edge_length", 480)
    long = min(short * 4 // 3, rule.get("max_size", 640))
    return [(short, long), (long, short), (short // 2 + 1, short // 2)]


def compare_instances(expected: Instances, actual: Instances) -> tuple[float, float]:
    """Largest difference of coordinates and of scores between detections and their counterparts.

    The counterpart is the nearest box of the same class, since equal scores may come in another order. Detections that
    score as low as the last one of either side need none: another one may have taken the last place.
    """
    floor = max((float(x.scores.min()) for x in (expected, actual) if len(x)), default=0.0) + TIE
    errors = [(0.0, 0.0)]
    for found, others in ((expected, actual), (actual, expected)):
        some = found[found.scores > floor]
        if not len(some):
            continue
        if not len(others):
            return float("inf"), float("inf")
        distance = (some.pred_boxes.tensor[:, None] - others.pred_boxes.tensor).abs().amax(-1)
        scores = (some.scores[:, None] - others.scores).abs()
        stranger = (some.pred_classes[:, None] != others.pred_classes) | (scores > 100 * TIE)
        nearest, index = distance.masked_fill(stranger, float("inf")).min(1)
        errors.append((float(nearest.max()), float(scores.gather(1, index[:, None]).max())))
    box_errors, score_errors = zip(*errors, strict=True)
    return max(box_errors), max(score_errors)


def check_images(detector: nn.Module, size: Size, count: int, seed: int = 0) -> list[Tensor]:
    """Generated images (3, H, W) uint8 on which rounding does not decide the choice and the order of proposals.

    Of several that are drawn, the first whose proposals differ clearly in score, or else the one where they do most.
    """
    generator = torch.Generator().manual_seed(seed)
    images = []
    for _ in range(count):
        best = (-1.0, torch.empty(0))
        for _ in range(DRAWS):
            coarse = torch.rand(1, 3, *(max(2, n // 16) for n in size), generator=generator)
            smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
            noise = torch.rand(3, *size, generator=generator)
            image = ((0.8 * smooth + 0.2 * noise).clamp(0, 1) * 255).to(torch.uint8)
            best = max(best, (_smallest_gap(detector, image), image), key=lambda pair: pair[0])
            if best[0] > TIE:
                break
        images.append(best[1])
    return images


@torch.no_grad()
def _smallest_gap(detector: nn.Module, image: Tensor) -> float:
    """Between the scores of neighbours in rank, from the best proposal to the first that is left out."""
    outputs = detector.outputs([image])
    if outputs.proposals is None:
        return float("inf")
    scores_S = outputs.proposals.logits_BQK[0, :, 0].float()
    scores_S = scores_S.masked_fill(outputs.proposals.padding_BQ[0], float("-inf"))
    ranked = scores_S.sort(descending=True).values[: sum(outputs.groups) + 1]
    return float((ranked[:-1] - ranked[1:]).min()) if len(ranked) > 1 else float("inf")


def evaluate_each(
    cfg: DictConfig,
    detectors: Mapping[str, Detector],
    output: str | os.PathLike[str],
    *,
    class_names: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """Run the config's test loader and evaluator over each detector.

    Args:
        cfg: with ``dataloader``. detectors: by name.
        class_names: of the detectors, in the order of their labels; the data's are matched with them by name.
        output: folder; each detector's results go to a folder of its name.

    Returns:
        name -> metric of boxes -> value.

    Raises:
        ValueError: the config has no evaluator, or its data cannot be read or have other classes.
    """
    if cfg.dataloader.get("evaluator") is None:
        raise ValueError("the config has no dataloader.evaluator: nothing tells the AP")
    name = prepare_data(cfg, train=False).test_name
    follow_class_order([name], class_names, source="the detector")
    results = {}
    for name, detector in detectors.items():
        cfg.dataloader.evaluator.output_dir = str(Path(output) / name)
        loader = instantiate(cfg.dataloader.test)
        found = inference_on_dataset(detector, loader, instantiate(cfg.dataloader.evaluator))
        print_csv_format(found)
        results[name] = dict(found["bbox"])
    return results
