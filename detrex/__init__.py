"""Detection transformers on detectron2: Deformable DETR and H-Deformable-DETR."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("detrex")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
