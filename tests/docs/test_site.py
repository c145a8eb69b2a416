"""The documentation site: it builds without a warning, is complete, and opens offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detrex.__main__ import COMMANDS

pytest.importorskip("sphinx", reason="the site needs the docs extra")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-c",
        "docs",
        "-b",
        "html",
    ]
    paths = os.pathsep.join(path for path in [str(ROOT), *sys.path] if path)
    built = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), ".", str(folder / "html")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_it_builds_without_a_warning_and_opens_at_its_index(site):
    (target,) = re.findall(r'url=([^"]+)"', (site / "index.html").read_text())
    assert "Quickstart" in (site / target).read_text()


def test_every_page_of_docs_is_on_it(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT).with_suffix(".html")).is_file(), page


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|link)[^>]* (?:src|href)="([^"]+)"', page.read_text())
        assert not [url for url in loaded if re.match(r"(https?:)?//", url)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_reference_has_every_module_and_command(site):
    reference = "".join(page.read_text() for page in (site / "docs/api").glob("*.html"))
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("detrex", "detrex_ops", "projects")
        for path in (ROOT / package).rglob("*.py")
        if "configs" not in path.parts
    ]
    containers = [name for name in modules if name.startswith("projects") and name.count(".") < 2]
    scripts = ["detrex.__main__", "projects.h_deformable_detr.train_net"]
    absent = {name for name in modules if f'id="module-{name}"' not in reference} - {*containers, *scripts}
    assert not absent
    for command in COMMANDS:
        assert f"usage: detrex {command}" in reference, command
