"""From data set dicts to the inputs of a detector: images, annotations, metadata."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from . import transforms as T
from .catalog import MetadataCatalog

logger = logging.getLogger(__name__)

# https://en.wikipedia.org/wiki/Y%E2%80%B2UV#SDTV_with_BT.470
_RGB_TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])


class SizeMismatchError(ValueError):
    """An image file has another size than its data set says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """A Pillow image as an array of ``format``; see :func:`read_image`."""
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, _RGB_TO_YUV.T)
    return array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """Convert (H, W, C) of ``format`` to RGB in [0, 255]: uint8, or the input's type from "BGR", or float from YUV."""
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return np.dot(image, _YUV_TO_RGB.T) * 255.0
    image = image.astype(np.uint8)
    if format == "RGB":
        return image
    return np.asarray(Image.fromarray(image[:, :, 0] if format == "L" else image, mode=format).convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises many kinds of errors on broken EXIF data, which must not cost the image
        return image


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF data say.

    Args:
        file_name: anything that ``PathManager`` opens.
        format: a Pillow mode such as "RGB" or "L", or "BGR", or "YUV-BT.601"; default: the file's own.

    Returns:
        (H, W, C), also for "L"; uint8 in [0, 255], for YUV float with Y in [0, 1].
    """
    with PathManager.open(file_name, "rb") as file:
        return convert_PIL_to_numpy(_upright(Image.open(file)), format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Check "width" and "height" of the dict against the image, and add them if absent.

    Raises:
        SizeMismatchError: they differ.
    """
    actual = {"width": image.shape[1], "height": image.shape[0]}
    expected = {key: dataset_dict.setdefault(key, size) for key, size in actual.items()}
    if expected != actual:
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} is {actual['width']} x {actual['height']} pixels (width x "
            f"height), but its annotation says {expected['width']} x {expected['height']}; correct the annotation"
        )


