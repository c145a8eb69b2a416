"""Memory of the largest batch: its peak (``train.dry_run``) and the size that fits (``total_batch_size=auto``)."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex.checkpoint import read_values
from detrex.config.instantiation import build
from detrex.config.validation import ConfigError
from detrex.data.loader import TrainLoader
from detrex.distributed.errors import MachineError
from detrex.inference.optimizations import TRAINING_OPTIMIZATIONS, TrainingOptimizations, parse_optimizations
from detrex.utils.random_state import random_state, set_random_state

from .faults import explain
from .gradients import accumulate_gradients, autocast, check_parts, split_batch
from .metrics import PhaseTimer
from .run_folder import checkpoint_to_resume

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["dry_run", "largest_sample", "max_rss_mb", "report_dry_run", "resolve_batch_size"]

logger = logging.getLogger(__name__)

Batch = Sequence[Mapping[str, Any]]
Size = tuple[int, int]  # (height, width) in pixels

GPU_SHARE = 0.9  # of its memory; the rest is for what varies from step to step
OPTIMIZER_STATES = 2  # tensors as large as a parameter that AdamW keeps of it
_KEEP_SIZE = (T.RandomFlip, T.RandomBrightness, T.RandomContrast, T.RandomSaturation, T.RandomLighting)


# ------------------------------------------------------------------------------------------------------- peak memory
def max_rss_mb() -> float:
    """The most MiB of memory that this process has held."""
    if resource is None:
        return 0.0
    # Kibibytes on Linux, bytes on macOS.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak; on a CPU only Linux can."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    """Bytes since :func:`_reset_peak_memory`: on a GPU what torch reserved there, on a CPU those of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    return int(max_rss_mb() * 2**20)


