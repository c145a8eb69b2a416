"""Detection transformers on detectron2: Deformable DETR and H-Deformable-DETR."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrex.inference.detector import Detector

__all__ = ["Detector", "__version__"]

try:
    __version__ = version("detrex")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """``detrex.Detector``, which needs every layer, is imported when it is asked for."""
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detrex.inference.detector import Detector

    return Detector
