"""The shared configs of the original detrex, ``get_config("common/...")``, under its keys and with its values."""

from __future__ import annotations

import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf

from detrex.config import ConfigError, get_config

from .names import NAMES

__all__ = ["ITERS_PER_EPOCH", "common_config"]

ITERS_PER_EPOCH = 7500  # of COCO with batch 16, as the original counts


def common_config(name: str) -> DictConfig:
    """A fresh copy of a shared config.

    Raises:
        ConfigError: one that is not known here.
    """
    makers = {
        "common/train.py": _train,
        "common/optim.py": _optim,
        "common/coco_schedule.py": _coco_schedule,
        "common/data/coco_detr.py": _coco_detr,
    }
    if name not in makers:
        raise ConfigError(
            f"get_config({name!r}): of the original's shared configs {', '.join(makers)} are known here; others are "
            "found if the config lies in a checkout of the original"
        )
    return OmegaConf.create(makers[name](), flags={"allow_objects": True})


def _train() -> dict:
    """Ours with the original's defaults, so that overrides may set keys of either."""
    train = get_config("common/train.py").train
    changes = {
        "max_iter": 90000,
        "eval_period": 5000,
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "clip_grad": {"enabled": False},
        "device": "cuda",
        "wandb": {"enabled": False, "params": {}},
        "model_ema": {"enabled": False, "decay": 0.999, "device": "", "use_ema_weights_for_eval_only": False},
    }
    return {"train": OmegaConf.merge(train, changes)}


def _optim() -> dict:
    params = L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0)
    return {
        "AdamW": L(torch.optim.AdamW)(params=params, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
        "SGD": L(torch.optim.SGD)(
            params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.02, momentum=0.9, weight_decay=1e-4
        ),
    }


def _multi_step(values: list[float], milestones: list[int], warmup_length: float) -> DictConfig:
    """A schedule that ends at the last of ``milestones``, after a warm-up of this fraction of the run."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=values, milestones=milestones),
        warmup_length=warmup_length,
        warmup_method="linear",
        warmup_factor=0.001,
    )


def _coco_schedule() -> dict:
    schedules = {}
    for epochs, drop in ((50, 40), (36, 30), (24, 20), (12, 11)):
        milestones = [drop * ITERS_PER_EPOCH, epochs * ITERS_PER_EPOCH]
        schedules[f"lr_multiplier_{epochs}ep"] = _multi_step([1.0, 0.1], milestones, 0.0)
        if epochs in (50, 12):
            schedules[f"lr_multiplier_{epochs}ep_warmup"] = _multi_step([1.0, 0.1], milestones, 1e-3 / epochs)
    for n in (1, 2, 3, 6, 9):  # detectron2's "1x" to "9x"
        end = n * 90000
        milestones = [60000, 80000, 90000] if n <= 2 else [end - 60000, end - 20000, end]
        schedules[f"lr_multiplier_{n}x"] = _multi_step([1.0, 0.1, 0.01], milestones, 1000 / end)
    return schedules


def _coco_detr() -> dict:
    dataloader = get_config("common/data/coco_detr.py").dataloader
    dataloader.train = L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=dataloader.train.mapper,
        total_batch_size=16,
        num_workers=4,
    )
    for mapper in (dataloader.train.mapper, dataloader.test.mapper):
        mapper._target_, mapper.mask_on = NAMES["DetrDatasetMapper"], False
    dataloader.test.mapper.augmentation_with_crop = None
    dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
    return {"dataloader": dataloader}
