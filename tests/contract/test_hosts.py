"""What docs/hosts.md promises: the list of differences is complete, and a host that is too old is refused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from detrex.engine import run_config as setup

HERE = Path(__file__).parent


def _differences() -> Iterator[tuple[str, str]]:
    """("area | test", reason) of every ``lite_only`` mark, on a test or on one of its parameters."""
    for path in sorted(HERE.glob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in (node for decorator in function.decorator_list for node in ast.walk(decorator)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lite_only":
                    yield (
                        f"{path.stem.removeprefix('test_')} | {function.name.removeprefix('test_')}",
                        node.args[0].value,
                    )


def test_every_difference_is_documented() -> None:
    differences = dict(_differences())
    assert len(differences) > 50
    text = (HERE.parents[1] / "docs" / "hosts.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    documented = {f"{row[0]} | {row[2]}": row[1] for row in rows if len(row) == 3}
    assert {test: documented.get(test) for test in differences} == differences


def test_a_detectron2_of_2021_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_v06(model, base_lr=None, weight_decay_norm=None, bias_lr_factor=1.0, overrides=None):
        raise AssertionError("not called")

    assert "detectron2" in setup.describe_host()
    monkeypatch.setattr(setup, "get_default_optimizer_params", of_v06)
    with pytest.raises(setup.ConfigError, match="too old"):
        setup.describe_host()
