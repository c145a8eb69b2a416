"""Training and evaluation of any model that takes ``list[dict]`` and returns weighted losses or instances."""

from .evaluation import evaluate
from .launch import build_parser, run
from .optim import LRFactors, build_optimizer
from .schedule import resolve_durations, with_warmup
from .train import config_from_args, do_eval, do_train, main
from .trainer import Trainer

__all__ = [
    "LRFactors",
    "Trainer",
    "build_optimizer",
    "build_parser",
    "config_from_args",
    "do_eval",
    "do_train",
    "evaluate",
    "main",
    "resolve_durations",
    "run",
    "with_warmup",
]
