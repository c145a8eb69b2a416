"""The common parts of training scripts: arguments, set-up, writers, distribution of the model."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap the model in DistributedDataParallel if there are several processes; else return it as it is.

    Args:
        model: on the device of this process, which may be the CPU.
        fp16_compression: send gradients in half precision.
        kwargs: further arguments of DistributedDataParallel. By default ``device_ids`` is the GPU of this process.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    kwargs.setdefault("device_ids", [comm.get_local_rank()] if on_gpu else None)
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(state=None, hook=fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line of training scripts.

    Args:
        epilog: text below the help; by default examples.
    """
    script = sys.argv[0]
    examples = f"""
Examples:

Train on one machine with 8 GPUs:
    $ {script} --num-gpus 8 --config-file cfg.py

Change the config:
    $ {script} --config-file cfg.py train.init_checkpoint=/path/to/weights.pth optimizer.lr=1e-4

Train on two machines:
    (machine 0)$ {script} --num-machines 2 --machine-rank 0 --dist-url tcp://<machine 0>:<port> [...]
    (machine 1)$ {script} --num-machines 2 --machine-rank 1 --dist-url tcp://<machine 0>:<port> [...]
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to the config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="index of this machine, from 0")
    # One port per user: a job whose processes survived is found by the port being taken.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="where the processes meet, see torch.distributed.init_process_group; 'auto' takes a free port",
    )
    parser.add_argument(
        "opts", default=None, nargs=argparse.REMAINDER, help="changes of the config: path.key=value, at the end"
    )
    return parser


def default_setup(cfg: DictConfig, args: argparse.Namespace | Mapping[str, Any]) -> None:
    """Prepare this process for a job, and log what is needed to repeat it.

    Creates ``train.output_dir``; logs to ``log.txt`` in it (``log.txt.rankN`` for other ranks) the environment, the
    arguments and the config file; saves the config as ``config.yaml``; seeds all generators with ``train.seed`` + rank
    (below 0 or absent: at random); applies ``train.cudnn_benchmark`` (not with ``--eval-only``) and
    ``train.float32_precision`` ("highest", "high" or "medium").

    Args:
        cfg: the config.
        args: the command line.
    """
    output_dir = _first(cfg, "output_dir", "train.output_dir")
    rank = comm.get_rank()
    if output_dir and comm.is_main_process():
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    options = args if isinstance(args, Mapping) else vars(args)
    config_file = options.get("config_file")
    if config_file:
        with PathManager.open(config_file, "r") as f:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, f.read())
    if output_dir and comm.is_main_process():
        path = os.path.join(output_dir, "config.yaml")
        LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)

    seed = _first(cfg, "seed", "train.seed")
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    if not options.get("eval_only"):
        # Benchmarking pays off in training only: evaluation sees every image size once.
        torch.backends.cudnn.benchmark = bool(_first(cfg, "cudnn_benchmark", "train.cudnn_benchmark"))
    precision = _first(cfg, "float32_precision", "train.float32_precision")
    if precision:
        _set_float32_precision(precision, logger)


def _first(cfg: DictConfig, *keys: str) -> Any:
    """The value of the first key that is there, or None."""
    return next((value for key in keys if (value := OmegaConf.select(cfg, key)) is not None), None)


def _set_float32_precision(precision: str, logger: logging.Logger) -> None:
    if not torch.cuda.is_available():
        return
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    logger.info("Precision of float32 products: %s", precision)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to a TensorBoard file in ``output_dir``, which is created.

    Args:
        output_dir: the folder.
        max_iter: number of iterations, for the ETA.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
