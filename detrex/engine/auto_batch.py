"""``dataloader.train.total_batch_size=auto``: the largest batch that fits, found by dry runs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from detrex.checkpoint import Checkpointer, read_checkpoint
from detrex.config.instantiation import build
from detrex.config.validation import ConfigError
from detrex.data.random_state import random_state, set_random_state
from detrex.distributed.errors import MachineError
from detrex.inference.optimizations import TRAINING_OPTIMIZATIONS, TrainingOptimizations, parse_optimizations

from .dry_run import dry_run
from .gradients import autocast, check_parts
from .largest_batch import largest_sample

__all__ = ["largest_by_memory", "largest_that_fits", "resolve_batch_size"]

logger = logging.getLogger(__name__)

GPU_SHARE = 0.9  # of its memory; the rest is for what varies from step to step


def resolve_batch_size(cfg: DictConfig, device: torch.device, *, resume: bool) -> None:
    """Replace ``dataloader.train.total_batch_size=auto`` by a number, in place; a resumed run keeps its own.

    Args:
        cfg: its data are prepared. device: of this process. resume: as on the command line.

    Raises:
        ConfigError: several processes; a run to be resumed whose checkpoint has no batch size.
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
    checkpointer = Checkpointer(nn.Module(), folder)
    if not checkpointer.has_checkpoint():
        return None
    path = checkpointer.newest_sound()
    try:
        return read_checkpoint(path)["trainer"]["processes"][0]["loader"]["total_batch_size"]
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
    TrainingOptimizations(model, parse_optimizations(cfg.train.optimizations.training, TRAINING_OPTIMIZATIONS))
    shape = " x ".join(map(str, sample["image"].shape[1:]))
    amp = cfg.train.amp.dtype if cfg.train.amp.enabled else None

    def measure(size: int) -> int:
        peak = dry_run(model, [sample] * size, parts=least, context=lambda: autocast(device, amp), device=device)
        logger.info("A batch of %d, %s pixels: %.0f MiB", size, shape, peak / 2**20)
        return peak

    most = options.max // least  # images of a part, on which memory depends
    if device.type == "cuda":
        size = least * largest_that_fits(lambda images: _fits(measure, images * least, device), most)
        where = (
            f"{GPU_SHARE:.0%} of {torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB of {device}"
        )
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
    """The number, at most ``most``, that a budget suffices for on the line through two pairs (number, bytes)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return most if slope <= 0 else min(most, int(high[0] + (budget - high[1]) / slope))
