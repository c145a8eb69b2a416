"""Per-image records of N objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch


class Instances:
    """N objects of one image, stored as named fields of equal length.

    Fields are read and written as attributes (``instances.gt_boxes = Boxes(...)``); indexing selects objects in all
    fields at once. Attribute names beginning with an underscore are private and no fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """
        Args:
            image_size: (height, width) in pixels of the image the fields refer to.
            kwargs: initial fields.
        """
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # "_fields" itself is absent while an instance is being unpickled or copied
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field {name!r}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set field ``name``.

        Raises:
            AssertionError: ``value`` differs in length from the fields already there.
        """
        if self._fields:
            assert len(self) == len(value), f"Field {name!r} has length {len(value)}, the others have {len(self)}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether the field exists."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field (KeyError if absent)."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field (KeyError if absent)."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Return new instances with ``.to(...)`` called on every field that has it."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: Any) -> Instances:
        """Select objects by int (one object), slice, boolean mask or index tensor.

        Raises:
            IndexError: an int outside [-N, N).
        """
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Instances index {item} is out of range for {len(self)} objects")
            item = slice(item, None, len(self))  # one object, kept as a list of one in every field
        return Instances(self._image_size, **{k: v[item] for k, v in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return value.__len__()
        raise NotImplementedError("Instances without fields has no length")

    def __iter__(self):
        raise NotImplementedError("Instances is not iterable; index it, or iterate over a field")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Concatenate objects of the same image size; the fields are those of the first element.

        Raises:
            AssertionError: an empty list, another type, or different image sizes.
            ValueError: a field that is neither tensor nor list nor has a ``cat``.
        """
        assert len(instance_lists) > 0
        assert all(isinstance(i, Instances) for i in instance_lists)
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        assert all(i.image_size == first.image_size for i in instance_lists), "Image sizes differ"
        result = Instances(first.image_size)
        for name, value in first.get_fields().items():
            parts = [i.get(name) for i in instance_lists]
            if isinstance(value, torch.Tensor):
                merged = torch.cat(parts, dim=0)
            elif isinstance(value, list):
                merged = list(itertools.chain(*parts))
            elif hasattr(type(value), "cat"):
                merged = type(value).cat(parts)
            else:
                raise ValueError(f"Field {name!r} of type {type(value)} cannot be concatenated")
            result.set(name, merged)
        return result

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        size = f"num_instances={len(self)}, image_height={height}, image_width={width}"
        return f"{type(self).__name__}({size}, fields=[{fields}])"
