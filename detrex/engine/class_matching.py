"""The classes of a run's data follow those of the checkpoint that it evaluates, resumes or starts from."""

from __future__ import annotations

import re
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from detrex.checkpoint import class_names, read_checkpoint, resolve_checkpoint
from detrex.data import DataInfo
from detrex.data.class_names import follow_class_order, known_classes, same_classes

from .run_folder import checkpoint_to_resume

__all__ = ["follow_checkpoint_classes"]

_CLASSIFIER = re.compile(r"class_embed|cls_branches")  # of every layout that is read


def follow_checkpoint_classes(cfg: DictConfig, data: DataInfo, *, resume: bool, eval_only: bool) -> DataInfo:
    """Match the classes of the data with those of the checkpoint by name.

    The same names in another order: the data set gets the checkpoint's class ids. Other names are an error where the
    checkpoint is evaluated or resumed; where a new run starts from it, the checkpointer keeps the shared ones.
    Every process must call it.

    Args:
        cfg: of the run, its data prepared.
        data: what ``prepare_data`` returned.
        resume: whether the run continues, if it has a checkpoint. eval_only: whether it only evaluates.

    Returns:
        ``data`` with the class names in the order of the class ids that hold from now on.

    Raises:
        CheckpointError: the checkpoint cannot be read. DatasetError: other classes, in an evaluation or a resumed run.
    """
    path, fine_tuning = cfg.train.init_checkpoint, not eval_only
    if resume and not eval_only and (newest := checkpoint_to_resume(cfg.train.output_dir)):
        path, fine_tuning = newest, False
    if not path:
        return data
    checkpoint = read_checkpoint(resolve_checkpoint(path))
    if fine_tuning and not any(_CLASSIFIER.search(name) for name in checkpoint["model"]):
        return data  # a backbone
    trained = class_names(checkpoint)
    if fine_tuning and trained and not same_classes(trained, known_classes(data.test_name)):
        return data
    names = [OmegaConf.select(cfg, "dataloader.test.dataset.names")]
    if not eval_only:
        names.append(OmegaConf.select(cfg, "dataloader.train.dataset.names"))
    registered = [name for value in names for name in ([value] if isinstance(value, str) else value)]
    follow_class_order(registered, trained, checkpoint=str(path))
    return replace(data, class_names=known_classes(data.test_name))
