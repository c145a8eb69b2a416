"""Everything about the data that must be known, and checked, before a model is built."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from detrex.data.checks.findings import DatasetError, Finding, raise_errors, summarize
from detrex.data.formats.coco_json import CocoData, write_coco_json, write_json
from detrex.data.formats.reader import open_data
from detrex.data.formats.source import DataSource, SplitSource
from detrex.utils.regular_files import is_machine_fault
from detrex.utils.text import count_of, printable, short

from .class_names import describe_difference, reorder_classes, same_classes
from .coco_metrics import COCO_MAX_DETS
from .dataset_check import SPLIT_ORDER, CheckedData, check_source, different_classes
from .evaluation import ground_truth

RECIPE_NUM_CLASSES = 80  # what the COCO recipes say; any other number in a config is somebody's decision
QUERY_COUNT_KEY = "model.transformer.queries.groups.one2one"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataInfo:
    """What the rest of the program needs to know of the data.

    Attributes:
        train_name: name in the catalog; of several, the first.
        test_name: likewise.
        class_names: in the order of the contiguous class ids; empty if the catalog does not know them.
        num_train_images: images in one epoch; None when the training data was not looked at.
    """

    train_name: str
    test_name: str
    class_names: tuple[str, ...]
    num_train_images: int | None


def prepare_data(cfg: DictConfig, *, train: bool = True) -> DataInfo:
    """Register and check the data sets of a config; set ``cfg.model.num_classes`` from them. Idempotent.

    With a node ``dataloader.data`` (``configs/common/data/custom.py``) the data set is read, checked and registered,
    after a validation split was made where it has none. What is converted or made is written to
    ``<train.output_dir>/data``.
    Without one, the names in ``dataloader.{train,test}.dataset`` are looked up in the catalog, and their classes are
    compared with each other and with the model.

    Args:
        cfg: the whole config, overrides applied, nothing instantiated yet.
        train: False leaves the training data alone, as for an evaluation on a machine that has only the validation set.

    Raises:
        DatasetError: any finding that is an error (``findings.KINDS``); a path that is not set; splits or class names
            that the data set does not have; a ``model.num_classes`` that contradicts the data; a name that the catalog
            does not have.
    """
    if OmegaConf.select(cfg, "dataloader.data") is not None:
        return _prepare_custom(cfg, train=train)
    return _prepare_registered(cfg, train=train)


def register_coco_data(name: str, data: CocoData, *, image_root: str, json_file: str | None = None) -> None:
    """Put a checked data set into detectron2's catalogs, replacing an earlier one of that name.

    Args:
        name: name in the catalogs.
        data: what ``read_coco_json`` returned.
        image_root: folder of the images, for the metadata.
        json_file: file for other evaluators; None takes the one that was read.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: list(data.records))
    MetadataCatalog.get(name).set(
        json_file=json_file or data.json_file,
        image_root=image_root,
        evaluator_type="coco",
        coco_data=data,  # what is evaluated against: as it was checked, whatever happens to the file
        thing_classes=list(data.class_names),
        thing_dataset_id_to_contiguous_id={category_id: i for i, category_id in enumerate(data.category_ids)},
    )


def category_ids(name: str) -> tuple[int, ...]:
    """The data set's own category ids in the order of the contiguous ones; () if the catalog does not know them."""
    ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or {}
    return tuple(sorted(ids, key=ids.get))


