"""What this distribution leaves out of detectron2, and how it says so.

A name of the full library that is not here fails at import, with the reason and the way out, instead of with a bare
"cannot import name".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, NoReturn

VERSION = "0.6+lite.1"

_WAY_OUT = (
    "To use it, replace the subset by the full library: pip uninstall detectron2 && "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)

_PARAGRAPHS = Path(__file__).with_name("_left_out.txt").read_text(encoding="utf-8").split("\n\n")[1:]
LEFT_OUT = {module: frozenset(names.split()) for module, _, names in (p.partition(":") for p in _PARAGRAPHS)}


def missing(module: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module, which explains the absence of the names in ``LEFT_OUT[module]``.

    The function raises ImportError for those names only. Any other attribute is an ordinary AttributeError: pickle
    asks every loaded module for the name of an object that does not know its own module, and expects no more than that.
    """
    left_out = LEFT_OUT.get(module, frozenset())

    def __getattr__(name: str) -> NoReturn:
        if name in left_out:
            raise ImportError(
                f"{module}.{name} is not part of this detectron2 ({VERSION}, a maintained subset). {_WAY_OUT}",
                name=module,
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


class _AbsentModules(MetaPathFinder):
    """The last finder asked: turns a missing ``detectron2.*`` module into an explanation."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.startswith("detectron2."):
            raise ModuleNotFoundError(
                f"No module named {fullname!r} in this detectron2 ({VERSION}, a maintained subset). {_WAY_OUT}",
                name=fullname,
            )


def explain_absent_modules() -> None:
    """Install the finder once per process."""
    if not any(type(finder).__name__ == _AbsentModules.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_AbsentModules())
