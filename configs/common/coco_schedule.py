"""LR schedules as fractions of the run: shortening ``train.max_iter`` keeps every drop.

The names give the epochs that the paper's run takes; pair them with ``train.max_iter`` of the same length.
``train.warmup`` (a duration) puts a linear warm-up in front of any of them.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler, MultiStepParamScheduler

from detrex.solver.lr_schedule import with_warmup


def _schedule(scheduler):
    return L(with_warmup)(
        scheduler=scheduler, warmup="${train.warmup}", max_iter="${train.max_iter}", warmup_factor=0.001
    )


def _multi_step(epochs: int, drop: int):
    return _schedule(L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[drop], num_updates=epochs))


lr_multiplier_12ep = _multi_step(12, 11)
lr_multiplier_24ep = _multi_step(24, 20)
lr_multiplier_36ep = _multi_step(36, 30)
lr_multiplier_50ep = _multi_step(50, 40)

lr_multiplier_cosine = _schedule(L(CosineParamScheduler)(start_value=1.0, end_value=0.01))
lr_multiplier_constant = _schedule(L(LinearParamScheduler)(start_value=1.0, end_value=1.0))