# ------------------------------------------------------------------------------------------------ dataloader.data
def _prepare_custom(cfg: DictConfig, *, train: bool) -> DataInfo:
    node = cfg.dataloader.data
    train_splits, eval_split = _switches(node)
    source = open_data(node, train=train)
    checked = check_source(source)
    names = {split: f"{node.name}_{split}" for split in (*(train_splits if train else ()), eval_split)}
    raise_errors(node.get("root") or "dataloader.data", [f for f in checked.findings if f.split in ("", *names)])
    _check_splits(checked, names, eval_split)
    if source.made_split is not None:
        _log_made_split(cfg, source)
    for note in source.notes:
        logger.info("%s: %s", source.root, note)
    for split, name in names.items():
        data = checked.splits[split]
        _log_data(name, data, [f for f in checked.findings if f.split == split])
        json_file = _json_for_coco_api(cfg, name, data, source.splits[split])
        register_coco_data(name, data, image_root=source.splits[split].image_root, json_file=json_file)
    class_names = _order_classes(node, names.values(), checked.splits[eval_split].class_names)
    _warn_shared_files(checked, train_splits if train else (), eval_split)
    _set_num_classes(cfg, class_names, checked.splits[eval_split].json_file)
    _warn_crowded(cfg, {name: checked.splits[split] for split, name in names.items()})
    _set_names(cfg, "test", [names[eval_split]])
    if not train:
        return DataInfo(f"{node.name}_{train_splits[0]}", names[eval_split], class_names, None)
    _set_names(cfg, "train", [names[split] for split in train_splits])
    num_images = sum(len(checked.splits[split].records) for split in train_splits)
    return DataInfo(names[train_splits[0]], names[eval_split], class_names, num_images)


def _switches(node: DictConfig) -> tuple[tuple[str, ...], str]:
    """The splits that are trained on, and the one that is evaluated."""
    defaults = {"train_splits": "train", "eval_split": "val"}
    splits = {key: _names(node.get(key) or default) for key, default in defaults.items()}
    for key, names in splits.items():
        if len(set(names)) < len(names) or not set(names) <= set(SPLIT_ORDER):
            raise DatasetError(f"dataloader.data.{key}={node[key]}: give {' or '.join(SPLIT_ORDER)}, each once at most")
    if len(splits["eval_split"]) > 1:
        raise DatasetError(f"dataloader.data.eval_split={node.eval_split}: one split can be evaluated at a time")
    return splits["train_splits"], splits["eval_split"][0]


def _check_splits(checked: CheckedData, used: Iterable[str], eval_split: str) -> None:
    """Whether the splits are there, and have the classes of the one that is evaluated."""
    source = checked.source
    for split in used:
        if split not in checked.splits:
            key = "eval_split" if split == eval_split else "train_splits"
            found = "; ".join([", ".join(checked.splits), *(note for note in source.notes if split in note)])
            raise DatasetError(
                f"dataloader.data.{key} names {split}, but {source.root} has only {found}. Name another split, or give "
                "its file as dataloader.data.train_json or val_json"
            )
    for split in used:
        raise_errors(source.root, different_classes(checked.splits[split], checked.splits[eval_split]))


def _order_classes(node: DictConfig, dataset_names: Iterable[str], found: tuple[str, ...]) -> tuple[str, ...]:
    """Number the classes as ``dataloader.data.class_names`` says, or as found in the data."""
    wanted = tuple(node.get("class_names") or found)
    if not same_classes(wanted, found):
        difference = describe_difference(wanted, found, what="list")
        raise DatasetError(f"dataloader.data.class_names must be the data's own names in another order; {difference}")
    if wanted != found:
        for name in dataset_names:
            reorder_classes(name, wanted)
    return wanted


def _set_names(cfg: DictConfig, part: str, names: Sequence[str]) -> None:
    """Have a loader read these data sets, unless it names others than those of ``dataloader.data``."""
    key = f"dataloader.{part}.dataset.names"
    own = {f"{cfg.dataloader.data.name}_{split}" for split in SPLIT_ORDER}
    current = _names(OmegaConf.select(cfg, key) or ())
    if current and current != tuple(names) and own.issuperset(current):
        OmegaConf.update(cfg, key, names[0] if len(names) == 1 else list(names))


def _log_data(name: str, data: CocoData, findings: Sequence[Finding]) -> None:
    counts = ", ".join(f"{n} {c}" for n, c in zip(data.class_names, data.count_per_class(), strict=True))
    logger.info("%s: %d images from %s; boxes: %s", name, len(data.records), data.json_file, printable(counts))
    for line in summarize(findings):
        logger.warning("%s: %s", name, line)


