"""Execution of Python config files.

Within a config file a relative import names another config *file*, found from the importing file's own place: no
package, no ``__init__.py``, no cache. Each file therefore runs with its own ``__import__`` in its own builtins; the
interpreter's import is never touched, so a config that raises leaves nothing behind and threads do not meet.
"""

import builtins
import os
import types
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

_PACKAGE = "detectron2._cfg_loader"
_NOT_A_FILE = "A relative import within a config file can only import names from another config file."


def run_config_file(filename: str) -> dict[str, Any]:
    """Execute a Python config file and return its namespace.

    Raises:
        SyntaxError: the file is not valid Python; the message names it.
        ImportError: a relative import in it does not lead to a config file.
    """
    with PathManager.open(filename, "r") as f:
        source = f.read()
    try:
        code = compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error! line {error.lineno}: {error.msg}") from error
    package = f"{_PACKAGE}{uuid.uuid4().hex[:4]}.{os.path.basename(filename)}"
    namespace = {
        "__file__": filename,
        "__name__": package,
        "__package__": package,
        "__builtins__": {**vars(builtins), "__import__": _import_from_config},
    }
    exec(code, namespace)
    return namespace


def as_config(value: Any) -> Any:
    """Turn a dict into a DictConfig; leave anything else as it is."""
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def _import_from_config(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> types.ModuleType:
    if level == 0:
        return builtins.__import__(name, globals, locals, fromlist, level)
    importer = globals["__file__"]
    filename = _relative_file(importer, name, level)
    namespace = run_config_file(filename)
    names = list(namespace) if "*" in fromlist else fromlist
    for imported in names:
        if imported not in namespace:
            raise ImportError(f"Cannot import {imported!r} in config file {importer}: {filename} does not define it.")
        namespace[imported] = namespace[imported] if imported.startswith("__") else as_config(namespace[imported])
    module = types.ModuleType(namespace["__name__"])
    vars(module).update(namespace)
    return module


def _relative_file(importer: str, name: str, level: int) -> str:
    statement = f"'from {'.' * level}{name} import ...' in config file {importer}"
    if not name:
        raise ImportError(f"Cannot run {statement}. {_NOT_A_FILE}")
    folder = importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    stem = os.path.join(folder, *name.split("."))
    if PathManager.isfile(f"{stem}.py"):
        return f"{stem}.py"
    if PathManager.isdir(stem):
        raise ImportError(f"Cannot run {statement}: {stem} is a directory. {_NOT_A_FILE}")
    raise ImportError(f"Cannot run {statement}: {stem}.py does not exist.")
