"""The classes of a run's data follow those of the checkpoint that it evaluates, resumes or starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from detrex.checkpoint import class_names, read_values, resolve_checkpoint
from detrex.data import DataInfo
from detrex.data.class_names import follow_class_order, known_classes, same_classes

from .run_folder import checkpoint_to_resume

__all__ = ["follow_checkpoint_classes"]


def follow_checkpoint_classes(cfg: DictConfig, data: DataInfo, *, resume: bool, eval_only: bool) -> DataInfo:
    """Match the classes of the data with those of the checkpoint by name.

    The same names in another order: the data set gets the checkpoint's class ids. Other names are an error where the
    checkpoint is evaluated or resumed; where a new run starts from it, the checkpointer keeps the shared ones, and all
    data sets follow the first that trains. Every process must call it.

    Args:
        cfg: of the run, its data prepared.
        data: what ``prepare_data`` returned.
        resume: whether the run continues, if it has a checkpoint. eval_only: whether it only evaluates.

    Returns:
        ``data`` with the class names in the order of the class ids that hold from now on.

    Raises:
        CheckpointError: the checkpoint cannot be read. DatasetError: other classes, in an evaluation or a resumed run.
    """
    test_names = _names(OmegaConf.select(cfg, "dataloader.test.dataset.names"))
    train_names = [] if eval_only else _names(OmegaConf.select(cfg, "dataloader.train.dataset.names"))
    path, fine_tuning = cfg.train.init_checkpoint, not eval_only
    if resume and not eval_only and (newest := checkpoint_to_resume(cfg.train.output_dir)):
        path, fine_tuning = newest, False
    trained = class_names(read_values(resolve_checkpoint(path))) if path else ()
    own = known_classes(train_names[0]) if train_names else ()
    if not fine_tuning or (trained and same_classes(trained, own)):
        follow_class_order([*train_names, *test_names], trained, source=str(path))
    elif own:
        follow_class_order([*train_names, *test_names], own, source=train_names[0], what="training data")
    return replace(data, class_names=known_classes(data.test_name))


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