def _warn_shared_files(checked: CheckedData, train_splits: Sequence[str], eval_split: str) -> None:
    """detrex check-data compares pictures; here only names are, so that training starts at once."""
    evaluated = {r["file_name"] for r in checked.splits[eval_split].records}
    shared = sorted(evaluated.intersection(r["file_name"] for s in train_splits for r in checked.splits[s].records))
    if shared:
        logger.warning("%s trained on and evaluated, for example %s: the AP includes what the model memorizes",
                       f"{count_of(len(shared), 'image')} {'is' if len(shared) == 1 else 'are'}",
                       printable(shared[0]))  # fmt: skip


def _log_made_split(cfg: DictConfig, source: DataSource) -> None:
    split = source.made_split
    path = os.path.join(_data_folder(cfg, source.root), "split.json")
    write_json(split, path)
    logger.info("%s has no validation split: %d images train, %d validate, made with dataloader.data.split_seed=%d and "
                "written to %s", source.root, len(split["train"]), len(split["val"]), split["seed"], path)  # fmt: skip


def _data_folder(cfg: DictConfig, root: str) -> str:
    """Where files about the data go: into the run's folder, never into the data set's."""
    output_dir = OmegaConf.select(cfg, "train.output_dir")
    if output_dir:
        return os.path.join(str(output_dir), "data")
    tag = hashlib.sha1(os.path.abspath(root).encode(errors="surrogateescape")).hexdigest()[:8]
    return os.path.join(tempfile.gettempdir(), "detrex_data", tag)


def _json_for_coco_api(cfg: DictConfig, name: str, data: CocoData, source: SplitSource) -> str:
    """The file that pycocotools evaluates against: the given one, or a copy where that is flawed or no COCO json."""
    if source.is_coco_file and not data.repairs:
        return data.json_file
    copy = os.path.join(_data_folder(cfg, data.json_file), f"{name}.json")
    write_coco_json(data, copy)
    if data.repairs:
        logger.warning("%s: pycocotools would misread %s; evaluating against the repaired copy %s",
                       data.json_file, ", ".join(data.repairs), copy)  # fmt: skip
    return copy


def _set_num_classes(cfg: DictConfig, class_names: Sequence[str], source: str) -> None:
    """``cfg.model.num_classes`` is the one owner of the class count; the data decide it."""
    found, current = len(class_names), OmegaConf.select(cfg, "model.num_classes")
    if current not in (None, found, RECIPE_NUM_CLASSES):
        names = printable(", ".join(class_names[:10]) + (", ..." if found > 10 else ""))
        raise DatasetError(
            f"model.num_classes={current}, but {source} defines {count_of(found, 'category')} ({names}): leave "
            "model.num_classes out, it is read from the data"
        )
    if current != found and "model" in cfg:
        logger.info("model.num_classes: %s -> %d, read from %s", current, found, source)
        OmegaConf.update(cfg, "model.num_classes", found, force_add=True)


def _warn_crowded(cfg: DictConfig, data_sets: dict[str, CocoData | None]) -> None:
    num_queries = OmegaConf.select(cfg, QUERY_COUNT_KEY)
    max_dets = OmegaConf.select(cfg, "dataloader.evaluator.max_dets_per_image") or COCO_MAX_DETS
    for name, data in data_sets.items():
        if data is None:
            continue
        if num_queries is not None and data.max_objects > num_queries:
            logger.warning("%s: up to %d objects on one image, but the model has %d queries; raise %s",
                           name, data.max_objects, num_queries, QUERY_COUNT_KEY)  # fmt: skip
        if data.max_objects > max_dets:
            logger.warning("%s: up to %d objects on one image, but the evaluation counts %d detections; raise "
                           "dataloader.evaluator.max_dets_per_image",
                           name, data.max_objects, max_dets)  # fmt: skip


