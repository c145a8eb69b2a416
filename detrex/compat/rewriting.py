"""From the sections of an original config to ours. What a value cannot become is an error that names its key."""

from __future__ import annotations

import os

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf

from detrex.config import ConfigError, get_config
from detrex.config.tree import child_of, parameters_of
from detrex.data import DetrDatasetMapper, build_coco_evaluator
from detrex.solver.param_groups import LRFactors

from .lr_factors import factors_by_name, original_names
from .model import Call, rewrite_model
from .names import NAMES

__all__ = ["rewrite"]


def rewrite(cfg: DictConfig, notes: list[str]) -> DictConfig:
    """An original config, loaded and with its overrides, as one of ours.

    Args:
        cfg: the original.
        notes: gets a line for people on each thing that differs from the original.

    Raises:
        ConfigError: what cannot be rewritten, by its key.
    """
    new = OmegaConf.create({key: child_of(cfg, key) for key in cfg}, flags={"allow_objects": True})
    new.model = rewrite_model(cfg, notes)
    _data(cfg, new)
    _train(cfg, new, notes)
    factors = cfg.optimizer.get("params", {}).get("lr_factor_func")
    if callable(factors):
        names = original_names(new.model, refine=cfg.model.with_box_refine, two_stage=cfg.model.as_two_stage)
        new.optimizer.params.lr_factor_func = L(LRFactors)(factors=factors_by_name(factors, names))
    new.lr_multiplier = _schedule(new.lr_multiplier)
    return new


def _data(cfg: DictConfig, new: DictConfig) -> None:
    for part in ("train", "test"):
        path = f"dataloader.{part}.mapper"
        node = OmegaConf.select(cfg, path)
        if isinstance(node, DictConfig) and node.get("_target_") is NAMES["DetrDatasetMapper"]:
            old = Call(cfg, path, "DetrDatasetMapper")
            old.only(mask_on=False)
            new.dataloader[part].mapper = L(DetrDatasetMapper)(
                augmentation=child_of(node, "augmentation"),
                augmentation_with_crop=child_of(node, "augmentation_with_crop"),
                is_train=old["is_train"],
                img_format=old["img_format"],
            )
    train = new.dataloader.train
    if train._target_ is build_detection_train_loader:
        ours = get_config("common/data/coco_detr.py").dataloader.train
        if train.keys() - parameters_of(ours).keys() <= {"_target_"}:
            train._target_ = ours._target_
    node = cfg.dataloader.get("evaluator")
    if node is not None and node.get("_target_") is COCOEvaluator:
        if node.get("tasks") not in (None, ("bbox",), ["bbox"]):
            raise ConfigError(f"dataloader.evaluator.tasks={node.tasks} has no counterpart here; only (bbox,) has")
        keys = ("dataset_name", "output_dir", "max_dets_per_image", "use_fast_impl")
        arguments = {key: child_of(node, key) for key in keys if key in node.keys()}
        new.dataloader.evaluator = L(build_coco_evaluator)(**arguments)


def _train(cfg: DictConfig, new: DictConfig, notes: list[str]) -> None:
    train = new.train
    ema = train.model_ema
    if ema.enabled:
        train.ema.enabled, train.ema.decay = True, ema.decay
        if ema.use_ema_weights_for_eval_only:
            notes.append("train.model_ema.use_ema_weights_for_eval_only: model_*.pth always hold the trained weights, "
                         "averaged ones are in model_*_ema.pth")  # fmt: skip
    if train.wandb.enabled:
        notes.append("train.wandb: metrics go to metrics.json and TensorBoard alone")
    del train.model_ema, train.wandb
    if train.device == "cuda":
        train.device = "auto"  # the same where there is a GPU
    if train.amp.enabled:
        train.amp.dtype = "float16"
    if train.fast_dev_run.enabled:
        notes.append(
            f"train.fast_dev_run: {train.fast_dev_run.max_iter} iterations and an evaluation of "
            f"{train.fast_dev_run.eval_batches} batches; 20 and two whole evaluations in the original"
        )
    if cfg.model._target_ is NAMES["HDeformableDETR"]:
        notes.append("the optimizer is the config's; the original's projects/h_deformable_detr/train_net.py ignores it "
                     "and takes what is `official` in configs/common/optim.py here")  # fmt: skip
    path = str(train.init_checkpoint)
    if path and "://" not in path and not os.path.exists(path):
        entries = get_config("common/models/backbones.py").values()
        urls = [e.checkpoint for e in entries if os.path.basename(e.checkpoint) == os.path.basename(path)]
        if urls:
            train.init_checkpoint = urls[0]
            notes.append(f"train.init_checkpoint: there is no {path}; taking {urls[0]}")


def _schedule(node: DictConfig) -> DictConfig:
    """Our schedule that drops at the same fraction of the run, where there is one."""
    steps = node.get("scheduler")
    if node.get("_target_") is not WarmupParamScheduler or node.get("warmup_length"):
        return node
    if steps._target_ is not MultiStepParamScheduler or steps.get("num_updates") is not None:
        return node
    for ours in get_config("common/coco_schedule.py").values():
        same = ours.scheduler
        if same._target_ is MultiStepParamScheduler and list(same["values"]) == list(steps["values"]):
            fraction = same.milestones[0] / same.num_updates
            if len(steps.milestones) == 2 and fraction == steps.milestones[0] / steps.milestones[1]:
                return ours
    return node
