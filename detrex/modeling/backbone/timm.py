"""Any model of timm that gives feature maps, by its name (https://huggingface.co/docs/timm)."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .pretrained import copy_pretrained, explain_failure, to_pixels

__all__ = ["TimmBackbone"]

logger = logging.getLogger(__name__)

_HUB = "https://huggingface.co"
_NORMS = ("FrozenBN", "FrozenStatistics")
# Constructor arguments of timm's models with which a transformer takes images of any size.
_ANY_SIZE = {"strict_img_size": False, "dynamic_img_size": True, "dynamic_img_pad": True}


class TimmBackbone(Backbone):
    """A model of timm as a backbone whose maps are named ``p{index}``.

    Parameters have timm's names below ``timm_model``, so that ``train.init_checkpoint`` takes a file of timm as it is.
    Images of any size are accepted where the architecture allows it.

    Args:
        model_name: of timm, with the tag of the weights: ``"convnext_tiny.fb_in22k"``; ``timm.list_models()`` has all.
        features_only: True; the argument exists because detrex has it.
        pretrained: start from the weights of that tag, from the hub. Training fetches them when it starts from nothing:
            not on resume, not with ``train.init_checkpoint``, and never for evaluation.
        checkpoint_path: a file with these weights, used instead of the hub; implies ``pretrained``.
        in_channels: channels of the images. Pretrained weights are adapted to them.
        out_indices: maps to return, as timm counts them, negative ones from the end.
        norm_layer: None keeps the model's norms; ``"FrozenBN"`` makes batch norms constants; ``"FrozenStatistics"``
            fixes their statistics and trains their weights; a class is handed to timm.
        freeze_at: number of timm's stages that are not trained: 1 the stem, 2 also the first stage.
        drop_path_rate: of stochastic depth; None keeps the model's default.
        use_checkpoint: recompute activations in the backward pass, for less memory and the same result.

    Raises:
        ImportError: timm is not installed.
        ValueError: an unknown name, indices that it does not have, or an option that the model does not support.
    """

    def __init__(
        self,
        model_name: str,
        *,
        features_only: bool = True,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        out_indices: Sequence[int] = (-3, -2, -1),
        norm_layer: str | type[nn.Module] | None = None,
        freeze_at: int = 0,
        drop_path_rate: float | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not features_only:
            raise ValueError("TimmBackbone: features_only=False gives no feature maps")
        if norm_layer is FrozenBatchNorm2d:
            norm_layer = "FrozenBN"
        if isinstance(norm_layer, str) and norm_layer not in _NORMS:
            raise ValueError(f"TimmBackbone: norm_layer={norm_layer!r} must be null, {' or '.join(_NORMS)}, or a class")
        self.model_name, self.pretrained, self.checkpoint_path = model_name, pretrained, checkpoint_path
        self._arguments = _arguments(
            model_name,
            in_chans=in_channels,
            drop_path_rate=drop_path_rate,
            norm_layer=None if isinstance(norm_layer, str) else norm_layer,
        )
        self.timm_model = _create(model_name, **self._arguments)
        self.out_indices = _positive(model_name, self.timm_model, out_indices)
        complete = set(self.timm_model.state_dict())
        self.timm_model.prune_intermediate_layers(self.out_indices, prune_norm=True, prune_head=True)
        self._pruned = complete - set(self.timm_model.state_dict())
        if norm_layer == "FrozenBN":
            from timm.layers import freeze_batch_norm_2d  # keeps the activation that timm puts into some norms

            self.timm_model = freeze_batch_norm_2d(self.timm_model)
        if use_checkpoint:
            _recompute(model_name, self.timm_model)
        self._resting = self._freeze(freeze_at)  # modules that stay in evaluation mode
        if norm_layer == "FrozenStatistics":
            self._resting += [m for m in self.timm_model.modules() if isinstance(m, nn.BatchNorm2d)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> {"p{i}": (B, C_i, H / stride_i, W / stride_i)} for each of ``out_indices``."""
        maps = self.timm_model.forward_intermediates(x, indices=self.out_indices, intermediates_only=True)
        return {f"p{i}": y for i, y in zip(self.out_indices, maps, strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, as timm describes them."""
        info = _feature_info(self.timm_model)
        return {f"p{i}": ShapeSpec(channels=info[i]["num_chs"], stride=info[i]["reduction"]) for i in self.out_indices}

    @property
    def pixel_mean(self) -> list[float]:
        """Mean of the images that the weights were trained with, RGB, on the scale of 0 to 255."""
        return to_pixels(self.timm_model.pretrained_cfg["mean"])

    @property
    def pixel_std(self) -> list[float]:
        """Standard deviation that goes with ``pixel_mean``."""
        return to_pixels(self.timm_model.pretrained_cfg["std"])

    def layer_ids(self) -> dict[str, int]:
        """The layer of each parameter by timm's grouping, 0 for the stem, for layer-wise learning-rate decay."""
        from timm.models import group_parameters

        layers = group_parameters(self.timm_model, self.timm_model.group_matcher(coarse=False), reverse=True)
        return {f"timm_model.{name}": layer for name, layer in layers.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the architecture's recipes do not decay, such as position tables."""
        names = getattr(self.timm_model, "no_weight_decay", set)()
        return {
            f"timm_model.{name}"
            for name, _ in self.timm_model.named_parameters()
            if any(f".{name}".endswith(f".{ending}") for ending in names)
        }

    def load_pretrained_weights(self) -> None:
        """Load what ``pretrained`` and ``checkpoint_path`` ask for; the trainer calls it for a run that starts anew.

        Raises:
            ValueError: the weights cannot be fetched, or do not fit; says which file to put where.
        """
        if not (self.pretrained or self.checkpoint_path):
            return
        overlay = {"file": self.checkpoint_path} if self.checkpoint_path else {}
        with explain_failure(self.model_name, self.checkpoint_path, self._page()), torch.random.fork_rng([]):
            state = torch.get_rng_state()
            initial = _create(self.model_name, **self._arguments)
            torch.set_rng_state(state)
            source = _create(self.model_name, pretrained=True, pretrained_cfg_overlay=overlay, **self._arguments)
            copied = copy_pretrained(source, self.timm_model, initial=initial)
        origin = self.checkpoint_path or self._page()
        logger.info("Backbone %s: %d pretrained tensors from %s", self.model_name, copied, origin)

    def adapt_state_dict(self, state_dict: dict[str, Tensor], prefix: str = "") -> None:
        """Remove what timm's complete model has after the last map, in place, before a checkpoint is loaded."""
        for name in self._pruned:
            state_dict.pop(f"{prefix}timm_model.{name}", None)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode, except for frozen parts: they stay in evaluation mode."""
        super().train(mode)
        for module in self._resting:
            module.eval()
        return self

    def _page(self) -> str:
        cfg = self.timm_model.pretrained_cfg
        return f"{_HUB}/{cfg['hf_hub_id']}" if cfg.get("hf_hub_id") else cfg.get("url") or "timm, which has none"

    def _freeze(self, stages: int) -> list[nn.Module]:
        """Exclude the first stages from training; returns the modules of which nothing is trained any more."""
        from timm.models import group_parameters

        if not stages:
            return []
        layers = group_parameters(self.timm_model, self.timm_model.group_matcher(coarse=True), reverse=True)
        for name, parameter in self.timm_model.named_parameters():
            parameter.requires_grad_(layers[name] >= stages)
        parameters = {module: list(module.parameters()) for module in self.timm_model.modules()}
        return [m for m, owned in parameters.items() if owned and not any(p.requires_grad for p in owned)]


def _timm() -> Any:
    try:
        import timm
    except ImportError as e:
        raise ImportError("TimmBackbone needs timm: pip install 'detrex[timm]'") from e
    return timm


def _create(model_name: str, **arguments: Any) -> nn.Module:
    return _timm().create_model(model_name, num_classes=0, **arguments)


def _arguments(model_name: str, *, in_chans: int, **options: Any) -> dict[str, Any]:
    """What to give timm's constructor, of which each architecture takes other arguments.

    Raises:
        ValueError: an unknown model, or one that lacks an option that is not None.
    """
    timm = _timm()
    # A name with a scheme, such as hf-hub:, would make the constructor read files or the network.
    if ":" in model_name or "/" in model_name or not timm.is_model(model_name):
        near = difflib.get_close_matches(model_name.partition(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has all"
        raise ValueError(f"TimmBackbone: timm {timm.__version__} has no model {model_name!r}; {hint}")
    try:
        with torch.device("meta"):
            model = _create(model_name)
    except RuntimeError as e:
        raise ValueError(f"TimmBackbone: {model_name}: {e}") from e  # a tag that there is not
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"TimmBackbone: timm's {model_name} gives no feature maps")
    accepted = inspect.signature(type(model).__init__).parameters
    given = {key: value for key, value in options.items() if value is not None}
    if missing := [key for key in given if key not in accepted]:
        raise ValueError(f"TimmBackbone: timm's {model_name} takes no {missing[0]}: leave it at null")
    return {"in_chans": in_chans, **{k: v for k, v in _ANY_SIZE.items() if k in accepted}, **given}


def _feature_info(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    return getattr(model.feature_info, "info", model.feature_info)


def _positive(model_name: str, model: nn.Module, out_indices: Sequence[int]) -> list[int]:
    number = len(_feature_info(model))
    if not out_indices or not all(-number <= i < number for i in out_indices):
        raise ValueError(
            f"TimmBackbone: out_indices={list(out_indices)}, but {model_name} has the maps 0 to {number - 1}"
        )
    return sorted({i % number for i in out_indices})


def _recompute(model_name: str, model: nn.Module) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as e:
        raise ValueError(f"TimmBackbone: timm's {model_name} cannot recompute activations: use_checkpoint=false") from e
