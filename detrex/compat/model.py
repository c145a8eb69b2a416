"""From the model of an original config to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex.config import ConfigError, get_config
from detrex.config.tree import child_of, parameters_of

from .names import NAMES

__all__ = ["Call", "rewrite_model"]

_DEFORMABLE = "projects/deformable_detr/configs/deformable_detr_r50_{}50ep.py"
_HYBRID = "projects/h_deformable_detr/configs/h_deformable_detr_r50_50ep.py"
_LOSSES = {"loss_class": "class_", "loss_bbox": "bbox", "loss_giou": "giou"}


class Call:
    """A call that an original config describes: its arguments, defaults included."""

    def __init__(self, cfg: DictConfig, path: str, *targets: str):
        self.path, self.node = path, OmegaConf.select(cfg, path)
        target = self.node.get("_target_") if isinstance(self.node, DictConfig) else None
        self.target = getattr(target, "__name__", str(target))
        if target not in [NAMES[name] for name in targets]:
            raise ConfigError(f"{path} is a {self.target}; only {' and '.join(targets)} can be rewritten")

    def __getitem__(self, key: str) -> Any:
        if key in self.node.keys():
            return self.node[key]
        default = parameters_of(self.node)[key].default
        if default is parameters_of(self.node)[key].empty:
            raise ConfigError(f"{self.path}.{key} is not set")
        return default

    def only(self, **expected: Any) -> None:
        """Raise ConfigError for an argument with another value than the only one that exists here."""
        for key, value in expected.items():
            if self[key] != value:
                raise ConfigError(f"{self.path}.{key}={self[key]!r} has no counterpart here; only {value!r} has")


def _tied(values: Mapping[str, Any]) -> Any:
    """The one value of several keys."""
    first, *others = values.items()
    for key, value in others:
        if value != first[1]:
            raise ConfigError(f"{key}={value} and {first[0]}={first[1]} must be equal: here they are one number")
    return first[1]


def _put(node: DictConfig, **values: Any) -> None:
    """Set what is not already so."""
    for key, value in values.items():
        if (node[key] if key in node.keys() else parameters_of(node)[key].default) != value:
            node[key] = value


def rewrite_model(cfg: DictConfig, notes: list[str]) -> DictConfig:
    """Our model that is the original's; see :func:`detrex.compat.rewriting.rewrite`."""
    old = Call(cfg, "model", "DeformableDETR", "HDeformableDETR")
    transformer = Call(cfg, "model.transformer", "DeformableDetrTransformer", "HDeformableDetrTransformer")
    encoder = Call(
        cfg,
        "model.transformer.encoder",
        "DeformableDetrTransformerEncoder",
        "HDeformableDetrTransformerEncoder",
    )
    decoder = Call(
        cfg,
        "model.transformer.decoder",
        "DeformableDetrTransformerDecoder",
        "HDeformableDetrTransformerDecoder",
    )
    hybrid = old.target == "HDeformableDETR"
    refine, two_stage = old["with_box_refine"], old["as_two_stage"]
    if two_stage and not refine:
        raise ConfigError(
            "model.as_two_stage=True needs model.with_box_refine=True here: boxes from proposals are refined"
        )
    transformer.only(as_two_stage=two_stage)
    new = get_config(_DEFORMABLE.format("two_stage_" if two_stage else "with_box_refinement_" if refine else "")).model
    base = get_config(_HYBRID).model
    if hybrid and old["k_one2many"] > 0:
        new.criterion = base.criterion
        _put(new.criterion, num_repeats=old["k_one2many"], one2many_weight=old["lambda_one2many"])
    if "look_forward_twice" in parameters_of(decoder.node) and decoder["look_forward_twice"]:
        if refine:
            new.transformer.decoder.refinement = base.transformer.decoder.refinement
        else:
            notes.append("model.transformer.decoder.look_forward_twice has no effect without box refinement; the "
                         "original fails at its first training step")  # fmt: skip
    _put(new, num_classes=old["num_classes"], num_select=old["select_box_nums_for_evaluation"])
    _put(new, pixel_mean=old["pixel_mean"], pixel_std=old["pixel_std"])
    if old["device"] not in ("cuda", cfg.train.device):
        notes.append(f"model.device={old['device']} is not used: train.device decides")
    new.backbone = child_of(old.node, "backbone")
    _transformer(cfg, new, old, transformer, encoder, decoder)
    _queries(new, old, transformer, hybrid=hybrid)
    _neck(cfg, new)
    _criterion(cfg, new, old, decoder, notes)
    if decoder["attn_dropout"]:
        notes.append("dropout also follows the decoder's self-attention, as in the authors' code; in the original it "
                     "does not")  # fmt: skip
    return new


