"""The training loop: any model that takes ``list[dict]`` and returns weighted losses or instances."""

from .evaluation import evaluate
from .train import config_from_args, do_eval, do_train, main
from .trainer import Trainer

__all__ = ["Trainer", "config_from_args", "do_eval", "do_train", "evaluate", "main"]
