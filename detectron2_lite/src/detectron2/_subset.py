"""What this distribution leaves out of detectron2, and how it says so.

A name of the full library that is not here fails at import, with the reason and the way out, instead of with a bare
"cannot import name".
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

VERSION = "0.6+lite.1"

_WAY_OUT = (
    "To use it, replace the subset by the full library: pip uninstall detectron2 && "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)

_PARAGRAPHS = Path(__file__).with_name("_left_out.txt").read_text(encoding="utf-8").split("\n\n")[1:]
LEFT_OUT = {module: frozenset(names.split()) for module, _, names in (p.partition(":") for p in _PARAGRAPHS)}


def missing(module: str) -> Callable[[str], NoReturn]:
    """Return the ``__getattr__`` of a module, which explains the absence of the names in ``LEFT_OUT[module]``.

    The function raises ImportError for those names only. Any other attribute is an ordinary AttributeError: pickle
    asks every loaded module for the name of an object that does not know its own module, and expects no more than that.
    """

    def __getattr__(name: str) -> NoReturn:
        if name in LEFT_OUT[module]:
            raise ImportError(
                f"{module}.{name} is not part of this detectron2 ({VERSION}, a maintained subset). {_WAY_OUT}",
                name=module,
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


class _SubsetFinder(MetaPathFinder):
    """Finds ``detectron2.*``: gives the modules in ``LEFT_OUT`` their ``__getattr__``, and explains absent ones."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith("detectron2."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r} in this detectron2 ({VERSION}, a maintained subset). {_WAY_OUT}",
                name=fullname,
            )
        if fullname in LEFT_OUT:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                module.__getattr__ = missing(fullname)
                execute(module)

            spec.loader.exec_module = exec_module
        return spec


def explain_absent_names() -> None:
    """Install the finder once per process."""
    if not any(type(finder).__name__ == _SubsetFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _SubsetFinder())
