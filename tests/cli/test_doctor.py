"""detrex doctor: one line for each finding, advice for each problem."""

from __future__ import annotations

import sys
import types

import pytest
import torch

import detrex_ops
from detrex.cli import doctor
from detrex.cli.doctor import examine, main


def found(subject: str) -> list[doctor.Finding]:
    return [finding for finding in examine() if finding.subject == subject]


def test_this_installation_has_no_problem(capsys):
    assert main([]) == 0
    report = capsys.readouterr().out
    for text in (f"torch       {torch.__version__}", "host        detectron2", "operator    cpu", "no problems"):
        assert text in report


def test_notes_and_problems_come_with_advice(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/instances_val2017.json").touch()
    (finding,) = found("COCO")
    assert finding.level == "note"
    assert "instances_train2017.json, train2017, val2017" in finding.text
    assert "-> set DETECTRON2_DATASETS" in str(finding)
    assert all(finding.advice for finding in examine() if finding.level != "ok")


def test_a_whole_coco_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in ("annotations", "train2017", "val2017"):
        (tmp_path / "coco" / name).mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"coco/annotations/instances_{split}2017.json").touch()
    assert [finding.level for finding in found("COCO")] == ["ok"]


@pytest.mark.parametrize(("value", "level"), [("cpuu", "problem"), ("reference", "note")])
def test_the_operator_that_was_forced(monkeypatch, value, level):
    monkeypatch.setenv("DETREX_OPS", value)
    forced, chosen = found("operator")[:2]
    assert f"DETREX_OPS={value}" in forced.text
    assert chosen.level == level
    if value == "reference":
        assert detrex_ops.build_report().splitlines()[0] in chosen.advice


def test_cuda_kernels_that_were_not_compiled_are_told_with_the_remedy(monkeypatch):
    report = "cpu: built\ncuda: not built: this machine has no NVIDIA GPU; install again with DETREX_OPS_BUILD=cuda"
    monkeypatch.setattr(detrex_ops, "build_report", lambda: report)
    line = found("operator")[-1]
    assert line.text == report.splitlines()[1]
    assert line.level == ("note" if torch.cuda.is_available() else "ok")


def test_a_kernel_that_fails_its_self_test_is_a_problem(monkeypatch, capsys):
    def fail(device):
        raise RuntimeError("the kernel differs")

    monkeypatch.setattr(detrex_ops, "backend", fail)
    assert main([]) == 1
    assert "cpu: the kernel differs" in capsys.readouterr().out


def test_versions_that_do_not_belong_together(monkeypatch):
    broken = types.ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", broken)  # has no ops: what a mismatched build looks like
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    assert [f.level for f in found("torch")] == ["problem"]
    assert "from the same index" in found("torchvision")[0].advice


def test_an_old_detectron2_is_refused(monkeypatch):
    monkeypatch.setattr("detrex.engine.run_config.get_default_optimizer_params", lambda model, base_lr: [])
    (finding,) = found("host")
    assert finding.level == "problem"
    assert "too old" in finding.text


def test_a_check_that_fails_is_a_problem_of_its_own(monkeypatch):
    def unlucky():
        raise OSError("no such device")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (unlucky, doctor.python))
    first, second = examine()
    assert (first.level, first.subject, first.text) == ("problem", "unlucky", "OSError: no such device")
    assert second.level == "ok"
