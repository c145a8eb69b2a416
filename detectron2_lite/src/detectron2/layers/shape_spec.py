"""What a feature map looks like, where the tensor itself is not at hand."""

from dataclasses import dataclass


# Not frozen: OmegaConf must be able to set the fields, and saved configs name this class by this path.
@dataclass
class ShapeSpec:
    """Shape of a feature map; ``None`` means unknown.

    Attributes:
        channels: number of channels.
        height, width: in cells.
        stride: input pixels per cell.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
