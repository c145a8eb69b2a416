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

from detrex.data.checks.findings import DatasetError, Finding, raise_errors, summarize
from detrex.data.formats.coco_json import CocoData, write_coco_json, write_json
from detrex.data.formats.reader import open_data
from detrex.data.formats.source import DataSource, SplitSource
from detrex.utils.text import printable

from .coco_metrics import COCO_MAX_DETS
from .dataset_check import CheckedData, check_source

RECIPE_NUM_CLASSES = 80  # what the COCO recipes say; any other number in a config is somebody's decision
QUERY_COUNT_KEY = "model.transformer.queries.groups.one2one"

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

    With a node ``dataloader.data`` (``configs/common/data/custom.py``) the data set is read, checked and registered,
    after a validation split was made where it has none. What is converted or made is written to
    ``<train.output_dir>/data``.
    Without one, the names in ``dataloader.{train,test}.dataset`` are looked up in the catalog.

    Args:
        cfg: the whole config, overrides applied, nothing instantiated yet.
        train: False leaves the training data alone, as for an evaluation on a machine that has only the validation set.

    Raises:
        DatasetError: any finding that is an error (``findings.KINDS``); a path that is not set; a
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


def category_ids(name: str) -> tuple[int, ...]:
    """The data set's own category ids in the order of the contiguous ones; () if the catalog does not know them."""
    ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or {}
    return tuple(sorted(ids, key=ids.get))


def _prepare_custom(cfg: DictConfig, *, train: bool) -> DataInfo:
    node = cfg.dataloader.data
    source = open_data(node, train=train)
    checked = check_source(source)
    names = {split: f"{node.name}_{split}" for split in (("train", "val") if train else ("val",))}
    raise_errors(node.get("root") or "dataloader.data", [f for f in checked.findings if f.split in ("", *names)])
    if source.made_split is not None:
        _log_made_split(cfg, source)
    for note in source.notes:
        logger.info("%s: %s", source.root, note)
    for split, name in names.items():
        data = checked.splits[split]
        _log_data(name, data, [f for f in checked.findings if f.split == split])
        json_file = _json_for_coco_api(cfg, name, data, source.splits[split])
        register_coco_data(name, data, image_root=source.splits[split].image_root, json_file=json_file)
    _warn_shared_files(checked)
    _set_num_classes(cfg, checked.splits["val"])
    _warn_crowded(cfg, {name: checked.splits[split] for split, name in names.items()})
    num_images = len(checked.splits["train"].records) if train else None
    return DataInfo(f"{node.name}_train", f"{node.name}_val", checked.splits["val"].class_names, num_images)


def _log_data(name: str, data: CocoData, findings: Sequence[Finding]) -> None:
    counts = ", ".join(f"{n} {c}" for n, c in zip(data.class_names, data.count_per_class(), strict=True))
    logger.info("%s: %d images from %s; boxes: %s", name, len(data.records), data.json_file, printable(counts))
    for line in summarize(findings):
        logger.warning("%s: %s", name, line)


def _warn_shared_files(checked: CheckedData) -> None:
    """tools/check_data.py compares pictures; here only names are, so that training starts at once."""
    files = [{r["file_name"] for r in checked.splits[s].records} for s in ("train", "val") if s in checked.splits]
    shared = sorted(set.intersection(*files)) if len(files) == 2 else []
    if shared:
        logger.warning("%d images are in the training and in the validation split, for example %s: the AP shows what "
                       "was learnt by heart", len(shared), printable(shared[0]))  # fmt: skip


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
