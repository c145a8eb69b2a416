"""Lines of code: those with a token of Python that is neither a comment nor part of a docstring.

``python tests/contract/code_lines.py PATH`` prints the table of docs/hosts.md, with a checkout of upstream at PATH.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

SUBSET = Path(__file__).parents[2] / "detectron2_lite" / "src" / "detectron2"
_BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count(path: Path) -> int:
    """Lines of code of one file."""
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _BLANK:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def counts(root: Path) -> dict[Path, int]:
    """Lines of code of the files below ``root``, by their path from there."""
    return {path.relative_to(root): count(path) for path in sorted(root.rglob("*.py"))}


def _print_table(upstream: Path) -> None:
    ours, theirs = counts(SUBSET), counts(upstream / "detectron2")
    totals: dict[str, Counter[str]] = {}
    for path, number in ours.items():
        package = path.parts[0] if len(path.parts) > 1 else "(top)"
        row = totals.setdefault(package, Counter())
        row.update(lite=number, same=theirs.get(path, 0))
    print("| package | lite | upstream, files of these names |\n|---|---|---|")
    for package, row in sorted(totals.items()):
        print(f"| {package} | {row['lite']:,} | {row['same']:,} |")
    print(f"| all | {sum(ours.values()):,} | {sum(row['same'] for row in totals.values()):,} |")
    print("larger than upstream's:", [f"{p} {n} > {theirs[p]}" for p, n in ours.items() if n > theirs.get(p, n)])


if __name__ == "__main__":
    _print_table(Path(sys.argv[1]))
