"""Sphinx: ``make docs`` writes site/; docs/decisions/0009-documentation.md has the reasons.

The source directory is the repository's root, so that a page's relative links lead to the same files on the site and on
a code host.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import detrex  # noqa: E402
from detrex.__main__ import COMMANDS  # noqa: E402

os.environ["COLUMNS"] = "100"  # of the command lines' help

project = "detrex"
release = detrex.__version__
html_title = f"detrex {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "projects/*/README.md", "benchmarks/results/*.md", "detectron2_lite/README.md"]

source_suffix = {".md": "markdown"}
myst_heading_anchors = 4  # of headings up to this level, named as code hosts name them

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_mock_imports = ["triton"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!detrex|projects).+\..+|.+\._\w+|.+\.T"),  # others' names, and private types
    ("py:class", r"(dict|tuple)\[int"),  # Sphinx splits a signature at commas where a default is <factory>
]

html_theme = "furo"
html_copy_source = False
html_extra_path = ["redirect"]  # index.html


def module_sections(patterns: re.Match) -> str:
    """Markdown of the public modules in the files that match the patterns in the first group."""
    files = [file for pattern in patterns[1].split() for file in sorted(ROOT.glob(pattern))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    section = "## {0}\n\n```{{eval-rst}}\n.. automodule:: {0}\n```\n"
    return "\n".join(section.format(name) for name in names if "._" not in name)


def command_section(command: str) -> str:
    """Markdown of a command line: what its ``--help`` prints."""
    module, _, function = COMMANDS[command][0].partition(":")
    module = importlib.import_module(f"detrex.cli.{module}")
    parsers = [module.build_parser() if function == "main" else module.build_parser(function)]
    parsers += getattr(module, "view_parsers", dict)().values()
    text = "\n".join(parser.format_help() for parser in parsers)
    return f"## detrex {command}\n\n```text\n{text}```\n"


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in ``<!-- modules: FILES ... -->``, ``<!-- commands -->`` and ``<!-- further pages -->``."""
    if docname == root_doc:
        listed = source[0].splitlines()
        further = [path.stem for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in [*listed, "index"]]
        source[0] = source[0].replace("<!-- further pages -->\n", "".join(f"{name}\n" for name in further))
    source[0] = re.sub(r"^<!-- modules: (.+) -->$", module_sections, source[0], flags=re.MULTILINE)
    if "<!-- commands -->" in source[0]:
        source[0] = source[0].replace("<!-- commands -->", "\n".join(map(command_section, COMMANDS)))


def skip_imported(app: Sphinx, kind: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out of a module's section what it only passes on: it stands where it is defined."""
    home = getattr(obj, "__module__", None)
    return True if kind == "module" and home not in (None, app.env.temp_data["autodoc:module"]) else None


def resolve_imported(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """Lead a name that a module imports or passes on to where it is defined."""
    if node.get("refdomain") != "py":
        return None
    module, _, name = node["reftarget"].rpartition(".")
    obj = getattr(sys.modules.get(module or node.get("py:module")), name, None)
    if not hasattr(obj, "__qualname__"):
        return None
    home = f"{obj.__module__}.{obj.__qualname__}"
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], home, node, text)


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-skip-member", skip_imported)
    app.connect("missing-reference", resolve_imported)
