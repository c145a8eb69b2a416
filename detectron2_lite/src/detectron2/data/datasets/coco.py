"""The COCO format, read and written (https://cocodataset.org/#format-data)."""

import datetime
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, Metadata, MetadataCatalog

logger = logging.getLogger(__name__)


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Read instance annotations.

    Args:
        json_file: COCO file; one without annotations (a test set) gives images without objects.
        image_root: directory that its file names are relative to.
        dataset_name: if given, category ids become contiguous from 0, by rising id, and the metadata of that name gets
            ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``. Otherwise ids stay as they are.
        extra_annotation_keys: further keys of annotations to keep.

    Returns:
        One dict per image, by rising id: "file_name", "height", "width", "image_id" and "annotations", each with
        "bbox" (XYWH_ABS), "bbox_mode", "category_id", "iscrowd", "segmentation" (valid polygons, or RLE), "keypoints"
        (shifted by 0.5 from pixel indices to coordinates). Objects all of whose polygons are invalid are left out.

    Raises:
        AssertionError: annotation ids are not unique, or an annotation has "ignore".
        KeyError: an annotation names a category that the file does not define.
        ValueError: an annotation with an empty "bbox", or a file without categories.
    """
    with PathManager.open(str(json_file), encoding="utf-8-sig") as f:  # with or without a byte-order mark
        content = json.load(f)
    id_map = None if dataset_name is None else _set_classes(content, dataset_name, json_file)

    images = {image["id"]: image for image in content["images"]}
    annotations = defaultdict(list)
    for annotation in content.get("annotations", ()):
        annotations[annotation["image_id"]].append(annotation)
    _check_annotations(annotations, images, str(json_file))

    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or ())]
    dataset_dicts, dropped = [], 0
    for image_id, image in sorted(images.items()):
        objects = [_read_object(annotation, keys, id_map) for annotation in annotations.get(image_id, ())]
        kept = [obj for obj in objects if obj is not None]
        dropped += len(objects) - len(kept)
        dataset_dicts.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": kept,
            }
        )
    logger.info(f"Loaded {len(dataset_dicts)} images in COCO format from {json_file}")
    if dropped:
        logger.warning(
            f"Left out {dropped} objects of {json_file} that have a segmentation but no valid polygon in it (an even "
            "number of coordinates, at least 6). There might be a mistake in how the file was made."
        )
    return dataset_dicts


def _set_classes(content: dict, dataset_name: str, json_file: Any) -> dict[int, int]:
    categories = sorted(content.get("categories", ()), key=lambda category: category["id"])
    if not categories:
        raise ValueError(f"{json_file} defines no categories")
    ids = [category["id"] for category in categories]
    if "coco" not in dataset_name and (ids[0], ids[-1]) != (1, len(ids)):
        logger.warning(f"Category ids of {json_file} are not 1 to {len(ids)}; they are mapped to 0 to {len(ids) - 1}.")
    id_map = {category_id: i for i, category_id in enumerate(ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in categories], thing_dataset_id_to_contiguous_id=id_map
    )
    return id_map


def _check_annotations(annotations: dict[int, list[dict]], images: dict[int, dict], json_file: str) -> None:
    total = sum(map(len, annotations.values()))
    ids = [a["id"] for image_id, of_image in annotations.items() if image_id in images for a in of_image]
    if len(ids) < total:
        logger.warning(f"{json_file} has {total} annotations, but only {len(ids)} of them belong to an image in it.")
    if "minival" not in json_file:  # the published COCO 2014 minival files repeat ids
        assert len(set(ids)) == len(ids), f"Annotation ids in '{json_file}' are not unique"


def _read_object(annotation: dict, keys: list[str], id_map: dict[int, int] | None) -> dict | None:
    """One annotation in detectron2's format, or None if it has polygons but no valid one."""
    image_id = annotation["image_id"]
    assert annotation.get("ignore", 0) == 0, f'Annotation of image {image_id} has "ignore", which is not supported'
    obj = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"An annotation of image {image_id} has an empty 'bbox', which is not valid COCO format")

    segmentation = annotation.get("segmentation")
    if segmentation and isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):  # uncompressed
            import pycocotools.mask as coco_mask

            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        obj["segmentation"] = segmentation
    elif segmentation:
        polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        obj["segmentation"] = polygons

    if obj.get("keypoints"):
        obj["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(obj["keypoints"])]
    else:
        obj.pop("keypoints", None)
    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map is not None:
        if obj["category_id"] not in id_map:
            raise KeyError(f"Image {image_id}: an annotation's category_id={obj['category_id']} is not in 'categories'")
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def load_sem_seg(gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg") -> list[dict[str, str]]:
    """Pair images with label images of the same name.

    Returns:
        Dicts with "file_name" and "sem_seg_file_name", sorted by name.

    Raises:
        AssertionError: ``gt_root`` has no label image.
    """

    def stems(root: str, ext: str) -> list[str]:
        return sorted(f[: -len(ext)] for f in PathManager.ls(root) if f.endswith(ext))

    labels, images = stems(gt_root, gt_ext), stems(image_root, image_ext)
    assert labels, f"No annotations found in {gt_root}."
    if len(labels) != len(images):
        common = sorted(set(labels) & set(images))
        logger.warning(f"{len(images)} images, but {len(labels)} label images: using the {len(common)} that have both")
        labels = images = common
    logger.info(f"Loaded {len(images)} images with semantic segmentation from {image_root}")
    return [
        {
            "file_name": os.path.join(image_root, image + image_ext),
            "sem_seg_file_name": os.path.join(gt_root, label + gt_ext),
        }
        for image, label in zip(images, labels, strict=True)
    ]


def convert_to_coco_dict(dataset_name: str) -> dict:
    """Convert a registered data set to COCO format, in the category ids of its metadata.

    Raises:
        ValueError: a box that is not 4 or 5 numbers.
        TypeError: a segmentation that is neither polygons nor RLE.
    """
    dataset_dicts = DatasetCatalog.get(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    category_ids = _reverse_id_map(metadata)
    images, annotations = [], []
    for index, record in enumerate(dataset_dicts):
        image = {
            "id": record.get("image_id", index),
            "width": int(record["width"]),
            "height": int(record["height"]),
            "file_name": str(record["file_name"]),
        }
        images.append(image)
        for obj in record.get("annotations", ()):
            category = obj["category_id"]
            identity = {
                "id": len(annotations) + 1,  # pycocotools takes id 0 for "no annotation"
                "image_id": image["id"],
                "iscrowd": int(obj.get("iscrowd", 0)),
                "category_id": int(category_ids.get(category, category)),
            }
            annotations.append(identity | _geometry_to_coco(obj))
    logger.info(f"Converted {dataset_name!r}: {len(images)} images, {len(annotations)} annotations")
    coco = {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": "Converted to COCO format from a registered data set",
        },
        "images": images,
        "categories": [{"id": category_ids.get(i, i), "name": name} for i, name in enumerate(metadata.thing_classes)],
        "licenses": None,
    }
    return coco | {"annotations": annotations} if annotations else coco


def _reverse_id_map(metadata: Metadata) -> dict[int, int]:
    return {new: old for old, new in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}


def _geometry_to_coco(obj: dict) -> dict:
    box = np.asarray(obj["bbox"])
    if box.ndim != 1 or len(box) not in (4, 5):
        raise ValueError(f"A box is 4 or 5 numbers, got {obj['bbox']}")
    mode = BoxMode.XYWH_ABS if len(box) == 4 else BoxMode.XYWHA_ABS
    box = BoxMode.convert(box.tolist(), obj["bbox_mode"], mode)
    coco = {"bbox": [round(float(x), 3) for x in box], "area": float(box[2] * box[3])}
    if "segmentation" in obj:
        coco["segmentation"], coco["area"] = _segmentation_to_coco(obj["segmentation"])
    if "keypoints" in obj:
        keypoints = [float(v) if i % 3 == 2 else float(v) - 0.5 for i, v in enumerate(obj["keypoints"])]
        coco["keypoints"] = keypoints
        coco["num_keypoints"] = obj.get("num_keypoints", sum(v > 0 for v in keypoints[2::3]))
    return coco


def _segmentation_to_coco(segmentation: Any) -> tuple[list | dict, float]:
    if isinstance(segmentation, list):
        area = PolygonMasks([segmentation]).area()[0].item()
        return [np.asarray(polygon).tolist() for polygon in segmentation], area
    if isinstance(segmentation, dict):
        import pycocotools.mask as coco_mask

        counts = segmentation["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return segmentation | {"counts": counts}, float(coco_mask.area(segmentation))
    raise TypeError(f"A segmentation is a list of polygons or an RLE dict, got {type(segmentation)}")


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered data set as a COCO file, once per job.

    Args:
        dataset_name: registered name.
        output_file: the file; several processes may ask for it at once.
        allow_cached: keep a file that exists, even if the data have changed since.
    """
    from iopath.common.file_io import file_lock

    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(f"Reusing '{output_file}', converted earlier; remove it if the data set has changed")
            return
        logger.info(f"Writing {dataset_name!r} in COCO format to '{output_file}' ...")
        coco = convert_to_coco_dict(dataset_name)
        with PathManager.open(output_file + ".tmp", "w") as f:
            json.dump(coco, f)
        shutil.move(output_file + ".tmp", output_file)  # readers never see half a file


def register_coco_instances(
    name: str, metadata: dict, json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Register a data set in COCO format. The file is read when the data set is, not now.

    Args:
        name: such as "coco_2017_train".
        metadata: further metadata, may be {}.
        json_file: COCO annotations.
        image_root: directory of the images.
    """
    assert isinstance(name, str), f"The name of a data set is a string, got {type(name)}"
    for path in (json_file, image_root):
        assert isinstance(path, (str, os.PathLike)), f"Data set {name!r}: expected a path, got {type(path)}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
