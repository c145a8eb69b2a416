"""Classes of a checkpoint and of a data set, matched by name and never by position."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from detrex.data.checks.findings import DatasetError
from detrex.utils.text import printable

__all__ = [
    "check_same_classes",
    "describe_difference",
    "follow_class_order",
    "ids_by_name",
    "known_classes",
    "reorder_classes",
    "same_classes",
]

MAX_NAMES = 20  # of a list in a message

logger = logging.getLogger(__name__)


def known_classes(dataset_name: str) -> tuple[str, ...]:
    """Class names of a registered data set in the order of its class ids; () where nothing tells them."""
    if MetadataCatalog.get(dataset_name).get("thing_classes") is None and dataset_name in DatasetCatalog:
        DatasetCatalog.get(dataset_name)  # reading a COCO json fills them in
    return tuple(MetadataCatalog.get(dataset_name).get("thing_classes") or ())


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two lists hold the same class names, in any order."""
    return Counter(first) == Counter(second)


def describe_difference(other: Sequence[str], data: Sequence[str], *, what: str = "checkpoint") -> str:
    """Two lists of class names, a checkpoint's (or as ``what`` says) and the data's, and what only one of them has."""
    only_other, only_data = Counter(other) - Counter(data), Counter(data) - Counter(other)
    parts = [
        f"only in the {where}: {_listing(list(names.elements()))}"
        for where, names in ((what, only_other), ("data", only_data))
        if names
    ]
    return "; ".join([*parts, f"{what}: {_listing(other)}", f"data: {_listing(data)}"])


def check_same_classes(
    trained: Sequence[str], data: Sequence[str], *, source: str, dataset_name: str, what: str = "checkpoint"
) -> None:
    """Refuse to use a checkpoint on other classes than its own, or to evaluate on others than are trained.

    Args:
        trained: class names of the checkpoint or training data. data: those of the data set.
        source: of ``trained``, for the message. dataset_name: in the catalog, for the message.
        what: ``source`` is, for the message.

    Raises:
        DatasetError: the names differ, or repeat in another order; the message has both lists.
    """
    if list(trained) == list(data):
        return
    if not same_classes(trained, data):
        difference = describe_difference(trained, data, what=what)
        hint = "Use data of its classes" + (
            ", or fine-tune: start a new run with train.init_checkpoint" if what == "checkpoint" else ""
        )
        raise DatasetError(f"{source} has other classes than {dataset_name}: {difference}. {hint}")
    repeated = [name for name, count in Counter(data).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{dataset_name} repeats class names ({_listing(repeated)}) and has them in another order than "
            f"{source}: classes are matched by name, so each needs a name of its own"
        )


def ids_by_name(evaluated: Mapping[int, str], data: Mapping[int, str], *, source: str) -> dict[int, int]:
    """Category id of an evaluation -> category id that the data set has for the same class name.

    Args:
        evaluated: category id -> name at the evaluation. data: the same of the data set now.
        source: file of the evaluation, for the message.

    Raises:
        DatasetError: the names differ; the message has both lists.
    """
    if evaluated == data:
        return {category_id: category_id for category_id in data}
    then, now = list(evaluated.values()), list(data.values())
    if not same_classes(then, now) or len(set(now)) < len(now):
        difference = describe_difference(then, now, what="evaluation")
        raise DatasetError(f"{source} is of other classes than the data: {difference}. Evaluate again")
    by_name = {name: category_id for category_id, name in data.items()}
    return {category_id: by_name[name] for category_id, name in evaluated.items()}


def follow_class_order(
    dataset_names: Sequence[str], trained: Sequence[str], *, source: str, what: str = "checkpoint"
) -> None:
    """Give registered data sets the class ids of a checkpoint; weights, optimizer and logits stay as they are.

    A data set whose names are not known is left alone, as is everything where the checkpoint has no names.

    Args:
        dataset_names: in the catalogs. trained: class names of the checkpoint, in the order of its class ids.
        source: path of the checkpoint or name of the data set that they are of. what: it is, for messages.

    Raises:
        DatasetError: a data set has other classes.
    """
    if not trained:
        logger.info("%s holds no class names: its classes are taken in the order of the data's", source)
        return
    for name in dict.fromkeys(dataset_names):
        data = known_classes(name)
        if not data:
            continue
        check_same_classes(trained, data, source=source, dataset_name=name, what=what)
        if list(trained) != list(data):
            reorder_classes(name, trained)
            logger.warning(
                "%s has the classes of %s in another order; they are matched by name, in the order of the %s: %s",
                name, source, what, _listing(trained),
            )  # fmt: skip


def reorder_classes(dataset_name: str, class_names: Sequence[str]) -> None:
    """Number the classes of a registered data set in another order.

    Args:
        dataset_name: in the catalogs; its records and metadata are replaced.
        class_names: its own names in the order of the new class ids.
    """
    loaded = DatasetCatalog.get(dataset_name)  # first: reading a data set may fill in its metadata
    known = MetadataCatalog.get(dataset_name).as_dict()
    position = {name: i for i, name in enumerate(class_names)}
    new_id = [position[name] for name in known["thing_classes"]]
    old_ids = known.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(new_id))}
    known["thing_dataset_id_to_contiguous_id"] = {category_id: new_id[i] for category_id, i in old_ids.items()}
    for key in ("thing_classes", "thing_colors"):
        if known.get(key):
            pairs = sorted(zip(new_id, known[key], strict=True), key=lambda pair: pair[0])
            known[key] = [value for _, value in pairs]
    records = [_renumbered(record, new_id) for record in loaded]
    DatasetCatalog.remove(dataset_name)
    MetadataCatalog.remove(dataset_name)
    DatasetCatalog.register(dataset_name, lambda: list(records))
    MetadataCatalog.get(dataset_name).set(**{key: value for key, value in known.items() if key != "name"})


def _renumbered(record: dict, new_id: Sequence[int]) -> dict:
    if "annotations" not in record:
        return record
    annotations = [{**a, "category_id": new_id[a["category_id"]]} for a in record["annotations"]]
    return {**record, "annotations": annotations}


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(printable(str(name)) for name in names[:MAX_NAMES])
    return shown + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
