"""The values that travel through a detection transformer.

Shape legend, used by every file of ``detrex.layers`` and ``detrex.modeling``: B images, Q queries, S tokens of all
levels, L levels, N heads, P points, C channels, K classes, M boxes of one image; H, W height and width of a map.
Boxes are ``cxcywh``, normalised to the image without its padding, unless a name says ``xyxy``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["DetectorOutputs", "Predictions", "PyramidLayout", "Queries", "Targets", "TokenPyramid", "padding_mask"]

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class PyramidLayout:
    """Geometry of a batch of flattened feature pyramids: constant from the neck to the last decoder layer.

    Sizes are Python integers, so that no kernel launch and no branch on them ever waits for a device.

    Attributes:
        shapes: (H, W) of each level's padded map.
        valid_sizes: for each image, (h, w) of each level without padding; ``h <= H``, ``w <= W``.
        shape_L2: (W, H) of each level, float32, on the device of the maps.
        valid_BL2: (w, h) of each image and level, float32, likewise.
        padding_BS: bool, True on tokens that are padding; None if no image of the batch is padded.
    """

    shapes: tuple[Size, ...]
    valid_sizes: tuple[tuple[Size, ...], ...]
    shape_L2: Tensor
    valid_BL2: Tensor
    padding_BS: Tensor | None

    @classmethod
    def build(
        cls, shapes: Sequence[Size], valid_sizes: Sequence[Sequence[Size]], device: torch.device
    ) -> PyramidLayout:
        """Lay out maps of ``shapes`` whose upper left ``valid_sizes[image][level]`` corner is image."""
        shapes = tuple((int(h), int(w)) for h, w in shapes)
        valid_sizes = tuple(tuple((int(h), int(w)) for h, w in sizes) for sizes in valid_sizes)
        sizes = torch.tensor([shapes, *valid_sizes], dtype=torch.float32).flip(-1).to(device, non_blocking=True)
        shape_L2, valid_BL2 = sizes[0], sizes[1:]
        padded = any(sizes != shapes for sizes in valid_sizes)
        padding_BS = padding_mask(shapes, valid_BL2) if padded else None
        return cls(shapes, valid_sizes, shape_L2, valid_BL2, padding_BS)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each level."""
        return tuple(h * w for h, w in self.shapes)

    def centres_BS2(self) -> Tensor:
        """(x, y) centre of every token in the coordinates of the unpadded image; beyond 1 on padding."""
        device = self.valid_BL2.device
        centres = []
        for (h, w), wh_B2 in zip(self.shapes, self.valid_BL2.unbind(1), strict=True):
            x_BW = (torch.arange(w, device=device) + 0.5) / wh_B2[:, :1]
            y_BH = (torch.arange(h, device=device) + 0.5) / wh_B2[:, 1:]
            x_BHW = x_BW[:, None, :].expand(-1, h, -1)
            y_BHW = y_BH[:, :, None].expand(-1, -1, w)
            centres.append(torch.stack([x_BHW, y_BHW], -1).flatten(1, 2))
        return torch.cat(centres, 1)

    def to_levels(self, reference: Tensor) -> Tensor:
        """Points (B, Q, 2) or boxes (B, Q, 4) of the unpadded image -> (B, Q, L, 2|4) of each padded level."""
        ratios_BL2 = self.valid_BL2 / self.shape_L2
        if reference.shape[-1] == 4:
            ratios_BL2 = torch.cat([ratios_BL2, ratios_BL2], -1)
        return reference[:, :, None] * ratios_BL2[:, None]


def padding_mask(shapes: Sequence[Size], valid_BL2: Tensor) -> Tensor:
    """Bool (B, S), True on tokens outside the upper left ``valid_BL2`` (w, h) of their level."""
    device, masks = valid_BL2.device, []
    for (height, width), wh_B2 in zip(shapes, valid_BL2.unbind(1), strict=True):
        below = torch.arange(height, device=device)[:, None] >= wh_B2[:, 1, None, None]
        beside = torch.arange(width, device=device) >= wh_B2[:, 0, None, None]
        masks.append((below | beside).flatten(1))
    return torch.cat(masks, 1)


@dataclass(frozen=True)
class TokenPyramid:
    """A feature pyramid as tokens: content, position and geometry."""

    tokens_BSC: Tensor
    pos_BSC: Tensor
    layout: PyramidLayout


@dataclass(frozen=True)
class Queries:
    """Object queries on their way into the decoder.

    Attributes:
        content_BQC: what a query carries from layer to layer.
        pos_BQC: its position embedding, added to the content where it attends.
        reference: points (B, Q, 2) or boxes (B, Q, 4), in [0, 1].
        groups: sizes of groups that do not see each other in self-attention; they sum to Q.
        padding_BQ: bool, True where an image had too few proposals to fill the slot; None if all are filled.
    """

    content_BQC: Tensor
    pos_BQC: Tensor
    reference: Tensor
    groups: tuple[int, ...]
    padding_BQ: Tensor | None = None

    def attention_mask_QQ(self) -> Tensor | None:
        """True where attention is forbidden: outside the diagonal blocks; None if there is one group."""
        if sum(size > 0 for size in self.groups) <= 1:
            return None
        group_Q = torch.cat(
            [torch.full((size,), i, device=self.reference.device) for i, size in enumerate(self.groups)]
        )
        return group_Q[:, None] != group_Q[None, :]


@dataclass(frozen=True)
class Predictions:
    """What one head says: class logits (B, Q, K) and boxes (B, Q, 4).

    ``padding_BQ`` marks slots that hold no prediction (see :class:`Queries`); they are never matched or selected.
    """

    logits_BQK: Tensor
    boxes_BQ4: Tensor
    padding_BQ: Tensor | None = None

    def slots(self, start: int, size: int) -> Predictions:
        """The predictions of queries ``start`` to ``start + size``."""
        part = slice(start, start + size)
        padding = None if self.padding_BQ is None else self.padding_BQ[:, part]
        return Predictions(self.logits_BQK[:, part], self.boxes_BQ4[:, part], padding)


@dataclass(frozen=True)
class DetectorOutputs:
    """Predictions of each decoder layer, the last being final, and those of the encoder if it makes proposals."""

    layers: tuple[Predictions, ...]
    groups: tuple[int, ...]
    proposals: Predictions | None = None

    def group(self, index: int) -> DetectorOutputs:
        """The outputs of one query group, without the proposals, which belong to none."""
        start, size = sum(self.groups[:index]), self.groups[index]
        return replace(self, layers=tuple(p.slots(start, size) for p in self.layers), groups=(size,), proposals=None)


@dataclass(frozen=True)
class Targets:
    """The objects of one image: labels (M,) int64 and boxes (M, 4)."""

    labels_M: Tensor
    boxes_M4: Tensor

    def __len__(self) -> int:
        return len(self.labels_M)

    def repeat(self, times: int) -> Targets:
        """Every object ``times`` times, for one-to-many matching."""
        return Targets(self.labels_M.repeat(times), self.boxes_M4.repeat(times, 1))

    def class_agnostic(self) -> Targets:
        """The same objects, all of class 0, which is objectness for the encoder's proposals."""
        return Targets(torch.zeros_like(self.labels_M), self.boxes_M4)
