"""Images of different sizes in one padded batch. Shape legend: B images, H x W the padded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers.wrappers import shapes_to_tensor
from torch import Tensor
from torch.nn import functional as F


class ImageList:
    """A padded batch that remembers the true sizes.

    Attributes:
        tensor: (B, ..., H, W), images in the top left corner.
        image_sizes: B pairs (height, width) before padding; tensors of two while tracing.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Image ``idx`` without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Return the batch with ``tensor.to(...)``."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Device of the batch."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> ImageList:
        """Pad images on the right and bottom to one size.

        Args:
            tensors: images (..., H_i, W_i) with equal leading dimensions.
            size_divisibility: round H and W up to a multiple of it; 0 and 1 do nothing.
            pad_value: value of the padding.
            padding_constraints: a backbone's wishes: ``size_divisibility`` replaces the argument of that name,
                ``square_size`` > 0 pads to a square of that side.

        Raises:
            AssertionError: no images, or images whose leading dimensions differ.
        """
        assert isinstance(tensors, (tuple, list)), f"from_tensors needs a list of images, got {type(tensors)}"
        assert len(tensors) > 0, "from_tensors needs at least one image"
        leading = tensors[0].shape[:-2]
        for image in tensors:
            assert isinstance(image, Tensor), f"Expected a tensor, got {type(image)}"
            assert image.shape[:-2] == leading, f"Images differ in channels: {image.shape[:-2]} and {leading}"

        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        if torch.jit.is_tracing():  # sizes are tensors then, and stay variables of the graph
            image_sizes = [shapes_to_tensor(size) for size in image_sizes]
            height, width = torch.stack(image_sizes).max(dim=0).values
        else:
            height, width = (max(side) for side in zip(*image_sizes, strict=True))
        constraints = padding_constraints or {}
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        multiple = constraints.get("size_divisibility", size_divisibility)
        if multiple > 1:
            height, width = (-(-side // multiple) * multiple for side in (height, width))

        if len(tensors) == 1:
            (h, w) = image_sizes[0]
            batch = F.pad(tensors[0], (0, width - w, 0, height - h), value=pad_value)[None]
        else:
            batch = tensors[0].new_full((len(tensors), *leading, height, width), pad_value)
            for padded, image in zip(batch, tensors, strict=True):
                padded[..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch.contiguous(), image_sizes)
