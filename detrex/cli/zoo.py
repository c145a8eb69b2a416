"""``detrex zoo``: published checkpoints, listed, evaluated beside the published AP, or as tables for the READMEs."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import expanduser
from pathlib import Path
from urllib.parse import urlparse

from detrex.checkpoint import CheckpointError, files_of, replace_file, resolve_checkpoint
from detrex.config import ConfigError, find_config
from detrex.distributed.errors import with_exit_status
from detrex.engine.train import main as train

from . import train as training

__all__ = [
    "Entry",
    "Outcome",
    "build_parser",
    "check_digest",
    "commands",
    "evaluate_entries",
    "main",
    "read_zoo",
    "select_entries",
    "table",
    "update_readme",
]

TOLERANCE = 0.1
PROJECTS = ("deformable_detr", "h_deformable_detr")
BEGIN, END = "<!-- zoo: written by detrex zoo readme -->", "<!-- end of zoo -->"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex zoo",
        description="List published checkpoints, evaluate them beside the published AP, or write the README tables.",
        epilog="example: detrex zoo evaluate h_deformable_detr_r50 --opts dataloader.test.num_workers=8. Exit status: "
        "0, 1 an AP differs or an entry fails, 2 wrong command line.",
    )
    parser.add_argument("action", choices=["list", "evaluate", "readme"])
    parser.add_argument("pattern", nargs="?", default="", help="only entries whose source, config or URL contains this")
    parser.add_argument("--checkpoints", type=expanduser, help="folder with files that need no download")
    parser.add_argument(
        "--record",
        type=expanduser,
        default="output/zoo/sha256.json",
        help="hashes of first downloads (%(default)s)",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every config")
    return parser


@with_exit_status(OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """List, evaluate or write as the command line says; returns the exit status."""
    args = build_parser().parse_args(argv)
    if args.action == "readme":
        for project in PROJECTS:
            path = find_config(f"projects/{project}/zoo.json").with_name("README.md")
            path.write_text(update_readme(project, path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    entries = select_entries(args.pattern)
    if args.action == "list":
        for entry in entries:
            print(f"# {entry.source}: {entry.name}, {entry.backbone}: {entry.box_ap}\n{entry.command}")
        return 0
    outcomes = []
    for outcome in evaluate_entries(
        entries,
        record=Path(args.record),
        checkpoints=Path(args.checkpoints) if args.checkpoints else None,
        overrides=args.opts,
    ):
        outcomes.append(outcome)
        print(outcome, flush=True)
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


@dataclass(frozen=True)
class Entry:
    """A checkpoint that somebody published.

    Attributes:
        source: who published it; of what ``sources`` says about them.
        project, config: the config that describes it, ``projects/<project>/configs/<config>.py``.
        overrides: of that config, for the figure.
        name, backbone, queries, epochs: what it is.
        box_ap: as published, on COCO val2017, of ``detections`` detections of an image.
        url: of the file.
    """

    source: str
    project: str
    config: str
    name: str
    backbone: str
    queries: int
    epochs: int
    box_ap: float
    detections: int
    url: str
    overrides: Sequence[str] = field(default=())

    @property
    def config_file(self) -> str:
        """Path of the config from the folder that holds ``projects/``."""
        return f"projects/{self.project}/configs/{self.config}.py"

    @property
    def file(self) -> str:
        """What to give as ``train.init_checkpoint``; Google Drive hands out a file only to a person."""
        return "/path/to/downloaded.pth" if "drive.google.com" in self.url else self.url

    @property
    def command(self) -> str:
        """The evaluation, as a shell command."""
        words = [f"detrex evaluate --config-file {self.config_file}", f"--weights {self.file}", *self.overrides]
        return " ".join(words)


def read_zoo(project: str) -> tuple[dict[str, str], list[Entry]]:
    """What is known of each source, and the entries, of ``projects/<project>/zoo.json``."""
    sources = json.loads(find_config(f"projects/{project}/zoo.json").read_text())["sources"]
    entries = [
        Entry(source=source, project=project, **row) for source, block in sources.items() for row in block["rows"]
    ]
    return {source: block["about"] for source, block in sources.items()}, entries


def select_entries(pattern: str = "") -> list[Entry]:
    """All projects' entries whose source, config or URL holds ``pattern``."""
    entries = [entry for project in PROJECTS for entry in read_zoo(project)[1]]
    return [e for e in entries if any(pattern in text for text in (e.source, e.config, e.url))]


