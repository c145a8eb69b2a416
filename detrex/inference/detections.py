"""What a detector says of one image, in the forms in which people use it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from PIL import Image

from detrex.data import read_image

from .drawing import BoxLayer, draw_boxes

if TYPE_CHECKING:
    import supervision

__all__ = ["Detections", "class_name"]


class Detections(Instances):
    """detectron2's ``Instances`` of N detections, on the CPU, with what they were made of.

    Fields: ``pred_boxes`` (``Boxes``; xyxy in pixels of the image), ``scores`` (N,), descending, and ``pred_classes``
    (N,), class ids from 0. Indexing selects: ``found[found.scores > 0.5]``.

    Args:
        image_size: (height, width) in pixels.
        image: RGB, (H, W, 3) uint8, or the file to read it from when it is wanted.
        class_names: in the order of the class ids. category_ids: those of the data set, in the same order.
        frame: number of the frame in a video, from 0.
        file: that the image is from.
        fields: of ``Instances``.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        image: np.ndarray | str | None = None,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        file: str | None = None,
        frame: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(image_size, **fields)
        self._image, self._file, self._frame = image, file, frame
        self._class_names, self._category_ids = tuple(class_names), tuple(category_ids)

    def __getitem__(self, item: Any) -> Detections:
        return self._like(super().__getitem__(item))

    def to(self, *args: Any, **kwargs: Any) -> Detections:
        return self._like(super().to(*args, **kwargs))

    def _like(self, chosen: Instances) -> Detections:
        return Detections(
            chosen.image_size,
            image=self._image,
            class_names=self._class_names,
            category_ids=self._category_ids,
            file=self._file,
            frame=self._frame,
            **chosen.get_fields(),
        )

    @property
    def file(self) -> str | None:
        """Path of the image or video; None for an image from memory."""
        return self._file

    @property
    def frame(self) -> int | None:
        """Number of the frame in the video, from 0; None for an image."""
        return self._frame

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [class_name(self._class_names, class_id) for class_id in self.pred_classes.tolist()]

    def image(self) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB; read again where it came from a file of its own.

        Raises:
            OSError: that file is gone. ValueError: these detections know of no image.
        """
        if self._image is None:
            raise ValueError("these detections know of no image")
        return read_image(self._image) if isinstance(self._image, (str, os.PathLike)) else self._image

    def plot(self, *, scale: float = 1.0) -> Image.Image:
        """The image with boxes, names and scores, the best on top.

        Args:
            scale: enlarges the image first.

        Raises:
            OSError, ValueError: as :meth:`image`.
        """
        return draw_boxes(self.image(), self.box_layer(), scale=scale)

    def box_layer(self) -> BoxLayer:
        """Boxes, names and scores to draw, the best last and so on top."""
        labels = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        boxes, class_ids = self.pred_boxes.tensor.numpy(force=True), self.pred_classes.tolist()
        return BoxLayer(boxes[::-1], labels[::-1], class_ids[::-1])

    def to_records(self) -> list[dict[str, Any]]:
        """Plain values, ready for json.

        Returns:
            For each ``{"box": [x1, y1, x2, y2], "score", "category_id" (as :meth:`to_coco`), "category_name"}``.
        """
        columns = (self.pred_boxes.tensor.tolist(), self.scores.tolist(), self._ids(), self.names)
        return [
            {"box": box, "score": score, "category_id": category_id, "category_name": name}
            for box, score, category_id, name in zip(*columns, strict=True)
        ]

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Entries of a COCO results file, digit by digit as the evaluation writes them.

        Args:
            image_id: of this image in the data set.

        Returns:
            For each detection ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; category ids are
            those of the data set that was trained on if the checkpoint knows them, else class ids from 0.
        """
        boxes = BoxMode.convert(self.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for category_id, box, score in zip(self._ids(), boxes.tolist(), self.scores.tolist(), strict=True)
        ]

    def _ids(self) -> list[int]:
        """Category id of each in the data set; where that is not known, its class id."""
        return [self._category_ids[i] if i < len(self._category_ids) else i for i in self.pred_classes.tolist()]

    def to_supervision(self) -> supervision.Detections:
        """``supervision.Detections`` with xyxy, confidence, class_id and, in ``data``, class_name.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as e:
            raise ImportError("to_supervision needs supervision: pip install 'detrex[supervision]'") from e
        return supervision.Detections(
            xyxy=self.pred_boxes.tensor.numpy(force=True),
            confidence=self.scores.numpy(force=True),
            class_id=self.pred_classes.numpy(force=True),
            data={"class_name": np.array(self.names, dtype=str)},
        )


def class_name(names: Sequence[str], class_id: int) -> str:
    """Name of a class; "class 7" where it is not known."""
    return names[class_id] if class_id < len(names) else f"class {class_id}"
