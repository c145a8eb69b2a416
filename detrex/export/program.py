"""A trained detector as a ``torch.export`` program and as ONNX; docs/export.md shows how to use them.

What is exported is the evaluation of images that were padded to one size, with their true sizes beside them, from
pixels to boxes: normalisation, padding masks, the selection of proposals and of detections are inside the graph.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detrex import __version__
from detrex.inference.detector import Detector
from detrex.layers import box_cxcywh_to_xyxy
from detrex.modeling import QueryGroups, TwoStageQueries
from detrex.modeling.postprocess import select_top
from detrex.structures import PyramidLayout, Size, padding_mask

__all__ = [
    "INPUTS",
    "METADATA_FILE",
    "OPSET",
    "OUTPUTS",
    "ExportableDetector",
    "describe",
    "export_program",
    "save_onnx",
    "save_program",
]

OPSET = 20  # the first whose GridSample is that of torch
INPUTS, OUTPUTS = ("images", "sizes"), ("boxes", "scores", "labels")
METADATA_FILE = "metadata.json"  # within a torch.export archive
# Sizes to trace with. Sizes that occur elsewhere, such as 2 or 64, could be taken for equal to those.
EXAMPLE_BATCH, EXAMPLE_SIZE = 5, (328, 424)


class FixedSlotQueries(TwoStageQueries):
    """Two-stage queries whose number does not depend on the image: slots without a proposal are padded.

    A graph needs one number for all sizes; :class:`TwoStageQueries` takes fewer queries for a small image instead.
    """

    @classmethod
    def of(cls, queries: TwoStageQueries) -> FixedSlotQueries:
        """A copy of ``queries``, without those that exist only in training."""
        fixed = cls(
            groups=QueryGroups(one2one=queries.groups.one2one),
            num_classes=queries.proposals.head.class_embed.out_features,
            content="proposal" if queries.content is None else "learned",
            embed_dim=queries.embed_dim,
            temperature=queries.temperature,
        )
        state = queries.state_dict()
        if queries.content is not None:
            state["content.weight"] = state["content.weight"][: queries.groups.one2one]
        fixed.load_state_dict(state)
        return fixed.train(queries.training).requires_grad_(False)

    def select(self, scores_BS: Tensor, layout: PyramidLayout) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """As :meth:`TwoStageQueries.select`, with all slots of the group."""
        slots = self.groups.one2one
        empty_BQ = scores_BS.new_full((scores_BS.shape[0], slots), float("-inf"))
        best_BQ, index_BQ = torch.cat([scores_BS, empty_BQ], 1).topk(slots, dim=1)
        return index_BQ.clamp(max=scores_BS.shape[1] - 1), (slots,), best_BQ == float("-inf")


class ExportableDetector(nn.Module):
    """A copy of a detector whose sizes are tensors: one graph serves every batch.

    An image that fills its tensor gets the boxes that the evaluation gives it. An image with padding gets those of
    :class:`detrex.modeling.PadImages`: backbone and neck see zeros in its place, whatever the tensor holds there.

    Args:
        detector: a ``DeformableDETR``, that is: ``backbone``, ``neck``, ``transformer``, ``num_select``, ``pixel_mean``
            and ``pixel_std``.

    Raises:
        TypeError: if the detector lacks one of these.
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        parts = ("backbone", "neck", "transformer", "num_select", "pixel_mean", "pixel_std")
        absent = [name for name in parts if not hasattr(detector, name)]
        if absent:
            raise TypeError(f"{type(detector).__name__} has no {', '.join(absent)}: only a DeformableDETR is exported")
        detector = copy.deepcopy(detector).cpu().eval().requires_grad_(False)
        self.backbone, self.neck, self.transformer = detector.backbone, detector.neck, detector.transformer
        if isinstance(self.transformer.queries, TwoStageQueries):
            self.transformer.queries = FixedSlotQueries.of(self.transformer.queries)
        self.num_select = detector.num_select
        self.register_buffer("pixel_mean", detector.pixel_mean)
        self.register_buffer("pixel_std", detector.pixel_std)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: (B, 3, H, W), uint8 or float32 on the scale of 0 to 255, each in the upper left corner.
            sizes: (B, 2) int64, the true height and width of each; at most H and W.

        Returns:
            Boxes (B, T, 4), xyxy in pixels of the true sizes and clipped to them; scores (B, T), descending, 0 where an
            image has fewer proposals; labels (B, T) int64.
        """
        hw_B2 = sizes.to(torch.float32)
        padded = tuple(images.shape[-2:])
        outside_BS = padding_mask([padded], hw_B2.flip(-1)[:, None])
        x_B3HW = (images.to(torch.float32) - self.pixel_mean) / self.pixel_std
        x_B3HW = x_B3HW.masked_fill(outside_BS.unflatten(1, (1, *padded)), 0.0)
        maps = self.neck(self.backbone(x_B3HW))
        layout = _layout([tuple(x.shape[-2:]) for x in maps], padded, hw_B2)
        final = self.transformer(maps, layout).layers[-1]
        scores_BT, labels_BT, boxes_BT4 = select_top(final, self.num_select)
        limit_B14 = hw_B2.flip(-1).repeat(1, 2)[:, None]
        boxes_BT4 = torch.minimum((box_cxcywh_to_xyxy(boxes_BT4) * limit_B14).clamp(min=0), limit_B14)
        return boxes_BT4, scores_BT, labels_BT


def _layout(shapes: Sequence[Size], padded: Size, hw_B2: Tensor) -> PyramidLayout:
    """The layout that ``PadImages`` builds, its sizes known only to tensors."""

    def number(n: int) -> Tensor:
        return torch.full((), n, dtype=torch.float32, device=hw_B2.device)

    def valid(length_B: Tensor, padded_length: int, cells: int) -> Tensor:  # see nearest_valid_length
        cell = torch.arange(cells, dtype=torch.float32, device=hw_B2.device)
        starts = (cell * (number(padded_length) / number(cells))).floor()
        return (starts < length_B[:, None]).sum(1).to(torch.float32)

    shape_L2 = torch.stack([torch.stack([number(w), number(h)]) for h, w in shapes])
    valid_BL2 = torch.stack(
        [torch.stack([valid(hw_B2[:, 1], padded[1], w), valid(hw_B2[:, 0], padded[0], h)], -1) for h, w in shapes], 1
    )
    return PyramidLayout(tuple(shapes), (), shape_L2, valid_BL2, padding_mask(shapes, valid_BL2))


def export_program(
    detector: nn.Module,
    *,
    dtype: torch.dtype = torch.uint8,
    fixed_size: Size | None = None,
    batch_size: int | None = None,
) -> ExportedProgram:
    """Trace a detector into a ``torch.export`` program of standard operators.

    Args:
        detector: see :class:`ExportableDetector`; left as it is.
        dtype: of the images, uint8 or float32.
        fixed_size: (H, W) of a program only for that size; None exports one for all sizes.
        batch_size: of a program only for that batch; None exports one for all.

    Raises:
        TypeError: not a detector of this kind.
        ValueError: the model does not export with a size or batch that varies.
    """
    height, width = fixed_size or EXAMPLE_SIZE
    batch = batch_size or EXAMPLE_BATCH
    images = torch.zeros(batch, 3, height, width, dtype=dtype)
    sizes = torch.tensor([[height, width]]).repeat(batch, 1)
    dims: dict[int, Any] = {} if batch_size else {0: Dim.AUTO}
    spatial = {} if fixed_size else {2: Dim.AUTO, 3: Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(
            ExportableDetector(detector).eval(),
            (images, sizes),
            dynamic_shapes=(dims | spatial, dims),
            strict=False,
        )
    traced = next(node for node in program.graph.nodes if node.name == INPUTS[0]).meta["val"].shape
    for axis, name in (dict.fromkeys(dims, "batch") | dict.fromkeys(spatial, "size")).items():
        if isinstance(traced[axis], int):
            raise ValueError(
                f"the model's code fixes the {name} of images to {traced[axis]} when it is traced, as the real "
                "detectron2's Swin does: give fixed_size and batch_size, or export with detectron2_lite"
            )
    return program


def describe(detector: Detector) -> dict[str, Any]:
    """What a user of the file must know and the graph does not say: classes, channels, resizing."""
    mapper = detector.mapper
    resizing = [x for x in mapper.plain.augs if isinstance(x, ResizeShortestEdge)]
    rule = None
    if len(mapper.plain.augs) == len(resizing) == 1:
        short_edge_length, max_size = min(resizing[0].short_edge_length), resizing[0].max_size
        rule = {"short_edge_length": short_edge_length, "max_size": max_size, "interpolation": "bilinear"}
    return {
        "class_names": list(detector.class_names),
        "category_ids": list(detector.category_ids),
        "input_format": mapper.img_format,
        "pixel_range": [0, 255],
        "normalization": "in the graph",
        "resize": rule or repr(mapper.plain),
        "boxes": "x1, y1, x2, y2 in pixels of the given sizes",
        "producer": f"detrex {__version__}, torch {torch.__version__}",
    }


def save_program(program: ExportedProgram, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Write a ``.pt2`` file for ``torch.export.load``; metadata as json in its extra file ``metadata.json``."""
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})


def save_onnx(program: ExportedProgram, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Translate a program to ONNX, opset ``OPSET``, and write it; each value of the metadata as json.

    Raises:
        ImportError: without the packages of the extra ``export``.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise ImportError("ONNX export needs more packages: pip install 'detrex[export]'") from e
    translated = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=INPUTS, output_names=OUTPUTS, verbose=False
    )
    shape = translated.model.graph.inputs[0].shape
    names = {0: "batch", 2: "height", 3: "width"}
    translated.rename_axes({str(shape[axis]): name for axis, name in names.items() if not isinstance(shape[axis], int)})
    translated.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    translated.save(path)
