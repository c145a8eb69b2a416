"""Random policies that choose transforms, and the inputs they look at."""

# The global generator is the contract: one seed gives the same data on both hosts.
# ruff: noqa: NPY002
from __future__ import annotations

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Augmentation:
    """A policy that looks at an input and returns a deterministic :class:`Transform`.

    Subclasses implement :meth:`get_transform`. Random ones draw from numpy's global generator only, so that one seed
    reproduces the data.
    """

    input_args: tuple[str, ...] | None = None
    """Attributes of the input for :meth:`get_transform`; default: its parameter names (one parameter: the image)."""

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Store constructor arguments, given as ``locals()``."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Choose the transform.

        Args:
            args: attributes of the input, named by the parameters of the overriding method. By convention
                ``image``: (H, W) or (H, W, C), uint8 or float; ``boxes``: (N, 4) float32 xyxy in pixels;
                ``sem_seg``: (H, W) integer labels.
        """
        raise NotImplementedError

    def _input_names(self) -> tuple[str, ...]:
        if self.input_args is None:
            parameters = inspect.signature(self.get_transform).parameters
            if len(parameters) == 1:
                return ("image",)
            if any(p.kind in _VARIADIC for p in parameters.values()):
                raise TypeError(
                    f"{type(self).__name__}.get_transform takes *args or **kwargs, so its inputs cannot be told; "
                    "name them, set input_args, or override __call__"
                )
            self.input_args = tuple(parameters)
        return self.input_args

    def __call__(self, aug_input: AugInput) -> Transform:
        """Transform ``aug_input`` in place and return the transform used.

        Raises:
            AttributeError: the input lacks an attribute that the policy needs.
            AssertionError: :meth:`get_transform` returned something else.
        """
        args = []
        for name in self._input_names():
            try:
                args.append(getattr(aug_input, name))
            except AttributeError as e:
                raise AttributeError(
                    f"{type(self).__name__} needs the input attribute {name!r}, which {type(aug_input)} lacks"
                ) from e
        transform = self.get_transform(*args)
        name = type(self).__name__
        assert isinstance(transform, Transform), f"{name}.get_transform must return a Transform, got {type(transform)}"
        aug_input.transform(transform)
        return transform

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Uniform numbers in [low, high), or in [0, low) without ``high``."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        """The constructor call with its non-default arguments, as far as they are stored."""
        shown = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():
            if parameter.kind in _VARIADIC or not hasattr(self, name):
                return object.__repr__(self)
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={text if chr(10) not in text else '...'}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _FixedTransform(Augmentation):
    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __call__(self, aug_input: AugInput) -> Transform:
        aug_input.transform(self.tfm)
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _transform_to_aug(tfm_or_aug: Transform | Augmentation) -> Augmentation:
    assert isinstance(tfm_or_aug, (Transform, Augmentation)), f"Not a transform or augmentation: {tfm_or_aug}"
    return tfm_or_aug if isinstance(tfm_or_aug, Augmentation) else _FixedTransform(tfm_or_aug)


class AugmentationList(Augmentation):
    """Augmentations in sequence, each seeing the result of those before."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all of them in place; returns the list of transforms used."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"


class AugInput:
    """An image and what moves with it: the input of augmentations.

    A class of your own will do as well if it has the attributes that the augmentations need and ``transform``.

    Attributes:
        image: (H, W) or (H, W, C), uint8 or floating point.
        boxes: (N, 4) float32, xyxy in pixels, or None.
        sem_seg: (H, W) integer labels, or None.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        assert isinstance(image, np.ndarray), f"Augmentations need a numpy image, got {type(image)}"
        assert image.ndim in (2, 3), f"An image is (H, W) or (H, W, C), got shape {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply ``tfm`` to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Apply augmentations in sequence, in place."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform] | Augmentation | Transform, inputs: np.ndarray | AugInput
) -> tuple[np.ndarray | AugInput, TransformList]:
    """Apply one or several augmentations to an image or an :class:`AugInput`.

    Returns:
        The new image (for an image) or the same input, changed in place, and the transforms used.
    """
    if isinstance(augmentations, (Augmentation, Transform)):
        augmentations = [augmentations]
    aug_input = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    transforms = aug_input.apply_augmentations(augmentations)
    return (aug_input.image if isinstance(inputs, np.ndarray) else inputs), transforms


apply_transform_gens = apply_augmentations
TransformGen = Augmentation
StandardAugInput = AugInput
