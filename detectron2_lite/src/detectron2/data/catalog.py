"""Names of data sets: how to load them, and what is known about them."""

from __future__ import annotations

import copy
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        """Names in order of registration."""
        return [*self.keys()]

    def remove(self, name: str) -> None:
        """Forget a name (KeyError if unknown)."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """From a name to a function without arguments that returns the data set as ``list[dict]`` (or a torch Dataset)."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Register ``func``, which must return the same data at every call.

        Raises:
            AssertionError: ``func`` is not callable, or the name is taken.
        """
        assert callable(func), f"Data set {name!r} must be registered with a function, got {type(func)}"
        assert name not in self, f"Data set {name!r} is already registered"
        self[name] = func

    def get(self, name: str) -> Any:
        """Load the data set.

        Raises:
            KeyError: unknown name.
        """
        if name not in self:
            raise KeyError(f"Data set {name!r} is not registered; known are: {', '.join(self)}")
        return self[name]()

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self)})"


class Metadata(types.SimpleNamespace):
    """What is known about a data set. Attributes are set once: a second, different value is an error."""

    name: str = "N/A"  # so that the messages below can be made while an object is being unpickled

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"Metadata of data set {self.name!r} has no {key!r}; it has {sorted(self.__dict__)}")

    def __setattr__(self, key: str, val: Any) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == val, f"{key!r} of data set {self.name!r} is already set, to another value:\n{old} != {val}"
        else:
            super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy as a dict."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes; returns self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or ``default`` if absent."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """From a name to its one :class:`Metadata`."""

    def get(self, name: str) -> Metadata:
        """The metadata of ``name``, created empty at first use.

        Raises:
            AssertionError: the name is empty.
        """
        assert len(name), "A data set needs a name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
