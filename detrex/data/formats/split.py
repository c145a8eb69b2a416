"""Taking a validation split out of the training data: seeded, stable, and without the same file on both sides."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from detrex.data.checks.findings import DatasetError
from detrex.utils.regular_files import open_regular, raise_machine_fault
from detrex.utils.text import count_of

from .source import SplitSource


def split_off_val(train: SplitSource, *, fraction: float, seed: int) -> tuple[SplitSource, SplitSource, dict[str, Any]]:
    """Divide the images of ``train``.

    Images are ordered by a hash of seed and file name, and the first ones validate: a split depends neither on the
    order of the file nor much on images that are added later. Files of identical bytes stay on one side.

    Args:
        train: what to divide.
        fraction: of the images that validates, between 0 and 1; at least one image.
        seed: another one gives another split.

    Returns:
        What is left to train, what validates, and the split in words that can be written down as json.

    Raises:
        DatasetError: a fraction outside (0, 1), or fewer than two different images.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"dataloader.data.val_fraction={fraction} is not between 0 and 1")
    images = train.content["images"]
    names = {i: item["file_name"] for i, item in enumerate(images) if isinstance(item.get("file_name"), str)}
    first_of = identical_files({name: os.path.join(train.image_root, name) for name in names.values()})
    ranks = {i: hashlib.sha256(ascii((seed, first_of[name])).encode()).hexdigest() for i, name in names.items()}
    wanted = max(round(fraction * len(images)), 1)
    chosen: set[int] = set()
    for rank in sorted(set(ranks.values())):
        if len(chosen) >= wanted:
            break
        chosen |= {i for i in ranks if ranks[i] == rank}
    if not chosen or len(chosen) == len(images):
        files = count_of(len(set(ranks.values())), "different file")
        message = f"{count_of(len(images), 'image')} of {files} cannot be divided"
        raise DatasetError.of("empty-split", train.file, f"{message}; add images or a validation split")
    parts = [_part(train, chosen, inside=inside) for inside in (False, True)]
    record = {
        "made": "by hash of seed and file name",
        "seed": seed,
        "val_fraction": fraction,
        "train": sorted(names[i] for i in names if i not in chosen),
        "val": sorted(names[i] for i in chosen),
    }
    return parts[0], parts[1], record


def identical_files(paths: dict[str, str]) -> dict[str, str]:
    """Name -> first name, in alphabetical order, whose file has the same bytes; only files of equal length are read."""
    by_length: dict[int, list[str]] = defaultdict(list)
    first = {}
    for name in sorted(paths):
        first[name] = name
        try:
            by_length[os.path.getsize(paths[name])].append(name)
        except (OSError, ValueError) as e:
            raise_machine_fault(e, paths[name])
    for names in by_length.values():
        seen: dict[bytes, str] = {}
        for name in names if len(names) > 1 else ():
            first[name] = seen.setdefault(_digest(paths[name]), name)
    return first


def _digest(path: str) -> bytes:
    try:
        with open_regular(path) as f:
            digest = hashlib.sha256()
            while block := f.read(1 << 20):
                digest.update(block)
            return digest.digest()
    except OSError as e:  # reported where the records are checked
        raise_machine_fault(e, path)
        return os.fsencode(path)


def _part(train: SplitSource, chosen: Iterable[int], *, inside: bool) -> SplitSource:
    images = [item for i, item in enumerate(train.content["images"]) if (i in chosen) == inside]
    ids = {item["id"] for item in images if isinstance(item.get("id"), int)}
    others = {item["id"] for item in train.content["images"] if isinstance(item.get("id"), int)} - ids
    # an annotation of an unknown image stays with the training data, which reports it
    annotations = [a for a in train.content["annotations"] if _belongs(a.get("image_id"), ids, others, inside)]
    content = {**train.content, "images": images, "annotations": annotations}
    return dataclasses.replace(train, content=content, is_coco_file=False)


def _belongs(image_id: Any, ids: set[int], others: set[int], inside: bool) -> bool:
    known = isinstance(image_id, int)
    if inside:
        return known and image_id in ids
    return not (known and image_id in others)
