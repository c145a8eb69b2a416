"""Checkpoints rewritten in another layout, with the ``config.json`` that Hugging Face's needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from detrex.checkpoint.dialects.coco_classes import NUM_IDS, NUM_USED, USED_COCO_IDS
from detrex.checkpoint.metadata import checkpoint_metadata
from detrex.config import load_config
from detrex.config.instantiation import build_on_meta
from detrex.data import category_ids

from .checkpointer import Checkpointer
from .dialects import DETREX_ZOO, HUGGING_FACE, OFFICIAL, detect_dialect, from_ours, our_constants
from .dialects import to_ours as rename_to_ours
from .dialects.errors import CheckpointError, listing
from .locating import resolve_checkpoint
from .reading import class_names, read_checkpoint
from .writing import replace_file, write_weights

__all__ = ["LAYOUTS", "Architecture", "Conversion", "convert", "find_architecture", "largest_difference"]

COCO = "coco_2017_val"  # in the catalog
# What a file can be written as, and the rows that COCO's classifiers have there.
LAYOUTS = {"ours": None, "detrex": DETREX_ZOO, "official": OFFICIAL, "hf": HUGGING_FACE}
COCO_ROWS = {"ours": NUM_USED, "detrex": NUM_USED, "official": NUM_IDS, "hf": NUM_IDS}

RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}  # names there
_CLASSIFIER = "transformer.decoder.heads.0.class_embed.bias"
_BACKBONES = {("res4", 6): "R50", ("res4", 23): "R101", (96, 6): "Swin-T", (96, 18): "Swin-S", (192, 18): "Swin-L"}


class Architecture(NamedTuple):
    """What the tensors of a detector show of it."""

    backbone: str  # "R50", "R101", "Swin-T", "Swin-S" or "Swin-L"
    levels: int  # of the feature pyramid
    queries: str  # "plain", "refinement", "two-stage" or "mixed"
    feedforward_dim: int
    num_learned: int  # learned queries


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
    published: Mapping[Architecture, str] | None = None,
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
        config_file: of the model, for ``"hf"`` and to ``verify``; found by the tensors if it is in ``published``.
            If given, a result in our layout holds it, as a training's checkpoints do.
        published: the config of each architecture, see :func:`find_architecture`.
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
        config_file = config_file or find_architecture(state, published or {}, exact=layout == "hf")
        cfg = load_config(config_file)
        cfg.model.num_classes = rows
        report.append(f"model: {config_file}, {rows} classes")
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


def find_architecture(
    state: Mapping[str, Tensor], published: Mapping[Architecture, str], *, exact: bool = False
) -> str:
    """The config of the architecture that our tensors are of.

    Args:
        state: our tensors.
        published: architecture -> path of a config.
        exact: whether a model counts whose function is not known from its tensors (single scale: DC5 has the same).

    Raises:
        CheckpointError: they are of none.
    """
    res4, swin2 = (_numbers(state, f"backbone.{name}.") for name in ("res4", "layers.2.blocks"))
    channels = len(state.get("backbone.patch_embed.proj.bias", ()))
    backbone = _BACKBONES.get(("res4", len(res4)) if res4 else (channels, len(swin2)), "")
    learned = {"mixed": "transformer.queries.content.weight", "one-stage": "transformer.queries.embedding.weight"}
    kind = next((kind for kind, name in learned.items() if name in state), "two-stage")
    queries = len(state[learned[kind]]) if kind in learned else 0
    if kind == "one-stage":
        kind = "refinement" if our_constants(state)["refinement"] else "plain"
    levels = len(state["transformer.level_embeds"])
    width = len(state["transformer.encoder.layers.0.ffn.linear1.bias"])
    config = published.get(Architecture(backbone, levels, kind, width, queries))
    if config is None:
        raise CheckpointError("the tensors are of no published model: give the config of theirs by --config-file")
    if exact and levels == 1:
        raise CheckpointError(
            "single scale and single scale DC5 have the same tensors: say by --config-file which of the two it is"
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


# ------------------------------------------------------------------------------------ Hugging Face's config.json
def transformers_config(model: nn.Module, *, num_labels: int, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """What ``DeformableDetrForObjectDetection.from_pretrained`` builds the same model from.

    Args:
        model: a :class:`~projects.deformable_detr.modeling.DeformableDETR`; its parameters may be on the meta device.
        num_labels: rows of the classifiers in the file.
        class_names: of the model's classes; numbered if there are none.

    Raises:
        CheckpointError: transformers has no such model.
    """
    transformer = model.transformer
    encoder, decoder = transformer.encoder.layers, transformer.decoder.layers
    two_stage = hasattr(transformer.queries, "proposals")
    queries = transformer.queries.groups.one2one
    config: dict[str, Any] = {
        "model_type": "deformable_detr",
        "architectures": ["DeformableDetrForObjectDetection"],
        "backbone": _resnet(model.backbone),
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "dilation": model.backbone.res5[-1].conv2.dilation[0] == 2,
        "num_channels": 3,
        "d_model": len(transformer.level_embeds[0]),
        "num_feature_levels": len(transformer.level_embeds),
        "num_queries": queries,
        "two_stage": two_stage,
        "two_stage_num_proposals": queries,
        "with_box_refine": type(transformer.decoder.refinement).__name__ != "NoRefinement",
        "position_embedding_type": "sine",
        "auxiliary_loss": True,
        "id2label": {str(i): label for i, label in enumerate(_labels(num_labels, class_names))},
    }
    for name, layers, attention in (("encoder", encoder, "self_attn"), ("decoder", decoder, "cross_attn")):
        config[f"{name}_layers"] = len(layers)
        config[f"{name}_attention_heads"] = getattr(layers[0], attention).num_heads
        config[f"{name}_n_points"] = getattr(layers[0], attention).num_points
        config[f"{name}_ffn_dim"] = layers[0].ffn.linear1.out_features
    config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
    return config


def _resnet(backbone: nn.Module) -> str:
    depths = tuple(len(getattr(backbone, f"res{i}", ())) for i in range(2, 6))
    if depths not in RESNETS:
        raise CheckpointError(f"Hugging Face: a backbone other than {' or '.join(RESNETS.values())} cannot be written")
    return RESNETS[depths]


def _labels(num_labels: int, class_names: Sequence[str]) -> list[str]:
    """A label for each row; unused ids of COCO and unnamed classes have a number, so that labels are unique."""
    labels = [f"LABEL_{i}" for i in range(num_labels)]
    ids = USED_COCO_IDS if (num_labels, len(class_names)) == (NUM_IDS, NUM_USED) else range(num_labels)
    if len(ids) == len(class_names):
        for i, name in zip(ids, class_names, strict=True):
            labels[i] = name
    return labels
