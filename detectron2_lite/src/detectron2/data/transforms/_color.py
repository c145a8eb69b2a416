"""Photometric augmentations. Each draws a weight and blends the image with something else."""

# The global generator is the contract: one seed gives the same data on both hosts.
# ruff: noqa: NPY002
import numpy as np
from fvcore.transforms.transform import BlendTransform

from .augmentation import Augmentation

__all__ = ["RandomBrightness", "RandomContrast", "RandomLighting", "RandomSaturation"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Principal components of the colours of ImageNet (Krizhevsky et al., 2012, section 4.1), as published with Torch
_IMAGENET_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_IMAGENET_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])


class _RandomIntensity(Augmentation):
    """A weight w, uniform in [intensity_min, intensity_max): 1 keeps the image, less weakens, more strengthens."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self._init(locals())

    def _blend(self, other: float | np.ndarray, weight: float) -> BlendTransform:
        return BlendTransform(src_image=other, src_weight=1 - weight, dst_weight=weight)

    def _draw(self) -> float:
        return np.random.uniform(self.intensity_min, self.intensity_max)


class RandomContrast(_RandomIntensity):
    """Blend with the image's mean value."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        return self._blend(image.mean(), self._draw())


class RandomBrightness(_RandomIntensity):
    """Blend with black."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        return self._blend(0, self._draw())


class RandomSaturation(_RandomIntensity):
    """Blend an RGB image with its grey version."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        assert image.shape[-1] == 3, f"RandomSaturation needs three channels, got shape {image.shape}"
        weight = self._draw()
        return self._blend(image.dot(_LUMA)[:, :, np.newaxis], weight)


class RandomLighting(Augmentation):
    """Add normal noise along the principal components of ImageNet's colours (AlexNet's "fancy PCA")."""

    def __init__(self, scale: float) -> None:
        """
        Args:
            scale: standard deviation.
        """
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        assert image.shape[-1] == 3, f"RandomLighting needs three channels, got shape {image.shape}"
        weights = np.random.normal(scale=self.scale, size=3)
        shift = _IMAGENET_EIGENVECTORS.dot(weights * _IMAGENET_EIGENVALUES)
        return BlendTransform(src_image=shift, src_weight=1.0, dst_weight=1.0)