# ----------------------------------------------------------------------------------------------------------- dry run
def report_dry_run(
    model: nn.Module,
    batch: Batch,
    *,
    parts: int,
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> None:
    """Run :func:`dry_run` before the first step and log its peak memory.

    Raises:
        MachineError: out of memory; says what to change.
    """
    start = time.perf_counter()
    try:
        peak = dry_run(model, batch, parts=parts, context=context, device=device)
    except (RuntimeError, MemoryError) as e:
        explained = explain(e, "the dry run before the first step", batch, device=device)
        if explained is None:
            raise
        raise explained from e
    height, width = batch[0]["image"].shape[-2:]
    logger.info(
        "Dry run: %d images of %d x %d pixels (height x width) with %d objects each%s: peak memory %.0f MiB of %s, in "
        "%.1f s",
        len(batch),
        height,
        width,
        len(batch[0]["instances"]),
        f", in {parts} parts" if parts > 1 else "",
        peak / 2**20,
        device if device.type == "cuda" else "the process",
        time.perf_counter() - start,
    )


def dry_run(
    model: nn.Module,
    batch: Batch,
    *,
    parts: int,
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> int:
    """Forward and backward pass of a batch, beside as much memory as AdamW takes; nothing of the run changes.

    Weights, buffers and random generators are restored; gradients are dropped.

    Args:
        model: in training mode.
        batch: what to work on.
        parts: see ``train.accumulate``.
        context: around the forward pass, such as autocast.
        device: of the model.

    Returns:
        Peak memory in bytes: on a GPU what torch reserved there, on a CPU that of the process.
    """
    module, extra = (model.module, 1) if isinstance(model, DistributedDataParallel) else (model, 0)
    trained = [p for p in module.parameters() if p.requires_grad]
    with _unchanged(module):
        _reset_peak_memory(device)
        # Of a resumed run the states are there already; they are few beside the activations.
        states = [torch.ones_like(p) for p in trained for _ in range(OPTIMIZER_STATES + extra)]
        accumulate_gradients(
            module, split_batch(batch, parts), context=context, scale=lambda loss: loss, timer=PhaseTimer(device)
        )
        peak = _peak_memory(device)
        del states
    return peak


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    generators = random_state()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        set_random_state(generators)


# ------------------------------------------------------------------------------------------------- the largest image
def largest_sample(loader: TrainLoader) -> dict[str, Any]:
    """A sample of noise, as large as a padded batch can be, with as many boxes as the fullest image has.

    Args:
        loader: of the training data, whose mapper is a ``DetrDatasetMapper``.

    Raises:
        ConfigError: another loader or mapper, whose sizes are not known.
    """
    if not isinstance(loader, TrainLoader) or not hasattr(loader.mapper, "chains"):
        raise ConfigError(
            "train.dry_run and total_batch_size=auto must know the sizes of images: they need "
            "detrex.data.build_train_loader with detrex.data.DetrDatasetMapper in dataloader.train"
        )
    sizes, boxes = set(), 0
    for i in range(len(loader.records)):
        record = loader.records[i]
        sizes.add((record["height"], record["width"]))
        boxes = max(boxes, sum(not x.get("iscrowd", 0) for x in record.get("annotations", ())))
    height, width = largest_size(sizes, loader.mapper.chains, by_orientation=loader.aspect_ratio_grouping)
    return _noise(height, width, boxes)


def largest_size(sizes: Iterable[Size], chains: Sequence[Sequence[T.Augmentation]], *, by_orientation: bool) -> Size:
    """(height, width) that no padded batch exceeds; where a chain crops at random, few reach it.

    Args:
        sizes: of the images.
        chains: of augmentations, one of which an image takes.
        by_orientation: whether images that are wider than high are never in one batch with the others.
    """
    groups: dict[bool, set[Size]] = {}
    for size in sizes:
        groups.setdefault(by_orientation and size[1] > size[0], set()).add(size)
    padded = []
    for group in groups.values():
        results = {size for chain in chains for start in group for size in _results(start, chain)}
        padded.append((max(height for height, _ in results), max(width for _, width in results)))
    for augmentation in {type(a): a for chain in chains for a in chain}.values():
        if not isinstance(augmentation, (T.ResizeShortestEdge, T.Resize, T.RandomCrop, *_KEEP_SIZE)):
            logger.warning("%s is taken to keep the size of an image", type(augmentation).__name__)
    return max(padded, key=lambda size: size[0] * size[1])


def _results(size: Size, chain: Sequence[T.Augmentation]) -> set[Size]:
    """The extreme sizes among those that a chain makes of an image."""
    sizes = {size}
    for augmentation in chain:
        sizes = {result for size in sizes for result in _extremes(size, augmentation)}
    return sizes


def _extremes(size: Size, augmentation: T.Augmentation) -> Iterable[Size]:
    height, width = size
    if isinstance(augmentation, T.ResizeShortestEdge):
        lengths = augmentation.short_edge_length
        for length in (min(lengths), max(lengths)):
            resized = augmentation.get_output_shape(height, width, length, augmentation.max_size)
            yield resized if length else size
    elif isinstance(augmentation, T.Resize):
        yield tuple(augmentation.shape)
    elif isinstance(augmentation, T.RandomCrop):
        heights, widths = zip(*_crops(size, augmentation.crop_type, augmentation.crop_size), strict=True)
        yield from ((h, w) for h in heights for w in widths)
    else:
        yield size


def _crops(size: Size, kind: str, crop: tuple[float, float]) -> tuple[Size, Size]:
    """The least and the greatest (height, width) of a crop."""
    height, width = size
    if kind == "absolute":
        return ((min(crop[0], height), min(crop[1], width)),) * 2
    if kind == "absolute_range":
        least, most = crop
        return (min(least, height), min(least, width)), (min(most, height), min(most, width))
    low, high = ((int(height * crop[0]) + d, int(width * crop[1]) + d) for d in (0, 1))  # rounded either way
    return (low, high) if kind == "relative" else (low, size)


def _noise(height: int, width: int, num_boxes: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num_boxes, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + 0.4 * torch.rand(num_boxes, 2, generator=generator)], 1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
    instances.gt_classes = torch.zeros(num_boxes, dtype=torch.int64)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    name = "the largest that the config can produce"
    return {"image": image, "instances": instances, "height": height, "width": width, "file_name": name}


# ------------------------------------------------------------------------------------------------ the batch that fits
def resolve_batch_size(cfg: DictConfig, device: torch.device, *, resume: bool) -> None:
    """Replace ``dataloader.train.total_batch_size=auto`` by a number, in place; a resumed run keeps its own.

    Args:
        cfg: the config, its data prepared.
        device: of this process.
        resume: as on the command line.

    Raises:
        ConfigError: several processes; a run to resume whose checkpoint has no batch size.
        MachineError: not even one image (one per part, see ``train.accumulate``) fits.
    """
    node = cfg.dataloader.train
    if node.total_batch_size != "auto":
        return
    if comm.get_world_size() > 1:
        raise ConfigError(
            "dataloader.train.total_batch_size=auto is for one process: find the number with one, then give it times "
            f"{comm.get_world_size()}"
        )
    size = _batch_size_of_the_run(cfg.train.output_dir) if resume else None
    how = "that of the run that is resumed"
    if size is None:
        generators = random_state()
        size, how = _find(cfg, device)
        set_random_state(generators)  # the run is the one that was given the number
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    node.total_batch_size = size
    logger.info("dataloader.train.total_batch_size: auto -> %d, %s", size, how)


def _batch_size_of_the_run(folder: str) -> int | None:
    path = checkpoint_to_resume(folder)
    if path is None:
        return None
    try:
        return read_values(path)["trainer"]["processes"][0]["loader"]["total_batch_size"]
    except (KeyError, IndexError) as e:
        raise ConfigError(f"{path} does not say its batch size: give dataloader.train.total_batch_size a number") from e


def _find(cfg: DictConfig, device: torch.device) -> tuple[int, str]:
    options, least = cfg.train.auto_batch_size, cfg.train.accumulate
    if not options.max >= least or options.cpu_memory_gib <= 0:
        raise ConfigError(
            f"train.auto_batch_size: max={options.max} must be at least train.accumulate={least}, and "
            f"cpu_memory_gib={options.cpu_memory_gib} above 0"
        )
    cfg.dataloader.train.total_batch_size = 1
    sample = largest_sample(build(cfg, "dataloader.train"))
    model = build(cfg, "model").to(device).train()
    check_parts(model, least)
    names = parse_optimizations(cfg.train.optimizations.training, TRAINING_OPTIMIZATIONS)
    TrainingOptimizations(model, names, onednn=cfg.train.optimizations.onednn_linear)
    shape = " x ".join(map(str, sample["image"].shape[1:]))
    amp = cfg.train.amp.dtype if cfg.train.amp.enabled else None

    def measure(size: int) -> int:
        peak = dry_run(model, [sample] * size, parts=least, context=lambda: autocast(device, amp), device=device)
        logger.info("A batch of %d, %s pixels: %.0f MiB", size, shape, peak / 2**20)
        return peak

    most = options.max // least  # images of a part, on which memory depends
    if device.type == "cuda":
        size = least * largest_that_fits(lambda images: _fits(measure, images * least, device), most)
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        where = f"{GPU_SHARE:.0%} of {total:.1f} GiB of {device}"
    else:
        size = least * largest_by_memory(lambda images: measure(images * least), options.cpu_memory_gib * 2**30, most)
        where = f"the {options.cpu_memory_gib} GiB of train.auto_batch_size.cpu_memory_gib"
    if not size:
        raise MachineError(
            f"total_batch_size=auto: not even a batch of {least} fits into {where}. Smaller images in "
            "dataloader.train.mapper, train.amp.enabled=true or model.transformer.encoder.use_checkpoint=true need less"
        )
    limit = ", the most that train.auto_batch_size.max allows" if size == most * least else ""
    return size, f"the largest that fits into {where}{limit}"


def _fits(measure: Callable[[int], int], size: int, device: torch.device) -> bool:
    torch.cuda.set_per_process_memory_fraction(GPU_SHARE, device)
    try:
        measure(size)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    return True


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to ``most`` that fits, by doubling and then halving the gap; 0 if none."""
    good, bad, size = 0, most + 1, 1
    while bad - good > 1:
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * size, most) if bad > most else (good + bad) // 2
    return good


def largest_by_memory(measure: Callable[[int], int], budget: float, most: int) -> int:
    """The largest number from 1 to ``most`` whose peak in bytes is within a budget, by three measurements; 0 if none.

    Memory is taken to grow by as much with every image. One and two images say how much, and a third measurement, of
    the number that this gives, whether it is so; if it takes more, the line through it decides. Larger ones follow
    smaller ones, for a process may keep the memory that it has had.
    """
    one = (1, measure(1))
    if one[1] > budget or most == 1:
        return int(one[1] <= budget)
    two = (2, measure(2))
    if two[1] > budget:
        return 1
    number = _at(budget, one, two, most)
    if number == 2:
        return 2
    third = (number, measure(number))
    return number if third[1] <= budget else max(2, _at(budget, two, third, number - 1))


def _at(budget: float, low: tuple[int, int], high: tuple[int, int], most: int) -> int:
    """The number, at most ``most``, that fits a budget on the line through two pairs (number, bytes)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return most if slope <= 0 else min(most, int(high[0] + (budget - high[1]) / slope))
