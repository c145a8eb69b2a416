"""Brings backbone maps to one width and adds coarser levels (Deformable DETR, appendix A.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

__all__ = ["ChannelMapper"]


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = get_norm(norm, out_channels) or nn.Identity()
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ChannelMapper(nn.Module):
    """A convolution with norm for each input map, and 3x3 ones of stride 2 for further levels.

    Args:
        input_shapes: for each backbone map something with ``channels``, such as detectron2's ``ShapeSpec``; None takes
            the backbone's, see :meth:`for_backbone`.
        in_features: names of the maps to take, finest first; None takes all.
        out_channels: channels C of every output.
        num_outs: number of levels L; those beyond the inputs come from the last input map, one after the other.
        kernel_size: of the input convolutions.
        norm: detectron2's name of a norm, or "".

    Raises:
        ValueError: if a feature is unknown or ``num_outs`` is less than the number of inputs.
    """

    def __init__(
        self,
        *,
        input_shapes: Mapping[str, object] | None = None,
        in_features: Sequence[str] | None = None,
        out_channels: int,
        num_outs: int,
        kernel_size: int = 1,
        norm: str = "GN",
    ):
        super().__init__()
        self._postponed: dict[str, object] | None = None
        if input_shapes is None:
            sizes = {"out_channels": out_channels, "num_outs": num_outs, "kernel_size": kernel_size, "norm": norm}
            self._postponed = {"in_features": in_features, **sizes}
            return
        in_features = list(input_shapes) if in_features is None else in_features
        unknown = [name for name in in_features if name not in input_shapes]
        if unknown:
            raise ValueError(f"ChannelMapper: in_features {unknown} are not in input_shapes {list(input_shapes)}")
        if num_outs < len(in_features):
            raise ValueError(f"ChannelMapper: num_outs={num_outs} is less than the {len(in_features)} in_features")
        self.in_features = list(in_features)
        channels = [input_shapes[name].channels for name in in_features]
        self.convs = nn.ModuleList(_ConvNorm(c, out_channels, kernel_size, 1, norm) for c in channels)
        extra = [channels[-1], *[out_channels] * (num_outs - len(channels))][: num_outs - len(channels)]
        self.extra_convs = nn.ModuleList(_ConvNorm(c, out_channels, 3, 2, norm) for c in extra)

    def for_backbone(self, backbone: Backbone) -> ChannelMapper:
        """This mapper, or, if it has no ``input_shapes``, a new one for the maps of the backbone."""
        if self._postponed is None:
            return self
        return ChannelMapper(input_shapes=backbone.output_shape(), **self._postponed)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Backbone maps (B, C_i, H_i, W_i) by name -> L maps (B, C, H_l, W_l), finest first."""
        maps = [conv(features[name]) for conv, name in zip(self.convs, self.in_features, strict=True)]
        x = features[self.in_features[-1]]
        for conv in self.extra_convs:
            x = conv(x)
            maps.append(x)
        return maps
