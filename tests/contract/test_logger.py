"""Logging to console and file."""

from __future__ import annotations

import logging
import re
import uuid
from pathlib import Path

import pytest
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)

from .conftest import lite_only


@pytest.fixture
def name() -> str:
    """A logger of its own for each test."""
    return f"test_{uuid.uuid4().hex[:8]}"


def _flush(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        handler.flush()
        handler.stream.flush()


def test_console_format(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    setup_logger(name=name, abbrev_name="short")
    logging.getLogger(f"{name}.part").info("hello")
    logging.getLogger(f"{name}.part").warning("careful")
    logging.getLogger(f"{name}.part").error("broken")
    info, warning, error = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[\d\d/\d\d \d\d:\d\d:\d\d short\.part\]: hello", info)
    assert re.fullmatch(r"WARNING \[.* short\.part\]: careful", warning)
    assert re.fullmatch(r"ERROR \[.* short\.part\]: broken", error)


@pytest.mark.parametrize(("rank", "filename"), [(0, "log.txt"), (2, "log.txt.rank2")])
def test_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int, filename: str) -> None:
    logger = setup_logger(str(tmp_path / "new"), rank, name=name)
    logging.getLogger(f"{name}.part").info("hello")
    _flush(logger)
    text = (tmp_path / "new" / filename).read_text()
    assert re.fullmatch(rf"\[\d\d/\d\d \d\d:\d\d:\d\d\] {name}\.part INFO: hello\n", text)
    assert ("hello" in capsys.readouterr().out) == (rank == 0)


def test_file_by_name_and_shared_by_loggers(name: str, tmp_path: Path) -> None:
    filename = str(tmp_path / "run.log")
    for logger_name in (name, f"{name}_other"):
        logger = setup_logger(filename, name=logger_name, configure_stdout=False)
        logger.info("from %s", logger_name)
        _flush(logger)
    assert len((tmp_path / "run.log").read_text().splitlines()) == 2


def test_no_propagation_unless_asked(name: str) -> None:
    assert setup_logger(name=name).propagate is False
    assert setup_logger(name=name, enable_propagation=True).propagate is True
    assert logging.getLogger(name).level == logging.DEBUG


@lite_only("lines double when it is called again with other arguments")
def test_setup_is_idempotent(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(name=name)
    setup_logger(str(tmp_path), name=name)
    logger = setup_logger(str(tmp_path), name=name, color=False)
    logger.info("once")
    _flush(logger)
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "log.txt").read_text().count("once") == 1


def test_first_n(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for index in range(5):
        log_first_n(logging.INFO, f"by caller {index}", n=2, name="any")
    for _ in range(3):
        log_first_n(logging.INFO, "by message", key="message", name="any")
    for index in (1, 1, 2):
        log_first_n(logging.INFO, f"by both {index}", key=("caller", "message"), name="any")
    assert caplog.messages == ["by caller 0", "by caller 1", "by message", "by both 1", "by both 2"]


def test_every_n(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for index in range(7):
        log_every_n(logging.INFO, f"third {index}", n=3)
        log_every_n_seconds(logging.INFO, f"rarely {index}", n=1000)
    assert caplog.messages == ["third 0", "rarely 0", "third 3", "third 6"]
    assert caplog.records[0].name == __name__


def test_small_table() -> None:
    header, _, row = create_small_table({"AP": 12.34567, "AP50": 50.0}).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["AP", "AP50"]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["12.346", "50.000"]
