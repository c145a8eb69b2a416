"""Exported files in the place of a detector: detectron2's input, detectron2's ``Instances``."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detrex.utils.text import count_of

from .program import INPUTS, METADATA_FILE, OUTPUTS

__all__ = ["ExportedDetector", "OnnxDetector", "ProgramDetector"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class ExportedDetector:
    """A file of ``detrex export``, called as a ``DeformableDETR`` in evaluation.

    Args:
        path: of the file.
        metadata: what it says about its input and its classes.
        dtype: of its images.
        shape: (B, 3, H, W) of its images, None on axes that vary.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any], dtype: type, shape: Sequence[int | None]
    ):
        self.path, self.metadata, self.dtype = os.fspath(path), dict(metadata), np.dtype(dtype)
        self.batch_size = shape[0]
        self.fixed_size = None if None in shape[2:] else tuple(shape[2:])

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        """Boxes (B, T, 4), scores (B, T) and labels (B, T), as ``ExportableDetector.forward`` defines them.

        Raises:
            ValueError: images or sizes that the file does not take; says which it takes.
        """
        images, sizes = np.asarray(images), np.asarray(sizes)
        self._check(images, sizes)
        return self._run(images, sizes.astype(np.int64))

    def _run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        raise NotImplementedError

    def __call__(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        """Detect on detectron2's standard input: pad the images, run, scale boxes to ``height`` and ``width``.

        Raises:
            ValueError: more or larger images than the file takes.
        """
        sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        largest = tuple(max(lengths) for lengths in zip(*sizes, strict=True))
        height, width = self.fixed_size or largest
        slots = self.batch_size or len(sizes)
        if largest[0] > height or largest[1] > width or len(sizes) > slots:
            raise ValueError(
                f"{self.path} takes {self.takes()}, got {count_of(len(sizes), 'image')} of at most {largest}"
            )
        images = np.zeros((slots, 3, height, width), self.dtype)
        for slot, x, (h, w) in zip(images, batched_inputs, sizes, strict=False):
            slot[:, :h, :w] = x["image"]
        found = self.run(images, np.array(sizes + [(height, width)] * (slots - len(sizes))))
        rows = zip(batched_inputs, *map(torch.from_numpy, found), strict=False)  # slots may be empty
        return [{"instances": _instances(x, *values)} for x, *values in rows]

    def takes(self) -> str:
        """The images that it takes, for people."""
        height, width = self.fixed_size or ("H", "W")
        return f"images ({self.batch_size or 'B'}, 3, {height}, {width}) {self.dtype}"

    def _check(self, images: np.ndarray, sizes: np.ndarray) -> None:
        expected = (self.batch_size, 3, *(self.fixed_size or (None, None)))
        fits = images.ndim == 4 and all(n in (None, got) for n, got in zip(expected, images.shape, strict=True))
        if images.dtype != self.dtype or not fits or images.size == 0:
            raise ValueError(f"{self.path} takes {self.takes()}, got {images.shape} {images.dtype}")
        if sizes.shape != (len(images), 2) or sizes.dtype.kind not in "iu":
            raise ValueError(
                f"{self.path}: sizes must be ({len(images)}, 2) integers, the height and width of each image, got "
                f"{sizes.shape} {sizes.dtype}"
            )
        if (sizes < 1).any() or (sizes > images.shape[2:]).any():
            raise ValueError(f"{self.path}: sizes {sizes.tolist()} are not within images of {images.shape[2:]}")


class OnnxDetector(ExportedDetector):
    """An ONNX file in ONNX Runtime, with as many threads as torch has.

    Args:
        path: of the file.
        providers: of ONNX Runtime.

    Raises:
        ImportError: without ONNX Runtime.
        ValueError: an ONNX file of another origin.
    """

    def __init__(self, path: str | os.PathLike[str], *, providers: Sequence[str] = ("CPUExecutionProvider",)):
        try:
            import onnxruntime
        except ImportError as e:
            raise ImportError("running ONNX needs ONNX Runtime: pip install 'detrex[export]'") from e
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, list(providers))
        inputs = {x.name: x for x in self.session.get_inputs()}
        if tuple(inputs) != INPUTS or tuple(x.name for x in self.session.get_outputs()) != OUTPUTS:
            raise ValueError(f"{path} is not of detrex export: its inputs are {', '.join(inputs)}")
        super().__init__(
            path,
            metadata={k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()},
            dtype=np.uint8 if inputs["images"].type == "tensor(uint8)" else np.float32,
            shape=[n if isinstance(n, int) else None for n in inputs["images"].shape],
        )

    def _run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return tuple(self.session.run(OUTPUTS, {"images": images, "sizes": sizes}))


class ProgramDetector(ExportedDetector):
    """A ``torch.export`` program, run by PyTorch operator by operator.

    Args:
        path: of the ``.pt2`` file.

    Raises:
        ValueError: a program of another origin.
    """

    def __init__(self, path: str | os.PathLike[str]):
        extra = {METADATA_FILE: ""}
        program = torch.export.load(path, extra_files=extra)
        if not extra[METADATA_FILE]:
            raise ValueError(f"{path} is not of detrex export: it has no {METADATA_FILE}")
        images = next(node for node in program.graph.nodes if node.name == INPUTS[0]).meta["val"]
        super().__init__(
            path,
            metadata=json.loads(extra[METADATA_FILE]),
            dtype=np.uint8 if images.dtype == torch.uint8 else np.float32,
            shape=[n if isinstance(n, int) else None for n in images.shape],
        )
        # The guards hold what tracing happened to compare, such as strides: they refuse sizes that the graph serves.
        unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
        self.module = program.module(**unguarded)

    @torch.no_grad()
    def _run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return tuple(x.numpy() for x in self.module(torch.from_numpy(images), torch.from_numpy(sizes)))


def _instances(x: Mapping[str, Any], boxes: Tensor, scores: Tensor, labels: Tensor) -> Instances:
    size = tuple(x["image"].shape[-2:])
    instances = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels)[scores > 0]
    return detector_postprocess(instances, x.get("height", size[0]), x.get("width", size[1]))
