"""From names to objects and back."""

import contextlib
import functools
import importlib
from typing import Any

from fvcore.common.registry import Registry as Registry


def locate(name: str) -> Any:
    """Return the object that a dotted path such as ``torch.optim.SGD`` or ``pkg.module.Class.method`` names.

    Raises:
        ImportError: no prefix of ``name`` can be imported, or what was imported lacks the rest. An exception raised
            by a module that does exist is passed on unchanged.
    """
    parts = name.split(".")
    if not all(parts):
        raise ImportError(f"Cannot locate {name!r}: it is not a dotted path.")
    for length in range(len(parts), 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Either module_name itself or a parent of it is absent: try a shorter prefix. If it is some other
            # module, then module_name exists and one of its own imports is broken.
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise
            continue
        try:
            return functools.reduce(getattr, parts[length:], found)
        except AttributeError as error:
            raise ImportError(f"Cannot locate {name!r}: {error}.") from error
    raise ImportError(f"Cannot locate {name!r}: there is no module {parts[0]!r}.")


def _convert_target_to_string(t: Any) -> str:
    """Return the shortest dotted path by which :func:`locate` finds ``t``.

    Shorter than ``t.__module__`` where a package re-exports its private modules (``torch.nn.Conv2d``), which also
    survives a later move of the implementation. An object that cannot be located gets its full path.

    Raises:
        AttributeError: ``t`` has no ``__module__`` or ``__qualname__``.
    """
    parts = t.__module__.split(".")
    for length in range(1, len(parts)):
        candidate = ".".join([*parts[:length], t.__qualname__])
        with contextlib.suppress(ImportError):
            if locate(candidate) is t:
                return candidate
    return f"{t.__module__}.{t.__qualname__}"
