"""The count of code lines, of which docs/hosts.md has the table."""

from __future__ import annotations

from pathlib import Path

from .code_lines import count


def test_lines_of_code_are_counted_without_docstrings_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""Doc."""\n\n# comment\n\ndef f():\n    """Doc\n\n    of f."""\n    return """a\n\n    b"""  # c\n'
    )
    assert count(path) == 4
