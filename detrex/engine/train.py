"""A run: config in, checkpoints and metrics out."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import detrex.compat  # noqa: F401 - lets configs of the original detrex load
from detrex.checkpoint import Checkpointer, checkpoint_metadata
from detrex.config import ConfigError, load_run_config
from detrex.config.instantiation import build
from detrex.config.serialization import resolved_yaml
from detrex.data import DataInfo, DatasetError, category_ids, prepare_data
from detrex.distributed.parallel import shard, whole_copy
from detrex.inference.optimizations import (
    ONEDNN_CHOICES,
    OPTIMIZATIONS,
    TRAINING_OPTIMIZATIONS,
    TrainingOptimizations,
    parse_optimizations,
)
from detrex.solver.lr_schedule import Schedule, describe_lr, resolve_durations
from detrex.solver.param_groups import build_optimizer, freeze, scale_lr
from detrex.utils.regular_files import is_machine_fault

from .batch_size import largest_sample, report_dry_run, resolve_batch_size
from .class_matching import follow_checkpoint_classes
from .evaluation import check_metric, evaluate, finite_scalars
from .hooks import Evaluation, build_hooks
from .run_config import check_batch_size, setup_run
from .run_folder import RunFolder, read_run_id
from .trainer import Trainer

__all__ = ["config_from_args", "do_eval", "do_train", "main"]

logger = logging.getLogger(__name__)


def config_from_args(args: argparse.Namespace) -> DictConfig:
    """The config that a command line describes, checked.

    Raises:
        ConfigError: anything wrong with the file, an override, a key, or a value that is still to be given (``???``).
    """
    if not args.config_file:
        raise ConfigError("--config-file is required: the path of a run's config, or the name of an installed one")
    cfg = load_run_config(args.config_file, args.opts)
    if args.num_gpus == 0:
        cfg.train.device = "cpu"
    _check_values(cfg)
    if args.eval_only and not cfg.train.init_checkpoint:
        raise ConfigError("--eval-only needs weights: add train.init_checkpoint=/path/to/model_final.pth")
    if cfg.train.fast_dev_run.enabled:
        _rehearse(cfg)
    evaluator = cfg.dataloader.get("evaluator")
    if evaluator is not None and "output_dir" in evaluator and evaluator.output_dir is None:
        evaluator.output_dir = "${train.output_dir}"
    return cfg


def _check_values(cfg: DictConfig) -> None:
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(f"{e.full_key or 'config'}: {e.msg or e}") from e
    if missing:
        raise ConfigError(f"these values must be given on the command line or in the config: {', '.join(missing)}")
    for key, available in (("training", TRAINING_OPTIMIZATIONS), ("evaluation", OPTIMIZATIONS)):
        try:
            parse_optimizations(cfg.train.optimizations[key], available)
        except ValueError as e:
            raise ConfigError(f"train.optimizations.{key}: {e}") from e
    if cfg.train.optimizations.onednn_linear not in ONEDNN_CHOICES:
        raise ConfigError(
            f"train.optimizations.onednn_linear={cfg.train.optimizations.onednn_linear!r} must be one of "
            f"{', '.join(ONEDNN_CHOICES)}"
        )


def _rehearse(cfg: DictConfig) -> None:
    steps = cfg.train.fast_dev_run.max_iter
    cfg.train.max_iter, cfg.train.eval_period, cfg.train.log_period = steps, 0, 1
    cfg.train.warmup, cfg.train.checkpointer.period = 0, 0
    cfg.train.report = False


def main(args: argparse.Namespace, cfg: DictConfig | None = None) -> dict[str, Any]:
    """Train or evaluate as one process of a job.

    Args:
        args: of ``detectron2.engine.default_argument_parser``: ``config_file``, ``opts``, ``resume``, ``eval_only``,
            ``num_gpus``.
        cfg: of :func:`config_from_args`, where it was called already: a config file is executed once in a process.

    Returns:
        The last evaluation's results: task -> metric -> value.

    Raises:
        ConfigError, CheckpointError, BrokenImagesError: wrong input. FloatingPointError: a loss or gradient that is not
            finite. MachineError, OSError: memory, a data worker or the disk failed.
        Preempted: (SystemExit) stopped by a signal, and saved.
    """
    cfg = config_from_args(args) if cfg is None else cfg
    if args.eval_only:
        device, _ = _prepare(cfg, args)
        logger.info("Config (not saved):\n%s", resolved_yaml(cfg))
        return do_eval(cfg, device=device)
    with RunFolder(cfg.train.output_dir) as folder:
        device, data = _prepare(cfg, args)
        resolve_batch_size(cfg, device, resume=args.resume)
        folder.propose(cfg)
        logger.info("Config (config.yaml):\n%s", resolved_yaml(cfg))
        metadata = checkpoint_metadata(cfg, class_names=data.class_names, category_ids=category_ids(data.test_name))
        size = data.num_train_images
        results = do_train(cfg, device=device, num_images=size, folder=folder, metadata=metadata, resume=args.resume)
        if cfg.train.report and comm.is_main_process():
            _report(cfg.train.output_dir)
        return results


def _prepare(cfg: DictConfig, args: argparse.Namespace) -> tuple[torch.device, DataInfo]:
    """Open the logs, and check batch, data and classes."""
    device = setup_run(cfg, args)
    for note in OmegaConf.select(cfg, "rewritten.notes") or ():
        logger.warning("%s: %s", args.config_file, note)
    if not args.eval_only and cfg.dataloader.train.total_batch_size != "auto":
        check_batch_size(cfg)
    try:
        data = prepare_data(cfg, train=not args.eval_only)
    except (ValueError, OSError) as e:
        if is_machine_fault(e):
            raise
        raise ConfigError(f"data: {e}") from e
    try:
        data = follow_checkpoint_classes(cfg, data, resume=args.resume, eval_only=args.eval_only)
    except DatasetError as e:
        raise ConfigError(f"classes: {e}") from e
    if not args.eval_only:
        check_metric(cfg)
    return device, data


def _report(folder: str) -> None:
    """Write the page of a run that has ended; whatever goes wrong, the run has its results."""
    from detrex.report import write_report  # with all that draws

    start = time.perf_counter()
    try:
        write_report(folder)
    except Exception:
        logger.exception("The report cannot be written, the run is complete; to try again: detrex report %s", folder)
    else:
        logger.info("Report: %s, in %.1f s", os.path.join(folder, "report.html"), time.perf_counter() - start)


def do_eval(cfg: DictConfig, *, device: torch.device) -> dict[str, Any]:
    """Evaluate ``train.init_checkpoint``; a file that does not fit the complete model is an error."""
    model = build(cfg, "model").to(device)
    rest = Checkpointer(model, strict=cfg.train.checkpoint.strict).load(cfg.train.init_checkpoint)
    return evaluate(cfg, model, onednn=rest.get("optimizations", {}).get("onednn_linear"))


def do_train(
    cfg: DictConfig,
    *,
    device: torch.device,
    num_images: int,
    folder: RunFolder,
    metadata: dict[str, Any] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train ``cfg.model`` and evaluate it.

    Args:
        cfg: root keys model, dataloader, optimizer, lr_multiplier, train; durations in ``train`` become ints.
        device: of this process.
        num_images: size of the training set.
        folder: of the run, ``train.output_dir``.
        metadata: kept in the checkpoints.
        resume: continue from ``train.output_dir`` if it has a checkpoint.

    Returns:
        The last evaluation's results; {} if nothing was left to do.
    """
    schedule = resolve_durations(cfg, num_images)
    scheduler = build(cfg, "lr_multiplier")
    scale_lr(cfg)
    logger.info(describe_lr(scheduler, schedule, cfg.optimizer.lr))

    model = build(cfg, "model").to(device)
    _load_pretrained(cfg, model, resume=resume)
    options = cfg.train.optimizations
    names = parse_optimizations(options.training, TRAINING_OPTIMIZATIONS)
    optimizations = TrainingOptimizations(model, names, onednn=options.onednn_linear)
    frozen = freeze(model, cfg.train.freeze)
    _log_size(model)
    if cfg.train.fsdp.enabled:
        _check_fsdp(cfg)
        shard(model, cfg.train.fsdp.units, device=device)  # before the optimizer, whose parameters these become
    optimizer = build_optimizer(cfg, model)
    loader = build(cfg, "dataloader.train")
    if not cfg.train.fsdp.enabled:
        model = _distribute(model, device, cfg.train.ddp)
    trainer = Trainer(
        model,
        loader,
        optimizer,
        device=device,
        clip_grad=cfg.train.clip_grad.params if cfg.train.clip_grad.enabled else None,
        amp_dtype=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        accumulate=cfg.train.accumulate,
        log_period=schedule.log_period,
        max_skips=cfg.train.max_skips,
        output_dir=cfg.train.output_dir,
        frozen=frozen,
    )
    checkpointer = Checkpointer(
        model,
        cfg.train.output_dir,
        strict=cfg.train.checkpoint.strict,
        reinit=cfg.train.checkpoint.reinit,
        metadata=metadata,
        run_id=read_run_id(cfg.train.output_dir) if resume else "",
        trainer=trainer,
        optimizations=optimizations,
    )
    last: dict[str, Any] = {}

    def evaluate_and_remember(evaluated: nn.Module) -> Mapping[str, float]:
        last.clear()
        if cfg.train.fsdp.enabled:
            evaluated = whole_copy(evaluated, lambda: build(cfg, "model").to(device))
        last.update(evaluate(cfg, evaluated, onednn=optimizations.onednn))
        return finite_scalars(last)

    hooks = build_hooks(
        cfg, schedule=schedule, scheduler=scheduler, checkpointer=checkpointer, evaluate=evaluate_and_remember
    )
    trainer.register_hooks(hooks)
    start_iter, run_id = _resume_or_load(checkpointer, trainer, cfg.train.init_checkpoint, resume=resume)
    evaluated = max(hook.evaluated for hook in hooks if isinstance(hook, Evaluation))
    if _nothing_is_left(start_iter, schedule, evaluated=evaluated):
        return {}
    checkpointer.run_id = folder.begin(fresh=start_iter == 0, run_id=run_id)
    if cfg.train.dry_run:
        report_dry_run(
            model,
            [largest_sample(loader)] * (cfg.dataloader.train.total_batch_size // comm.get_world_size()),
            parts=cfg.train.accumulate,
            context=trainer.autocast,
            device=device,
        )
    trainer.train(start_iter, schedule.max_iter)
    return last


def _load_pretrained(cfg: DictConfig, model: nn.Module, *, resume: bool) -> None:
    """Give parts of the model, such as ``TimmBackbone``, the weights that they name, in a run that starts from nothing.

    Raises:
        ConfigError: weights that cannot be fetched.
    """
    if cfg.train.init_checkpoint or (resume and Checkpointer(model, cfg.train.output_dir).has_checkpoint()):
        return
    for name, module in model.named_modules():
        if hasattr(module, "load_pretrained_weights"):
            try:
                module.load_pretrained_weights()
            except ValueError as e:
                raise ConfigError(f"model.{name}: {e}") from e


def _nothing_is_left(start_iter: int, schedule: Schedule, *, evaluated: int) -> bool:
    """Whether a run that is resumed is complete, and says so.

    Raises:
        ConfigError: it is longer than it should be.
    """
    if start_iter > schedule.max_iter:
        raise ConfigError(
            f"train.max_iter={schedule.max_iter} iterations, but the run to resume has {start_iter} already: nothing "
            "is left to train. Give a larger train.max_iter, or evaluate the run with --eval-only"
        )
    complete = start_iter == schedule.max_iter and evaluated == start_iter - 1
    if complete:
        logger.info(
            "Nothing is left to do: all %d iterations are trained and evaluated. To train on, raise train.max_iter",
            schedule.max_iter,
        )
    return complete


def _resume_or_load(checkpointer: Checkpointer, trainer: Trainer, path: str, *, resume: bool) -> tuple[int, str]:
    """Load what the run starts from; the first iteration to do, and the id of the run."""
    resuming = resume and checkpointer.has_checkpoint()
    if resume and not resuming:
        logger.info("--resume: %s has no checkpoint yet, starting from the beginning", checkpointer.save_dir)
    configured = [group["lr"] for group in trainer.optimizer.param_groups]
    rest = checkpointer.resume_or_load(path, resume=resume)
    if not resuming:
        return 0, ""
    restored = [group.get("initial_lr", group["lr"]) for group in trainer.optimizer.param_groups]
    if configured != restored:
        logger.warning(
            "The config's learning rates %s are ignored: a resumed run keeps its own, %s. To change them, start a new "
            "run with train.init_checkpoint",
            configured,
            restored,
        )
    return trainer.iter + 1, str(rest.get("run_id", ""))


def _check_fsdp(cfg: DictConfig) -> None:
    if cfg.train.amp.enabled and cfg.train.amp.dtype == "float16":
        raise ConfigError('train.fsdp: loss scaling is not supported, use train.amp.dtype="bfloat16"')
    for key, used in {"ema": cfg.train.ema.enabled, "dry_run": cfg.train.dry_run}.items():
        if used:
            raise ConfigError(f"train.fsdp and train.{key} do not go together")


def _distribute(model: nn.Module, device: torch.device, ddp: DictConfig) -> nn.Module:
    device_ids = [device.index] if device.type == "cuda" else None
    return create_ddp_model(model, device_ids=device_ids, **ddp)


def _log_size(model: nn.Module) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("Model %s: %.2f M parameters, %.2f M trained", type(model).__name__, total / 1e6, trained / 1e6)