def _transformer(cfg: DictConfig, new: DictConfig, old: Call, transformer: Call, encoder: Call, decoder: Call) -> None:
    position = Call(cfg, "model.position_embedding", "PositionEmbeddingSine")
    position.only(normalize=True, scale=parameters_of(position.node)["scale"].default)
    encoder.only(post_norm=False)
    decoder.only(return_intermediate=True)
    parts = (transformer, encoder, decoder)
    width = {f"{part.path}.embed_dim": part["embed_dim"] for part in (old, encoder, decoder)}
    width |= {"2 * model.position_embedding.num_pos_feats": 2 * position["num_pos_feats"]}
    width |= {"model.neck.out_channels": cfg.model.neck.out_channels}
    levels = {f"{part.path}.num_feature_levels": part["num_feature_levels"] for part in parts}
    levels |= {"model.neck.num_outs": cfg.model.neck.get("num_outs", len(cfg.model.neck.input_shapes))}
    _put(new.transformer, embed_dim=_tied(width), num_feature_levels=_tied(levels))
    for part, node in ((encoder, new.transformer.encoder), (decoder, new.transformer.decoder)):
        dropout = _tied({f"{part.path}.{key}": part[key] for key in ("attn_dropout", "ffn_dropout")})
        _put(node, num_layers=part["num_layers"], num_heads=part["num_heads"])
        _put(node, feedforward_dim=part["feedforward_dim"], dropout=dropout)
    _put(new.transformer.decoder, inverse_sigmoid_eps=1e-3)
    _put(
        new.transformer.position_embedding,
        temperature=position["temperature"],
        offset=position["offset"],
        eps=position["eps"],
    )


def _queries(new: DictConfig, old: Call, transformer: Call, *, hybrid: bool) -> None:
    one2one = old["num_queries_one2one"] if hybrid else old["num_queries"]
    one2many = old["num_queries_one2many"] if hybrid else 0
    if old["as_two_stage"]:
        key, proposals = "model.transformer.two_stage_num_proposals", transformer["two_stage_num_proposals"]
        if hybrid:
            _tied({key: proposals, "model.num_queries_one2one + model.num_queries_one2many": one2one + one2many})
            mixed = _tied({f"{part.path}.mixed_selection": part["mixed_selection"] for part in (old, transformer)})
            _put(new.transformer.queries, content="learned" if mixed else "proposal")
        else:
            one2one = proposals
    _put(new.transformer.queries.groups, one2one=one2one, one2many=one2many)


def _neck(cfg: DictConfig, new: DictConfig) -> None:
    old = Call(cfg, "model.neck", "ChannelMapper")
    old.only(stride=1, bias=True, groups=1, dilation=1, activation=None)
    norm = old["norm_layer"]
    if norm is not None:
        expected = {"_target_": nn.GroupNorm, "num_groups": 32, "num_channels": old["out_channels"]}
        if OmegaConf.to_container(norm) != expected:
            raise ConfigError(
                f"model.neck.norm_layer={norm} has no counterpart here; only GroupNorm with 32 groups has"
            )
    channels = {name: shape.channels for name, shape in old["input_shapes"].items()}
    known = [entry.shapes for entry in get_config("common/models/backbones.py").values() if entry.shapes]
    known = [shapes for shapes in known if {name: shape.channels for name, shape in shapes.items()} == channels]
    shapes = known[0] if known else {name: ShapeSpec(channels=count) for name, count in channels.items()}
    _put(new.neck, in_features=old["in_features"], kernel_size=old["kernel_size"], norm="GN" if norm else "")
    _put(new.neck, input_shapes=shapes)


def _criterion(cfg: DictConfig, new: DictConfig, model: Call, decoder: Call, notes: list[str]) -> None:
    old = Call(cfg, "model.criterion", "DeformableCriterion")
    matcher = Call(cfg, "model.criterion.matcher", "HungarianMatcher")
    old.only(loss_class_type="focal_loss")
    matcher.only(cost_class_type="focal_loss_cost")
    if sorted(old["losses"]) != ["boxes", "class"]:
        raise ConfigError(f"model.criterion.losses={old['losses']} has no counterpart here; only [class, boxes] has")
    if old["num_classes"] not in (model["num_classes"], 80):
        raise ConfigError(
            f"model.criterion.num_classes={old['num_classes']}, but model.num_classes={model['num_classes']}: here "
            "model.num_classes is the only one; set it alone"
        )
    _put(new.criterion, alpha=old["alpha"], gamma=old["gamma"], aux_loss=model["aux_loss"])
    _put(new.criterion.matcher, **{key: matcher[key] for key in ("cost_class", "cost_bbox", "cost_giou")})
    _put(new.criterion.matcher, alpha=matcher["alpha"], gamma=matcher["gamma"])
    _loss_weights(old, new, model, decoder, notes)


def _loss_weights(old: Call, new: DictConfig, model: Call, decoder: Call, notes: list[str]) -> None:
    """One weight for each loss; the original has one for each loss of each layer."""
    weights = dict(old["weight_dict"])
    layers = range(decoder["num_layers"] - 1) if model["aux_loss"] else ()
    suffixes = [*(f"_{i}" for i in layers), *(["_enc"] if model["as_two_stage"] else [])]
    unweighted = []
    for loss, ours in _LOSSES.items():
        weight = weights.get(loss, 1.0)
        for key in (f"{loss}{suffix}" for suffix in suffixes):
            if key not in weights:
                unweighted.append(key)
            elif weights[key] != weight:
                raise ConfigError(
                    f"model.criterion.weight_dict.{key}={weights[key]} differs from {loss}={weight}: here a loss has "
                    "the same weight in all layers; set all of them"
                )
        _put(new.criterion.weights, **{ours: weight})
    unknown = [key for key in weights if not key.startswith(tuple(_LOSSES))]
    if unknown:
        raise ConfigError(
            f"model.criterion.weight_dict.{unknown[0]}: there is no such loss; there are {', '.join(_LOSSES)}"
        )
    if unweighted:
        notes.append(f"model.criterion.weight_dict lacks {', '.join(unweighted)}, which count 1 in the original; here "
                     "they have the weight of the last layer's")  # fmt: skip
