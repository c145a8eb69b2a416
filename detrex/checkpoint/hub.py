"""Folders of Hugging Face's layout, on this machine or on its hub."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from .errors import CheckpointError

__all__ = ["HUB_PREFIX", "INDEX_SUFFIX", "download_from_hub", "shards_of", "weights_in_folder"]

HUB_PREFIX = "hf://"
INDEX_SUFFIX = ".index.json"
# What save_pretrained of transformers writes, the preferred first; an index lists the files of a model in several.
_BASE_NAMES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = tuple(name + end for name in _BASE_NAMES for end in ("", INDEX_SUFFIX))


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
        names = sorted(set(json.loads(Path(filename).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise CheckpointError(f"checkpoint {filename} is no index of weights: {type(e).__name__}: {e}") from e
    outside = [
        n for n in names if not isinstance(n, str) or not n.isprintable() or n in ("", "..") or Path(n).name != n
    ]
    if outside:
        raise CheckpointError(f"checkpoint {filename} names files outside its folder: {outside!a}")
    return names
