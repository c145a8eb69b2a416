"""Everything about the data that must be known, and checked, before a model is built."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from .coco_json import CocoData, DatasetError, read_coco_json, write_coco_json

RECIPE_NUM_CLASSES = 80  # what the COCO recipes say; any other number in a config is somebody's decision
QUERY_COUNT_KEY = "model.transformer.queries.groups.one2one"
COCO_MAX_DETS = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataInfo:
    """What the rest of the program needs to know of the data.

    Attributes:
        train_name: name in the catalog.
        test_name: name in the catalog; of several, the first.
        class_names: in the order of the contiguous class ids; empty if the catalog does not know them.
        num_train_images: images in one epoch; None when the training data was not looked at.
    """

    train_name: str
    test_name: str
    class_names: tuple[str, ...]
    num_train_images: int | None


def prepare_data(cfg: DictConfig, *, train: bool = True) -> DataInfo:
    """Register and check the data sets of a config; set ``cfg.model.num_classes`` from them. Idempotent.

    With a node ``dataloader.data`` (``configs/common/data/custom.py``) the two jsons are read, checked and registered.
    Without one, the names in ``dataloader.{train,test}.dataset`` are looked up in the catalog.

    Args:
        cfg: the whole config, overrides applied, nothing instantiated yet.
        train: False leaves the training data alone, as for an evaluation on a machine that has only the validation set.

    Raises:
        DatasetError: see ``read_coco_json``; a path that is not set; train and val with different categories; a
            ``model.num_classes`` that contradicts the data; a name that the catalog does not have.
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
        json_file: file to evaluate against; None takes the one that was read.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: list(data.records))
    MetadataCatalog.get(name).set(
        json_file=json_file or data.json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(data.class_names),
        thing_dataset_id_to_contiguous_id={category_id: i for i, category_id in enumerate(data.category_ids)},
    )


def _prepare_custom(cfg: DictConfig, *, train: bool) -> DataInfo:
    node = cfg.dataloader.data
    image_root = _required(node, "image_root")
    val_root = node.get("val_image_root") or image_root
    val = read_coco_json(_required(node, "val_json"), val_root)
    train_data = read_coco_json(_required(node, "train_json"), image_root) if train else None
    train_name, test_name = f"{node.name}_train", f"{node.name}_val"
    if train_data is not None:
        _check_same_classes(train_data, val)
        _log_data(train_name, train_data)
        _warn_unused_classes(train_data)
        register_coco_data(train_name, train_data, image_root=image_root)
    _log_data(test_name, val)
    register_coco_data(test_name, val, image_root=val_root, json_file=_evaluation_json(cfg, test_name, val))
    _set_num_classes(cfg, val)
    _warn_crowded(cfg, {train_name: train_data, test_name: val})
    num_images = None if train_data is None else len(train_data.records)
    return DataInfo(train_name, test_name, val.class_names, num_images)


def _required(node: DictConfig, key: str) -> str:
    value = node.get(key)
    if not value:
        raise DatasetError(f"dataloader.data.{key} is not set: add dataloader.data.{key}=PATH to the command")
    return os.path.expanduser(str(value))


def _check_same_classes(train: CocoData, val: CocoData) -> None:
    if train.class_names == val.class_names:
        return
    only_train = [n for n in train.class_names if n not in val.class_names]
    only_val = [n for n in val.class_names if n not in train.class_names]
    if only_train or only_val:
        detail = f"only in the first: {only_train}; only in the second: {only_val}"
    else:
        detail = f"the same names in another order: {list(train.class_names)} and {list(val.class_names)}"
    raise DatasetError(f"{train.json_file} and {val.json_file} have different categories: {detail}")


def _log_data(name: str, data: CocoData) -> None:
    counts = ", ".join(f"{n} {c}" for n, c in zip(data.class_names, data.count_per_class(), strict=True))
    logger.info("%s: %d images from %s; boxes: %s", name, len(data.records), data.json_file, counts)
    empty = sum(not r["annotations"] for r in data.records)
    if empty:
        logger.info("%s: %d images have no boxes; they are used as background", name, empty)
    for reason, count in sorted(data.dropped.items()):
        logger.warning("%s: dropped %d degenerate box(es): %s", name, count, reason)


def _warn_unused_classes(data: CocoData) -> None:
    counts = zip(data.class_names, data.count_per_class(), strict=True)
    unused = [name for name, count in counts if not count]
    if unused:
        logger.warning("%s: no boxes of %s; such a class cannot be learnt", data.json_file, ", ".join(unused))


def _evaluation_json(cfg: DictConfig, name: str, data: CocoData) -> str:
    """The file that pycocotools evaluates against: the given one, or a repaired copy where it would go wrong."""
    if not data.repairs:
        return data.json_file
    source = os.path.abspath(data.json_file)
    tag = hashlib.sha1(f"{source}:{os.stat(source).st_mtime_ns}".encode()).hexdigest()[:8]
    folder = OmegaConf.select(cfg, "train.output_dir") or os.path.join(tempfile.gettempdir(), "detrex_data")
    copy = os.path.join(str(folder), "data", f"{name}_{tag}.json")
    write_coco_json(data, copy)
    logger.warning("%s: pycocotools would misread %s; evaluating against the repaired copy %s",
                   data.json_file, ", ".join(data.repairs), copy)  # fmt: skip
    return copy


def _set_num_classes(cfg: DictConfig, data: CocoData) -> None:
    """``cfg.model.num_classes`` is the one owner of the class count; the data decide it."""
    found, current = len(data.class_names), OmegaConf.select(cfg, "model.num_classes")
    if current not in (None, found, RECIPE_NUM_CLASSES):
        raise DatasetError(
            f"model.num_classes={current}, but {data.json_file} defines {found} categories "
            f"({', '.join(data.class_names[:10])}{', ...' if found > 10 else ''}): "
            "leave model.num_classes out, it is read from the data"
        )
    if current != found and "model" in cfg:
        logger.info("model.num_classes: %s -> %d, read from %s", current, found, data.json_file)
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


def _prepare_registered(cfg: DictConfig, *, train: bool) -> DataInfo:
    train_names = _names(OmegaConf.select(cfg, "dataloader.train.dataset.names"))
    test_names = _names(OmegaConf.select(cfg, "dataloader.test.dataset.names"))
    for name in (*(train_names if train else ()), *test_names):
        if name not in DatasetCatalog:
            raise DatasetError(f"data set {name!r} is not registered; known: {', '.join(sorted(DatasetCatalog))}")
        _check_file(name)
    classes = tuple(MetadataCatalog.get(test_names[0]).get("thing_classes") or ())
    num_classes = OmegaConf.select(cfg, "model.num_classes")
    if classes and num_classes is not None and num_classes < len(classes):
        raise DatasetError(f"model.num_classes={num_classes}, but {test_names[0]} has {len(classes)} classes")
    num_images = sum(_count_images(name) for name in train_names) if train else None
    return DataInfo(train_names[0], test_names[0], classes, num_images)


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


def _count_images(name: str) -> int:
    """Images of a registered data set; for a COCO json without parsing its half gigabyte a second time."""
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is None or not name.startswith("coco_2017"):
        return len(DatasetCatalog.get(name))
    with open(json_file, "rb") as f:
        return f.read().count(b'"file_name"')  # once per image and nowhere else in an instances file
