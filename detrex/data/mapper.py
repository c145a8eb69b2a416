"""From a detectron2 record to a training or inference sample, with DETR's two-armed augmentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from detrex.data.checks.boxes import degenerate_reason
from detrex.data.checks.images import open_image, upright
from detrex.data.formats.coco_json import crowd_flag
from detrex.utils.regular_files import raise_machine_fault


def read_image(path: str, img_format: str = "RGB") -> np.ndarray:
    """An image file as a writable (H, W, 3) uint8 array, its EXIF orientation applied.

    Args:
        path: of the file.
        img_format: order of the channels, "RGB" or "BGR".

    Raises:
        OSError: the file is missing or no readable image, or one that ``checks.images.open_image`` refuses; names it.
            Where the machine cannot read it (``is_machine_fault``), the system's own error.
        MemoryError: likewise.
    """
    try:
        with open_image(path) as file:
            file.load()
            image = detection_utils.convert_PIL_to_numpy(upright(file), img_format)
    except Exception as e:  # decoders raise errors of many types on damaged files
        raise_machine_fault(e, path)
        raise OSError(f"{path}: cannot read the image: {e}") from e
    return image if image.flags.writeable else image.copy()  # torch warns of arrays that are not


class _AugmentedImage(T.AugInput):
    """An image that keeps a pixel of each side, however long and narrow it is: resizing would round 3 x 3000 to 0."""

    def transform(self, tfm: T.Transform) -> None:
        """Apply ``tfm``, after enlarging it where it would leave nothing; it then moves boxes likewise."""
        height, width = self.image.shape[:2]
        if isinstance(tfm, T.CropTransform):
            if tfm.h < 1:
                tfm.h, tfm.y0 = 1, min(tfm.y0, height - 1)
            if tfm.w < 1:
                tfm.w, tfm.x0 = 1, min(tfm.x0, width - 1)
        elif hasattr(tfm, "new_h") and hasattr(tfm, "new_w"):
            tfm.new_h, tfm.new_w = max(tfm.new_h, 1), max(tfm.new_w, 1)
        super().transform(tfm)


class DetrDatasetMapper:
    """Callable that maps a detectron2 record to the detector's input (DETR, section 4, "Technical details").

    In training each image takes one of two chains of augmentations, with equal probability; crowd annotations are
    removed, boxes are moved with the image and clipped to it, and those that a crop cut away disappear. Degenerate
    boxes (not finite, without area, outside the image) are dropped, counted in ``num_degenerate`` and logged. An
    image without boxes is a valid sample. EXIF orientation is applied on reading.

    Every random number comes from numpy's global generator, one draw per image before the chain's own, so that a
    seed gives the same stream on every host.

    Args:
        augmentation: augmentations of the plain chain (the only one at inference), in order.
        augmentation_with_crop: the other chain in training; None trains on the plain chain alone.
        is_train: False leaves annotations out and uses the plain chain.
        img_format: channel order that the model expects, "RGB" or "BGR".
    """

    def __init__(
        self,
        *,
        augmentation: Sequence[T.Augmentation],
        augmentation_with_crop: Sequence[T.Augmentation] | None = None,
        is_train: bool,
        img_format: str = "RGB",
    ) -> None:
        self.plain = T.AugmentationList(list(augmentation))
        self.with_crop = None if augmentation_with_crop is None else T.AugmentationList(list(augmentation_with_crop))
        self.is_train = is_train
        self.img_format = img_format
        self.num_degenerate = 0
        self._logger = logging.getLogger(__name__)
        mode = "training" if is_train else "inference"
        self._logger.info("Augmentation in %s: %s; or with crop: %s", mode, self.plain, self.with_crop)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read the image of ``record`` and map it.

        Returns:
            The record with ``image``, a uint8 tensor (3, H, W), and in training ``instances`` with ``gt_boxes`` (xyxy
            in pixels of the augmented image) and ``gt_classes`` in place of ``annotations``. ``height`` and ``width``
            stay those of the file.

        Raises:
            SizeMismatchError: the image's size is not the one in the record (detectron2's convention); names the file.
            OSError: the image is missing or unreadable; names the file.
        """
        return self.map_image(read_image(record["file_name"], self.img_format), record)

    def map_image(self, image: np.ndarray, record: dict[str, Any] | None = None) -> dict[str, Any]:
        """Map an image in memory, (H, W, 3) uint8 in ``img_format``; ``record`` holds its annotations, if any."""
        record = dict(record or {})  # shallow: nothing below changes a value in place
        detection_utils.check_image_size(record, image)
        augmented = _AugmentedImage(image)
        transforms = self._chain()(augmented)
        record["image"] = torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, augmented.image.shape[:2], record)
        return record

    @property
    def chains(self) -> list[Sequence[T.Augmentation]]:
        """The augmentations that a sample may take, each in order."""
        both = [self.plain, self.with_crop] if self.is_train else [self.plain]
        return [chain.augs for chain in both if chain is not None]

    def _chain(self) -> T.AugmentationList:
        if not self.is_train or self.with_crop is None:
            return self.plain
        return self.plain if np.random.rand() > 0.5 else self.with_crop  # noqa: NPY002  the generator T draws from

    def _instances(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int], record: dict
    ) -> Instances:
        boxes, classes = [], []
        for annotation in annotations:
            if crowd_flag(annotation.get("iscrowd")) != 0:
                continue
            xywh = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            reason = degenerate_reason(xywh, record["width"], record["height"])
            if reason is not None:
                self._count_degenerate(reason, xywh, record)
                continue
            boxes.append(BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
            classes.append(annotation["category_id"])
        height, width = size
        # the transforms' own precision, float64, until the boxes are clipped; (0, 4) is valid input to them
        xyxy = transforms.apply_box(np.array(boxes, dtype=np.float64).reshape(-1, 4)).clip(min=0)
        xyxy = np.minimum(xyxy, [width, height, width, height])
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.as_tensor(xyxy, dtype=torch.float32))
        instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
        return instances[instances.gt_boxes.nonempty(threshold=1e-5)]

    def _count_degenerate(self, reason: str, xywh: Sequence[float], record: dict[str, Any]) -> None:
        self.num_degenerate += 1
        count = self.num_degenerate
        if count == 10 ** (len(str(count)) - 1):  # 1, 10, 100, ...: the log stays short on a bad data set
            where = record.get("file_name", "an image")
            self._logger.warning("Dropped %d degenerate box(es) so far; last %s (%s) of %s", count, xywh, reason, where)
