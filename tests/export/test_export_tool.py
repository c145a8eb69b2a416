"""``detrex export`` as it is called."""

from __future__ import annotations

import pytest
from detector_workspace import CONFIG

from detrex.cli.export import main

onnx = pytest.importorskip("onnx", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxscript", reason="pip install 'detrex[export]'")


def tool(*arguments: str) -> int:
    return main(arguments)


def test_a_checkpoint_is_enough(workspace, tmp_path, capsys):
    weights, small = str(workspace / "model.pth"), ["--fixed-size", "96x96", "--batch-size", "1", "--formats", "onnx"]
    assert tool("--weights", weights, "--output", str(tmp_path), *small) == 0
    assert "allowed 1e-05" in capsys.readouterr().out
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim] == [1, 3, 96, 96]


def test_an_evaluation_needs_a_config(workspace, tmp_path, capsys):
    assert tool("--weights", str(workspace / "model.pth"), "--output", str(tmp_path), "--evaluate") == 2
    assert "--evaluate needs --config-file" in capsys.readouterr().err


def test_overrides_are_checked(workspace, tmp_path, capsys):
    arguments = ["--config-file", CONFIG, "--weights", str(workspace / "model.pth"), "--output", str(tmp_path)]
    assert tool(*arguments, "--opts", "model.num_selct=3") == 2
    assert "num_selct" in capsys.readouterr().err