def table(entries: Sequence[Entry]) -> str:
    """A Markdown table."""
    lines = ["| name | backbone | queries | epochs | box AP | of | config | weights |"]
    lines.append("|:--|:--|--:|--:|--:|--:|:--|:--|")
    for e in entries:
        link = f"`{e.url}`" if e.url.startswith("hf://") else f"[model]({e.url})"
        lines.append(
            f"| {e.name} | {e.backbone} | {e.queries} | {e.epochs} | {e.box_ap} | {e.detections} "
            f"| [config](configs/{e.config}.py) | {link} |"
        )
    return "\n".join(lines)


def commands(entries: Sequence[Entry]) -> str:
    """The evaluation command of every entry, in a folded Markdown block."""
    blocks = [f"# {e.name}, {e.backbone}, {e.epochs} epochs: {e.box_ap}\n{e.command}" for e in entries]
    text = "\n\n".join(blocks)
    return f"<details><summary>Evaluation commands</summary>\n\n```\n{text}\n```\n\n</details>"


def update_readme(project: str, text: str) -> str:
    """A project's README with its tables written anew.

    Raises:
        ValueError: if the text has no place for them.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the README of {project} has no lines {BEGIN!r} and {END!r}")
    about, entries = read_zoo(project)
    sections = []
    for source, words in about.items():
        own = [entry for entry in entries if entry.source == source]
        sections.append(f"### {source}\n\n{words}\n\n{table(own)}\n\n{commands(own)}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}"


def sha256(files: Iterable[str]) -> str:
    """Hash of files one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def check_digest(url: str, digest: str, record: Path) -> bool:
    """Compare a file's hash with what is known of it.

    Publishers state none, but that OpenMMLab ends names with its first eight digits. So the hash of the first download
    is written to ``record``, a JSON object of URL -> SHA-256, and later ones must equal it.

    Returns:
        Whether the record had it.

    Raises:
        CheckpointError: the hash is another.
    """
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", url)
    if in_name and not digest.startswith(in_name[1]):
        raise CheckpointError(f"{url}: its SHA-256 should begin with {in_name[1]}, as its name says, but is {digest}")
    known = json.loads(record.read_text()) if record.is_file() else {}
    if known.get(url, digest) != digest:
        raise CheckpointError(
            f"{url}: its SHA-256 is {digest}, but was {known[url]} when it was first fetched: the file was replaced or "
            f"is damaged. Fetch it again or, if it is right, remove the line of it in {record}"
        )
    if url in known:
        return True
    record.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(known | {url: digest}, indent=1, sort_keys=True)
    replace_file(record, lambda file: file.write(f"{text}\n".encode()))
    return False


@dataclass(frozen=True)
class Outcome:
    """What came of an entry: its file's hash, whether it was known before, and its AP; or the error in the way."""

    entry: Entry
    sha256: str = ""
    known: bool = False
    box_ap: float = float("nan")
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the AP is the published one, which is rounded to 0.1 and may be of another decoder of JPEG."""
        return abs(self.box_ap - self.entry.box_ap) <= TOLERANCE

    def __str__(self) -> str:
        e = self.entry
        what = self.error or f"{self.box_ap:.2f}, published {e.box_ap}: {'agrees' if self.agrees else 'DIFFERS'}"
        file = f" [SHA-256 {self.sha256[:12]}, {'as before' if self.known else 'recorded'}]" if self.sha256 else ""
        return f"{e.source}: {e.config} ({e.detections}): {what}{file}"


def evaluate_entries(
    entries: Iterable[Entry], *, record: Path, checkpoints: Path | None = None, overrides: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Fetch, hash, convert and evaluate each entry, on one device; an entry that fails does not stop the others.

    Args:
        entries: to evaluate.
        record: of hashes, see :func:`check_digest`.
        checkpoints: folder with files that are not to be downloaded, under their published names or, for those of
            Google Drive, as ``<config>.pth``.
        overrides: of every config, such as where the data is.
    """
    for entry in entries:
        digest = ""
        try:
            file = resolve_checkpoint(_local(entry, checkpoints) or entry.url)
            digest = sha256(files_of(file))
            known = check_digest(entry.url, digest, record)
            words = [
                "--config-file",
                entry.config_file,
                "--eval-only",
                training.override("train.init_checkpoint", file),
            ]
            output = f"train.output_dir=./output/zoo/{entry.project}/{entry.config}"
            results = train(training.build_parser().parse_args([*words, output, *entry.overrides, *overrides]))
            yield Outcome(entry, digest, known, results["bbox"]["AP"])
        except (ConfigError, CheckpointError) as e:
            yield Outcome(entry, digest, error=f"{type(e).__name__}: {e}")


def _local(entry: Entry, folder: Path | None) -> str | None:
    if folder is None:
        return None
    names = [f"{entry.config}.pth"] if "drive.google.com" in entry.url else [Path(urlparse(entry.url).path).name]
    return next((str(folder / name) for name in names if (folder / name).exists()), None)