# -------------------------------------------------------------------------------------------- registered data sets
def _prepare_registered(cfg: DictConfig, *, train: bool) -> DataInfo:
    train_names = _names(OmegaConf.select(cfg, "dataloader.train.dataset.names"))
    test_names = _names(OmegaConf.select(cfg, "dataloader.test.dataset.names"))
    used = tuple(dict.fromkeys((*(train_names if train else ()), *test_names)))
    for name in used:
        if name not in DatasetCatalog:
            raise DatasetError(f"data set {name!r} is not registered; known: {', '.join(sorted(DatasetCatalog))}")
        _check_file(name)
    num_images = {name: _check_registered(name) for name in used}
    classes = tuple(MetadataCatalog.get(test_names[0]).get("thing_classes") or ())
    for name in used:
        _match_classes(name, test_names[0])
    if classes and OmegaConf.select(cfg, "model.num_classes") is not None:
        _set_num_classes(cfg, classes, f"the data set {test_names[0]!r}")
    total = sum(num_images[name] for name in train_names) if train else None
    return DataInfo(train_names[0], test_names[0], classes, total)


def _check_registered(name: str) -> int:
    """Number of images of a registered data set, whose class ids are compared with its class names.

    The json of ``coco_2017`` is not parsed: its classes are known, and half a gigabyte is read a second time as it is.
    """
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is not None and name.startswith("coco_2017"):
        with open(json_file, "rb") as f:
            return f.read().count(b'"file_name"')  # once per image and nowhere else in an instances file
    records = _load(name)
    names, to_model = metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id")
    if names is None:
        return len(records)
    if to_model is None and json_file is not None:  # the model's classes are then the file's own ids
        to_model = {item["id"]: item["id"] for item in ground_truth(name)["categories"]}
    ids = set(range(len(names)) if to_model is None else to_model.values())
    if isinstance(records, list):
        ids.update(a["category_id"] for r in records for a in r.get("annotations", ()))
    if ids != set(range(len(names))):
        classes = f"{count_of(len(names), 'class')} ({printable(', '.join(names[:10]))})"
        raise DatasetError(
            f"data set {name!r} has {classes}, but the class ids {short(sorted(ids))}: they must be 0 to "
            f"{len(names) - 1}. Mend thing_classes or "
            "thing_dataset_id_to_contiguous_id in its metadata, or the category_id of its annotations"
        )
    return len(records)


def _load(name: str) -> Any:
    json_file = MetadataCatalog.get(name).get("json_file")
    try:
        return DatasetCatalog.get(name)
    except (OSError, ValueError, KeyError, AssertionError) as e:
        if json_file is None or is_machine_fault(e):  # the traceback of a function of the user's own helps
            raise
        raise DatasetError(
            f"{json_file}: detectron2 cannot read the data set {name!r}: {type(e).__name__}: {e}. Mend the file, or "
            "train on it with configs/common/data/custom.py, which names each damaged record"
        ) from e


def _match_classes(name: str, reference: str) -> None:
    """Give a registered data set the class ids of another one with the same class names."""
    found, wanted = (tuple(MetadataCatalog.get(n).get("thing_classes") or ()) for n in (name, reference))
    if not found or not wanted or found == wanted:
        return
    if not same_classes(found, wanted):
        difference = describe_difference(found, wanted, what=f"data set {name!r}")
        raise DatasetError(f"{name!r} has other classes than the data to evaluate, {reference!r}: {difference}")
    logger.warning("%s has the classes of %s in another order; they are matched by name", name, reference)
    reorder_classes(name, wanted)


def _names(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else tuple(value)


def _check_file(name: str) -> None:
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is not None and not os.path.isfile(json_file):
        raise DatasetError(
            f"{json_file}: no such file (data set {name!r}); set the environment variable DETECTRON2_DATASETS to the "
            "folder that holds coco/annotations, coco/train2017 and coco/val2017, or train on data of your own with "
            "configs/common/data/custom.py"
        )
