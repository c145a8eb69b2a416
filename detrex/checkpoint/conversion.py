"""Checkpoints rewritten in another layout; ``tools/convert_checkpoint.py`` is a thin shell around this."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from detrex.checkpoint.dialects.coco_classes import NUM_IDS, NUM_USED
from detrex.checkpoint.metadata import checkpoint_metadata
from detrex.config import load_config
from detrex.config.instantiation import build_on_meta
from detrex.data import category_ids

from .checkpointer import Checkpointer
from .dialects import DETREX_ZOO, HUGGING_FACE, OFFICIAL, detect_dialect, from_ours, our_constants
from .dialects import to_ours as rename_to_ours
from .errors import CheckpointError, listing
from .locating import resolve_checkpoint
from .reading import class_names, read_checkpoint
from .transformers_config import transformers_config
from .writing import replace_file, write_weights

__all__ = ["LAYOUTS", "Conversion", "convert", "find_architecture", "largest_difference"]

COCO = "coco_2017_val"  # in the catalog
# What a file can be written as, and the rows that COCO's classifiers have there.
LAYOUTS = {"ours": None, "detrex": DETREX_ZOO, "official": OFFICIAL, "hf": HUGGING_FACE}
COCO_ROWS = {"ours": NUM_USED, "detrex": NUM_USED, "official": NUM_IDS, "hf": NUM_IDS}

_D, _H = "projects/deformable_detr/configs/deformable_detr_", "projects/h_deformable_detr/configs/"
# One config of each published architecture: (backbone, levels, queries' kind, FFN width, number of learned queries).
ARCHITECTURES = {
    ("R50", 4, "plain", 1024, 300): f"{_D}r50_50ep.py",
    ("R50", 4, "refinement", 1024, 300): f"{_D}r50_with_box_refinement_50ep.py",
    ("R50", 4, "two-stage", 1024, 0): f"{_D}r50_two_stage_50ep.py",
    ("R50", 1, "plain", 1024, 300): f"{_D}r50_single_scale_50ep.py",
    ("R101", 4, "plain", 1024, 300): f"{_D}r101_50ep.py",
    ("Swin-T", 4, "plain", 1024, 300): f"{_D}swin_tiny_50ep.py",
    ("R50", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_r50_two_stage_12ep.py",
    ("R101", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_r101_two_stage_12ep.py",
    ("Swin-T", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_tiny_two_stage_12ep.py",
    ("Swin-S", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_small_two_stage_12ep.py",
    ("Swin-L", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_large_two_stage_12ep.py",
    ("Swin-L", 4, "mixed", 2048, 2400): f"{_H}h_deformable_detr_swin_large_two_stage_12ep_900queries.py",
    **{
        (backbone, 4, kind, 2048, queries): f"{_H}deformable_detr_baseline_{name}_two_stage_12ep{tricks}.py"
        for backbone, name in (("R50", "r50"), ("Swin-T", "swin_tiny"), ("Swin-L", "swin_large"))
        for kind, queries, tricks in (("two-stage", 0, ""), ("mixed", 300, "_tricks"))
    },
}
_CLASSIFIER = "transformer.decoder.heads.0.class_embed.bias"
_BACKBONES = {("res4", 6): "R50", ("res4", 23): "R101", (96, 6): "Swin-T", (96, 18): "Swin-S", (192, 18): "Swin-L"}


@dataclass(frozen=True)
class Conversion:
    """What became of a file.

    Attributes:
        source: path of the file that was read. written: the files that were made.
        report: lines for people.
        difference: largest difference of the outputs of both files; None if they were not compared.
    """

    source: str
    written: tuple[str, ...]
    report: tuple[str, ...]
    difference: float | None = None


def convert(
    source: str,
    target: str,
    *,
    layout: str = "ours",
    config_file: str = "",
    classes: int | None = None,
    drop_unknown: bool = False,
    verify: bool = False,
    force: bool = False,
) -> Conversion:
    """Rewrite a checkpoint of any dialect.

    Args:
        source: whatever :func:`resolve_checkpoint` takes.
        target: ``.pth`` or ``.safetensors``; for ``"hf"`` a folder.
        layout: one of ``LAYOUTS``.
        config_file: of the model, for ``"hf"`` and to ``verify``; found by the file's tensors if it is a published one.
            If given, a result in our layout holds it, as a training's checkpoints do.
        classes: 80 or 91, rows of a COCO classifier in the result; as the layout has them if not given.
        drop_unknown: whether tensors without a rule are left out, instead of an error.
        verify: whether to run both files.
        force: whether an existing target is written over.

    Raises:
        CheckpointError: the source cannot be read or has no counterpart in the layout, or the target exists.
        ConfigError: the config cannot be loaded.
    """
    _check_target(Path(target), layout, force=force)
    file = resolve_checkpoint(source)
    checkpoint = read_checkpoint(file)
    classes = classes or COCO_ROWS[layout]
    state, report = _to_ours(checkpoint["model"], file, classes=classes, drop_unknown=drop_unknown)
    rows = _class_rows(state)
    names = class_names(checkpoint)
    cfg = None
    if verify or config_file or layout == "hf":
        cfg = load_config(config_file or find_architecture(state, exact=layout == "hf"))
        cfg.model.num_classes = rows
        report.append(f"model: {config_file or find_architecture(state)}, {rows} classes")
    dialect = LAYOUTS[layout]
    if dialect is not None:
        translation = from_ours(dialect, state, our_constants(state), num_classes=classes)
        state = translation.state
        report.append(f"to {dialect.name}: {translation.describe()}")
    left_out = [key for key in checkpoint if key not in ("model", "metadata")]
    if left_out:
        report.append(f"left out, beside the weights: {', '.join(left_out)}")
    if layout == "hf":
        names = names or _coco_names(rows)
        num_labels = len(state["class_embed.0.bias"])
        config = transformers_config(build_on_meta(cfg), num_labels=num_labels, class_names=names)
        written = (Path(target, "model.safetensors"), Path(target, "config.json"))
        written[0].parent.mkdir(parents=True, exist_ok=True)
        write_weights(written[0], state)
        replace_file(written[1], lambda file: file.write(f"{json.dumps(config, indent=2)}\n".encode()))
    else:
        written = (Path(target),)
        written[0].parent.mkdir(parents=True, exist_ok=True)
        write_weights(written[0], state, _metadata(checkpoint, names, rows, cfg) if layout == "ours" else None)
    difference = largest_difference(cfg, file, resolve_checkpoint(target), strict=not drop_unknown) if verify else None
    return Conversion(file, tuple(map(str, written)), tuple(report), difference)


def find_architecture(state: Mapping[str, Tensor], *, exact: bool = False) -> str:
    """The config of a published architecture that our tensors are of.

    Args:
        state: our tensors.
        exact: whether a model counts whose function is not known from its tensors (single scale: DC5 has the same).

    Raises:
        CheckpointError: they are of none.
    """
    res4, swin2 = (_numbers(state, f"backbone.{name}.") for name in ("res4", "layers.2.blocks"))
    if res4:
        backbone = _BACKBONES.get(("res4", len(res4)))
    else:
        width = len(state.get("backbone.patch_embed.proj.bias", ()))
        backbone = _BACKBONES.get((width, len(swin2)))
    learned = {"mixed": "transformer.queries.content.weight", "one-stage": "transformer.queries.embedding.weight"}
    kind = next((kind for kind, name in learned.items() if name in state), "two-stage")
    queries = len(state[learned[kind]]) if kind in learned else 0
    if kind == "one-stage":
        kind = "refinement" if our_constants(state)["refinement"] else "plain"
    levels = len(state["transformer.level_embeds"])
    width = len(state["transformer.encoder.layers.0.ffn.linear1.bias"])
    config = ARCHITECTURES.get((backbone, levels, kind, width, queries))
    if config is None:
        raise CheckpointError("the tensors are of no published model: give the config of theirs by --config-file")
    if exact and levels == 1:
        raise CheckpointError(
            "single scale and single scale DC5 have the same tensors: say by --config-file which of the two it is, "
            f"{_D}r50_single_scale_50ep.py or {_D}r50_single_scale_dc5_50ep.py"
        )
    return config


@torch.no_grad()
def largest_difference(cfg: DictConfig, first: str, second: str, *, strict: bool = True) -> float:
    """Load either file into the model of a config and run both on two images of noise.

    Args:
        cfg: with ``model``. first, second: paths. strict: whether the first file must fit wholly; the second must.

    Returns:
        The largest absolute difference of any logit or box (relative to the image), proposals and every layer included.
    """
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator).float() for size in ((256, 320), (224, 352))]
    outputs = []
    for path, whole in ((first, strict), (second, True)):
        model: nn.Module = instantiate(cfg.model).eval()
        Checkpointer(model, strict=whole).load(path)
        result = model.outputs(images)
        outputs.append([*result.layers, *([] if result.proposals is None else [result.proposals])])
    return max(
        float((getattr(a, name) - getattr(b, name)).abs().max())
        for a, b in zip(*outputs, strict=True)
        for name in ("logits_BQK", "boxes_BQ4")
    )


def _to_ours(
    tensors: Mapping[str, Tensor], file: str, *, classes: int, drop_unknown: bool
) -> tuple[dict[str, Tensor], list[str]]:
    dialect = detect_dialect(tensors)
    state, report = dict(tensors), [f"{file}: our own names"]
    if dialect is not None:
        # A result of 91 rows needs them all where the source has them.
        translation = rename_to_ours(
            dialect, tensors, num_classes=NUM_USED if classes == NUM_USED else None, strict=not drop_unknown
        )
        state, report = translation.state, [f"{file}: {dialect.name}: {translation.describe()}"]
    missing = [name for name in ("transformer.level_embeds", _CLASSIFIER) if name not in state]
    if missing:
        raise CheckpointError(
            f"checkpoint {file} is not of a whole detector in a layout known here: without {listing(missing)} among "
            f"{listing(state, 5)}. A backbone needs no conversion: train.init_checkpoint takes it as it is"
        )
    return state, report


def _metadata(
    checkpoint: Mapping[str, Any], names: Sequence[str], rows: int, cfg: DictConfig | None
) -> dict[str, Any] | None:
    """Of a file in our layout: what the source has, or what a training with the config would write."""
    own = checkpoint.get("metadata")
    if isinstance(own, Mapping) and "config" in own:
        return dict(own)
    if cfg is None:
        return {"class_names": list(names)} if names else None
    coco = not names and bool(_coco_names(rows))
    ids = category_ids(COCO) if coco else ()
    return checkpoint_metadata(cfg, class_names=_coco_names(rows) if coco else names, category_ids=ids)


def _coco_names(rows: int) -> Sequence[str]:
    return MetadataCatalog.get(COCO).thing_classes if rows == NUM_USED else ()


def _class_rows(state: Mapping[str, Tensor]) -> int:
    return len(state[_CLASSIFIER])


def _numbers(state: Mapping[str, Tensor], prefix: str) -> set[str]:
    return {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}


def _check_target(target: Path, layout: str, *, force: bool) -> None:
    if layout == "hf":
        if target.is_file() or target.suffix in (".pth", ".safetensors"):
            raise CheckpointError(f"{target}: the Hugging Face layout is a folder, give one")
        existing = [target / name for name in ("config.json", "model.safetensors") if (target / name).exists()]
    else:
        if target.suffix not in (".pth", ".safetensors"):
            raise CheckpointError(f"{target} must end in .pth or .safetensors")
        existing = [target] if target.exists() else []
    if existing and not force:
        raise CheckpointError(f"{existing[0]} exists; --force writes over it")
