"""What a process settles before it builds anything: device, logs, seed, and a record of what runs where."""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import logging
import sys
from pathlib import Path

import detectron2
import torch
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

import detrex_ops
from detrex.config.validation import ConfigError
from detrex.distributed.devices import resolve_device
from detrex.inference.optimizations import keep_freed_memory

from .run_folder import make_folder

__all__ = ["check_batch_size", "describe_host", "setup_run"]

logger = logging.getLogger(__name__)

_LOGGERS = ("detrex", "detrex_ops", "projects", "detectron2", "fvcore")


def check_batch_size(cfg: DictConfig) -> None:
    """Raise ConfigError if the batch cannot be shared evenly by the processes, or has fewer images than parts."""
    total, world = cfg.dataloader.train.total_batch_size, comm.get_world_size()
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise ConfigError(f"dataloader.train.total_batch_size={total!r} must be a positive number of images, or auto")
    if total % world:
        below, above = total // world * world, -(-total // world) * world
        choice = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"dataloader.train.total_batch_size={total} cannot be shared by {world} processes; use {choice}"
        )
    if cfg.train.accumulate > total // world:
        raise ConfigError(
            f"train.accumulate={cfg.train.accumulate}, but a process has {total // world} images of each batch: use at "
            "most as many parts"
        )


def describe_host() -> str:
    """Which detectron2 runs beneath: ours (lite) or the upstream one, its version and place.

    Raises:
        ConfigError: a detectron2 that is too old (v0.6 of 2021, whose version string says the same as later ones).
    """
    if "lr_factor_func" not in inspect.signature(get_default_optimizer_params).parameters:
        raise ConfigError(
            "this detectron2 is too old (2021); install detectron2_lite or a detectron2 from its main branch of 2023 on"
        )
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = getattr(detectron2, "__version__", "unknown")
    kind = "lite" if "lite" in f"{version}{getattr(detectron2, '__version__', '')}" else "upstream"
    return f"detectron2 {version} ({kind}) at {Path(detectron2.__file__).parent}"


def setup_run(cfg: DictConfig, args: argparse.Namespace) -> torch.device:
    """Create the output folder, open the logs, seed everything and log what runs where.

    Args:
        cfg: the config. args: the command line, logged.

    Returns:
        The device of this process.
    """
    device = resolve_device(cfg.train.device)
    _open_logs(cfg.train.output_dir)
    logger.info("Process %d of %d on %s", comm.get_rank(), comm.get_world_size(), _describe_device(device))
    logger.info("Host: %s", describe_host())
    logger.info("Operator backend: %s", detrex_ops.backend(device))
    logger.info("Command line: %s", " ".join(sys.argv))
    logger.info("Arguments: %s", args)
    logger.info("Environment:\n%s", collect_env_info())
    # A different, but repeatable, stream of random numbers in every process.
    seed_all_rng(None if cfg.train.seed < 0 else cfg.train.seed + comm.get_rank())
    if device.type == "cpu" and cfg.train.optimizations.keep_freed_memory:
        keep_freed_memory()
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark
    if cfg.train.float32_precision:
        torch.set_float32_matmul_precision(cfg.train.float32_precision)
        torch.backends.cudnn.allow_tf32 = cfg.train.float32_precision != "highest"
    return device


def _open_logs(output_dir: str) -> None:
    make_folder(output_dir)
    # An earlier run in this process left its handlers; setup_logger would add to them and double every line.
    for name in _LOGGERS:
        logging.getLogger(name).handlers.clear()
    getattr(setup_logger, "cache_clear", lambda: None)()
    for name in _LOGGERS:
        setup_logger(output_dir, distributed_rank=comm.get_rank(), name=name)


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