def transform_instance_annotations(
    annotation: dict,
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> dict:
    """Move the annotation of one object along with its image, in place.

    Args:
        annotation: "bbox" and "bbox_mode", optionally "segmentation" (polygons, or COCO RLE) and "keypoints".
        transforms: what was applied to the image.
        image_size: (height, width) of the transformed image.
        keypoint_hflip_indices: for every keypoint, the one whose place it takes in a mirrored image.

    Returns:
        The same dict: "bbox" xyxy and clipped to the image, "segmentation" polygons or a bitmap (H, W).

    Raises:
        ValueError: a segmentation of another type; keypoints are mirrored and the indices are missing or too few.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    if "keypoints" in annotation:
        keypoints = annotation["keypoints"]
        keypoints = transform_keypoint_annotations(keypoints, transforms, image_size, keypoint_hflip_indices)
        annotation["keypoints"] = keypoints
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> list[np.ndarray] | np.ndarray:
    if isinstance(segmentation, list):
        # a copy in float64: transforms work in place
        polygons = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        return [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        import pycocotools.mask as coco_mask

        mask = transforms.apply_segmentation(coco_mask.decode(segmentation))
        assert mask.shape[:2] == tuple(image_size), f"Mask of {mask.shape[:2]} in an image of {tuple(image_size)}"
        return mask
    raise ValueError(f"Cannot transform a segmentation of {type(segmentation)}; use polygons or a COCO RLE dict")


def transform_keypoint_annotations(
    keypoints: Sequence[float],
    transforms: T.TransformList,
    image_size: tuple[int, int],
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Move keypoints (x, y, visibility); those that leave the image become (0, 0, 0). Returns float64 (K, 3)."""
    keypoints = np.array(keypoints, dtype=np.float64).reshape(-1, 3)
    keypoints[:, :2] = transforms.apply_coords(keypoints[:, :2])
    inside = ((keypoints[:, :2] >= 0) & (keypoints[:, :2] <= image_size[::-1])).all(axis=1)
    flips = sum(isinstance(t, T.HFlipTransform) for t in getattr(transforms, "transforms", [transforms]))
    keypoints[~inside, 2] = 0
    if flips % 2 == 1:
        if keypoint_hflip_indices is None or len(keypoint_hflip_indices) != len(keypoints):
            given = "none" if keypoint_hflip_indices is None else len(keypoint_hflip_indices)
            raise ValueError(f"Mirroring {len(keypoints)} keypoints needs as many keypoint_hflip_indices, got {given}")
        keypoints = keypoints[np.asarray(keypoint_hflip_indices, dtype=np.int64)]
    keypoints[keypoints[:, 2] == 0] = 0
    return keypoints


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """Collect the annotations of one image.

    Args:
        annos: see :func:`transform_instance_annotations`; "category_id" is contiguous from 0.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".

    Returns:
        ``gt_boxes`` (float32 xyxy), ``gt_classes`` (int64) and, if the annotations have them, ``gt_masks``.

    Raises:
        ValueError: a segmentation that does not fit ``mask_format``.
        NotImplementedError: annotations with keypoints, for which this subset has no structure.
    """
    boxes = [BoxMode.convert(obj["bbox"], obj["bbox_mode"], BoxMode.XYXY_ABS) for obj in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(obj["category_id"]) for obj in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        segmentations = [obj["segmentation"] for obj in annos]
        if mask_format == "polygon":
            try:
                target.gt_masks = PolygonMasks(segmentations)
            except ValueError as e:
                raise ValueError(f"mask_format='polygon' does not fit these annotations: {e}") from e
        else:
            assert mask_format == "bitmask", f"mask_format is 'polygon' or 'bitmask', got {mask_format!r}"
            bitmaps = [torch.from_numpy(_to_bitmap(s, image_size)) for s in segmentations]
            target.gt_masks = BitMasks(torch.stack(bitmaps))
    if annos and "keypoints" in annos[0]:
        raise NotImplementedError("This subset of detectron2 has no keypoint targets; leave out 'keypoints'")
    return target


def _to_bitmap(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        import pycocotools.mask as coco_mask

        return np.ascontiguousarray(coco_mask.decode(segmentation)).astype(bool)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, f"A bitmap has two axes, got shape {segmentation.shape}"
        return np.ascontiguousarray(segmentation).astype(bool)
    raise ValueError(f"Cannot make a bitmap of {type(segmentation)}; use polygons, a COCO RLE dict or an (H, W) array")


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drop objects with an empty box or mask.

    Args:
        instances: with ``gt_boxes`` and perhaps ``gt_masks``.
        by_box, by_mask: which criteria count; at least one.
        box_threshold: a side of at most this many pixels is empty.
        return_mask: also return the boolean mask of the kept objects.
    """
    assert by_box or by_mask, "filter_empty_instances needs by_box or by_mask"
    criteria = []
    if by_box:
        criteria.append(instances.gt_boxes.nonempty(threshold=box_threshold))
    if by_mask and instances.has("gt_masks"):
        criteria.append(instances.gt_masks.nonempty())
    keep = torch.stack(criteria).all(dim=0) if criteria else torch.ones(len(instances), dtype=torch.bool)
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that data sets agree on a metadata entry.

    Raises:
        ValueError: they do not.
        AttributeError: one of them lacks it.
    """
    entries = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    first = next(iter(entries.items()), None)
    for name, entry in entries.items():
        if entry != first[1]:
            raise ValueError(f"Data sets disagree on {key!r}: {first[0]} has {first[1]}, {name} has {entry}")


def get_fed_loss_cls_weights(dataset_names: str | Sequence[str], freq_weight_power: float = 1.0) -> torch.Tensor:
    """Image counts of the classes to a power, by class id, from ``Metadata.class_image_count`` (for federated loss)."""
    names = [dataset_names] if isinstance(dataset_names, str) else dataset_names
    check_metadata_consistency("class_image_count", names)
    counts = sorted(MetadataCatalog.get(names[0]).class_image_count, key=lambda entry: entry["id"])
    return torch.tensor([entry["image_count"] for entry in counts]).float() ** freq_weight_power
