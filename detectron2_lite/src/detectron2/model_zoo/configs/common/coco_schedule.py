"""Schedules in units of 90,000 iterations at batch size 16: 1.44 million images, or 12 epochs of COCO."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def default_X_scheduler(num_X):
    """The multiplier of a schedule of ``num_X`` units, warmed up over 1000 iterations.

    The rate drops twice, by 10 each: up to two units at 2/3 and 8/9, and in longer ones 60,000 and 20,000 iterations
    before the end (Rethinking ImageNet Pre-training, sec. 4).
    """
    length = num_X * 90000
    milestones = [60000, 80000, 90000] if num_X <= 2 else [length - 60000, length - 20000, length]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_length=1000 / length,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_1x = default_X_scheduler(1)
lr_multiplier_2x = default_X_scheduler(2)
lr_multiplier_3x = default_X_scheduler(3)
lr_multiplier_6x = default_X_scheduler(6)
lr_multiplier_9x = default_X_scheduler(9)
