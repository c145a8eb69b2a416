"""Every name that code takes from detectron2 is where it is looked for, and is called as it was."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from .conftest import LITE, lite_only
from .surface_core import SURFACE as CORE

try:
    from .surface_data import SURFACE as DATA
except ImportError:
    DATA = {}


def _find(name: str) -> Any:
    """By import of the longest module, as ``from module import name`` does it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["detectron2", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


def _signature(found: Any) -> str:
    if inspect.isclass(found):
        if found.__init__ is object.__init__:
            return "()"
        found = found.__init__
    parameters = inspect.signature(found).parameters.values()
    return str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters if p.name != "self"]))


@pytest.mark.parametrize(("name", "signature"), [*CORE.items(), *DATA.items()])
def test_name_and_signature(name: str, signature: str | None) -> None:
    found = _find(name)
    if signature is not None:
        assert _signature(found) == signature


LEFT_OUT = importlib.import_module("detectron2._subset").LEFT_OUT if LITE else {}


@pytest.mark.parametrize("module", LEFT_OUT)
def test_names_left_out_say_so(module: str) -> None:
    for name in LEFT_OUT[module]:
        with pytest.raises(ImportError, match=rf"{name} is not part of this detectron2.*subset.*pip install"):
            exec(f"from {module} import {name}")


@lite_only("has these modules")
def test_modules_left_out_say_so() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"detectron2\.export.*subset"):
        importlib.import_module("detectron2.export")


def test_unknown_attributes_are_ordinary_errors() -> None:
    config = importlib.import_module("detectron2.config")
    assert not hasattr(config, "float32")  # pickle asks this of every module
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from detectron2.config import no_such_name")
