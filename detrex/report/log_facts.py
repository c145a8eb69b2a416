"""What ``log.txt`` says of a run: where it ran, on what, how long, with how much memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["environment", "facts"]

# label -> pattern of the line; the last one in the log counts, for a resumed run
_FACTS: Mapping[str, str] = {
    "Command": r"Command line: (.+)",
    "Model": r"Model (\S+: .+)",
    "Training data": r"detrex\.data\.prepare INFO: (\S+_train: .+)",
    "Validation data": r"detrex\.data\.prepare INFO: (\S+_val: .+)",
    "Schedule": r"Schedule: (.+)",
    "Learning rate": r"Learning rate: (.+)",
    "Host": r"Host: (.+)",
    "Device": r"Process 0 (of \d+ on .+)",
    "Operator": r"Operator backend: (.+)",
    "Training time": r"Total training time: (.+)",
    "Speed": r"Overall training speed: (.+)",
    "Evaluation": r"Total inference time: (.+)",
    "Peak memory": r"Peak memory at the end: (.+)",
}
_TIMESTAMP = re.compile(r"^(?:\x1b\[\d+m)?\[(\d\d/\d\d \d\d:\d\d:\d\d)", re.MULTILINE)


def facts(log: str) -> dict[str, str]:
    """Label -> value of everything that the log tells, and when it was first and last written to."""
    found = {}
    for label, pattern in _FACTS.items():
        matches = re.findall(pattern, log)
        if matches:
            found[label] = matches[-1].strip()
    if "Device" in found:
        number, _, device = found["Device"].removeprefix("of ").partition(" on ")
        found["Device"] = device if number == "1" else f"{number} processes, the first on {device}"
    times = _TIMESTAMP.findall(log)
    if times:
        found["Logged"] = f"{times[0]} to {times[-1]} (month/day)"
    starts = len(re.findall(_FACTS["Command"], log))
    if starts > 1:
        found["Logged"] = f"{found.get('Logged', '')}, started {starts} times"
    return found


def environment(log: str) -> str:
    """The last description of the software that the log holds; "" without one."""
    blocks = re.findall(r"Environment:\n(.*?)(?=^(?:\x1b\[\d+m)?\[\d\d/\d\d )", log, re.DOTALL | re.MULTILINE)
    return blocks[-1].strip() if blocks else ""
