"""Where checkpoints are: files, folders of Hugging Face's layout on this machine or on its hub, downloads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlparse
from urllib.request import url2pathname

from detectron2.utils.file_io import PathManager

from detrex.utils.regular_files import NotRegularFileError, open_regular

from .dialects.errors import CheckpointError
from .writing import replace_file

__all__ = ["INDEX_SUFFIX", "SUFFIXES", "resolve_checkpoint", "sha256_of", "shards_of", "split_choice"]

logger = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".pkl")
HUB_PREFIX = "hf://"
INDEX_SUFFIX = ".index.json"
# What save_pretrained of transformers writes, the preferred first; an index lists the files of a model in several.
_BASE_NAMES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = tuple(name + end for name in _BASE_NAMES for end in ("", INDEX_SUFFIX))
# PyTorch's convention: resnet50-0676ba61.pth, the beginning of the file's SHA-256
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def split_choice(path: str) -> tuple[str, str]:
    """A path and its choice between two sets of weights, "ema" or "raw" after a question mark; "" if it has none."""
    file, _, choice = path.rpartition("?")
    return (file, choice) if file and choice in ("ema", "raw") else (path, "")


def resolve_checkpoint(path: str | os.PathLike) -> str:
    """Local file of a checkpoint; what is remote is downloaded once and cached.

    Args:
        path: a file; a folder of Hugging Face's layout; ``hf://organisation/name``, ``@revision`` and ``/file`` after
            it if need be; ``http(s)://``, ``file://`` or ``detectron2://``. ``?ema`` or ``?raw`` after any of these
            chooses the weights of a file that holds both; the result has it as well.

    Raises:
        CheckpointError: the file is absent, or the download failed.
    """
    path, choice = split_choice(os.fspath(path))
    return _local_file(path) + (f"?{choice}" if choice else "")


def _local_file(path: str) -> str:
    if path.startswith(HUB_PREFIX):
        return download_from_hub(path)
    parsed = urlparse(path)
    queries = parse_qs(parsed.query) if "://" in path else {}
    if queries.pop("matching_heuristics", ["True"]) != ["True"] or queries:
        raise CheckpointError(f"checkpoint {path}: unknown query {parsed.query!r}")
    if parsed.scheme == "file":
        path = url2pathname(parsed.path)
    elif "://" in path:
        return download(parsed._replace(query="").geturl())
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        return weights_in_folder(Path(path))
    folder = Path(path).parent
    there = sorted(p.name for p in folder.glob("*") if p.suffix in SUFFIXES) if folder.is_dir() else None
    listing = f"{folder} does not exist" if there is None else f"{folder} has {', '.join(there) or 'no checkpoint'}"
    raise CheckpointError(f"checkpoint {path} not found: {listing}")


def weights_in_folder(folder: Path) -> str:
    """The weights in a folder of Hugging Face's layout.

    Raises:
        CheckpointError: it has none of the names.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return str(folder / name)
    raise CheckpointError(f"{folder} is a folder without {', '.join(WEIGHT_FILES)}: give a file in it")


def download_from_hub(path: str) -> str:
    """Fetch ``hf://organisation/name``, ``@revision`` and ``/file`` after it if need be, into the hub's own cache.

    Returns:
        The file, all shards beside it if it is an index.

    Raises:
        CheckpointError: the path has another form, or the download failed.
    """
    # Slow to import, and of no use to most runs.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    organisation, _, rest = path.removeprefix(HUB_PREFIX).partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not organisation or not name:
        raise CheckpointError(f"{path} is not of the form {HUB_PREFIX}organisation/name")
    repository = f"{organisation}/{name}"
    missing: Exception | None = None
    for candidate in [file] if file else WEIGHT_FILES:
        try:
            local = hf_hub_download(repository, candidate, revision=revision or None)
            for shard in shards_of(local):
                hf_hub_download(repository, str(PurePosixPath(candidate).with_name(shard)), revision=revision or None)
            return local
        except EntryNotFoundError as e:  # also of an unreachable hub, for a file that is not in the cache
            missing = e if missing is None or isinstance(e, LocalEntryNotFoundError) else missing
        except (OSError, ValueError) as e:
            raise CheckpointError(_advice(path, repository, e)) from e
    if isinstance(missing, LocalEntryNotFoundError):
        raise CheckpointError(_advice(path, repository, missing)) from missing
    raise CheckpointError(f"{path}: {repository} has no {file or ' or '.join(WEIGHT_FILES)}") from missing


def _advice(path: str, repository: str, error: Exception) -> str:
    return (
        f"cannot download {path}: {error}. Is {repository} the name on huggingface.co? A private one needs "
        f"`hf auth login`. Without a network, run `hf download {repository} --local-dir FOLDER` elsewhere and give "
        "the folder: train.init_checkpoint=FOLDER"
    )


def shards_of(filename: str) -> list[str]:
    """Names of the files that an index lists; none if the file is no index.

    Raises:
        CheckpointError: the index cannot be read, or names files outside its folder.
    """
    if not filename.endswith(INDEX_SUFFIX):
        return []
    try:
        with open_regular(filename, "r") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    except (NotRegularFileError, RecursionError, ValueError, KeyError, AttributeError, TypeError) as e:
        raise CheckpointError(f"checkpoint {filename} is no index of weights: {type(e).__name__}: {e}") from e
    outside = [
        n for n in names if not isinstance(n, str) or not n.isprintable() or n in ("", "..") or Path(n).name != n
    ]
    if outside:
        raise CheckpointError(f"checkpoint {filename} names files outside its folder: {outside!a}")
    return names


def download(url: str) -> str:
    """Local file of a URL; detectron2's cache, which moves finished downloads into their place.

    The SHA-256 is logged, kept beside the file at its first use, and compared at every later one; and with the name
    where that states it.

    Raises:
        CheckpointError: the download failed, or the hash is another one.
    """
    try:
        path = PathManager.get_local_path(url)
    except Exception as e:  # of any type, by the handler of the URL
        raise CheckpointError(
            f"cannot download {url}: {e}. Without a network, fetch it elsewhere and give "
            "train.init_checkpoint=/path/to/file, or train.init_checkpoint='' to start from scratch"
        ) from e
    _compare(url, Path(path))
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal digits of a file's hash."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _compare(url: str, path: Path) -> None:
    found, note = sha256_of(path), Path(f"{path}.sha256")
    named = _HASH_IN_NAME.search(url)
    expected = {"its name": named[1]} if named else {}
    if note.is_file():
        expected["an earlier download"] = note.read_text().strip()
    for source, digits in expected.items():
        if not found.startswith(digits) or not digits:
            raise CheckpointError(
                f"{path}, downloaded from {url}, has the SHA-256 {found}, but by {source} it is {digits}...: remove "
                f"{path} and {note.name} and try again"
            )
    if not note.is_file():
        logger.info("%s: SHA-256 %s", url, found)
        try:
            replace_file(note, lambda f: f.write(found.encode()))
        except OSError as e:
            logger.warning("%s cannot be written: %s", note, e)
