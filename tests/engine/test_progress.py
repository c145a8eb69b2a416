"""The live line below the log, on a terminal of a few lines of code."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from detectron2.utils.events import EventStorage
from stub_detector import write_config

from detrex.cli.train import build_parser
from detrex.engine.progress import ProgressLine
from detrex.engine.train import main

LINE = re.compile(r"\d+% \d+/12  .*")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Its lines, after carriage returns, cursor movements and erasures."""
        lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|.|\n", self.getvalue()):
            if token == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif token == "\r":
                column = 0
            elif token.startswith("\x1b"):
                if token[-1] == "A":
                    row -= int(token[2:-1] or 1)
                elif token[-1] == "K":
                    lines[row] = "" if token[2:-1] == "2" else lines[row][:column]
            else:
                lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
                column += 1
        return lines


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()  # for sys.stdout, which a test must set itself: pytest's capture takes it back after fixtures


class Loop:
    """As much of a trainer as the hook looks at."""

    def __init__(self, hook: ProgressLine):
        self.hook, self.iter, self.storage = hook, 0, EventStorage()
        hook.trainer = self

    def step(self, iteration: int) -> None:
        self.iter = iteration
        self.hook._shown = 0.0
        self.hook.after_step()


def test_the_line_and_what_is_written_meanwhile(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    logger = logging.getLogger("test_progress")
    handler = logging.StreamHandler(terminal)
    logger.addHandler(handler)
    logger.propagate = False
    loop = Loop(ProgressLine(12, 4))
    loop.hook.before_train()
    loop.storage.put_scalars(total_loss=2.5, time=0.5, max_rss_mb=512.0)
    loop.step(0)
    assert terminal.screen()[0].startswith("8% 1/12  loss 2.5  8 images/s  ETA 0:00:05")
    long = "one [bold]message[/bold] " + "that is longer than the terminal is wide, " * 4 + "end"
    logger.warning(long)
    loop.storage.put_scalar("bbox/AP", 41.25)
    loop.step(5)
    print("\x1b[32mprinted\x1b[0m", end="")
    print(" in parts")
    assert terminal.screen()[:2] == [long, "printed in parts"]
    assert re.match(r"50% 6/12  loss 2.5  AP 41.2  ", terminal.screen()[2])
    print("no end of line", end="")
    loop.hook.after_train()
    assert sys.stdout is terminal
    assert handler.stream is terminal
    assert [line for line in terminal.screen() if line] == [long, "printed in parts", "no end of line"]


def test_a_run_on_a_terminal_logs_what_one_without_does(tmp_path, terminal, monkeypatch):
    def train(*options: str) -> list[str]:
        main(build_parser().parse_args(["--config-file", str(config), "train.log_period=1", *options]))
        return [line for line in terminal.screen() if line.strip()]

    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("detrex.engine.progress.REFRESH_SECONDS", 0.0)
    config = write_config(tmp_path)
    lines = train()
    raw = terminal.getvalue()
    assert "100% 12/12  loss" in raw
    assert "  AP " in raw
    assert not any(LINE.fullmatch(line) for line in lines)
    logged = (tmp_path / "output" / "log.txt").read_text().splitlines()
    for text in ("iter: 7", "Schedule: ", "Saving checkpoint", "copypaste: Task"):
        assert sum(text in line for line in lines) == sum(text in line for line in logged) > 0


@pytest.mark.parametrize("why", ["no terminal", "switched off"])
def test_elsewhere_nothing_is_added(tmp_path, terminal, monkeypatch, why):
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("detrex.engine.progress.REFRESH_SECONDS", 0.0)
    if why == "no terminal":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    options = ["train.progress_line=false"] if why == "switched off" else []
    config = write_config(tmp_path)
    main(build_parser().parse_args(["--config-file", str(config), "train.max_iter=3", "train.eval_period=0", *options]))
    assert not re.search(r"\d+% \d+/3", terminal.getvalue())
    assert "\x1b[2K" not in terminal.getvalue()


def test_the_line_goes_when_a_run_fails(tmp_path, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    config = write_config(tmp_path)
    with pytest.raises(FloatingPointError):
        main(build_parser().parse_args(["--config-file", str(config), "model.nan_from=2"]))
    assert sys.stdout is terminal
