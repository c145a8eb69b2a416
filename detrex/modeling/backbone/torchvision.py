"""Any classification model of torchvision, from whose graph feature maps are taken by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .pretrained import copy_pretrained, explain_failure, to_pixels

__all__ = ["TorchvisionBackbone"]

logger = logging.getLogger(__name__)

_RESNET_NODES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
_PROBE = 256  # pixels of the image that measures channels and strides


class TorchvisionBackbone(Backbone):
    """A model of torchvision as a backbone (``torchvision.models.feature_extraction``).

    Parameters have torchvision's names below ``feature_extractor``.

    Args:
        model_name: of torchvision: ``"resnet50"``; ``torchvision.models.list_models()`` has all.
        pretrained: start from torchvision's weights. Training fetches them when it starts from nothing: not on resume,
            not with ``train.init_checkpoint``, and never for evaluation.
        return_nodes: nodes of the model's graph -> names of the maps, finest first.
            ``torchvision.models.feature_extraction.get_graph_node_names`` lists nodes.
        weights: which weights, such as ``"IMAGENET1K_V1"``.
        norm_layer: None keeps the model's norms, ``"FrozenBN"`` makes batch norms constants.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: an unknown model or node.
    """

    def __init__(
        self,
        model_name: str = "resnet50",
        *,
        pretrained: bool = False,
        return_nodes: Mapping[str, str] = _RESNET_NODES,
        weights: str = "DEFAULT",
        norm_layer: str | type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.model_name, self.pretrained, self.weights = model_name, pretrained, weights
        self.out_features = tuple(return_nodes.values())
        nodes = {str(node): str(name) for node, name in return_nodes.items()}
        if norm_layer not in (None, "FrozenBN", FrozenBatchNorm2d):
            raise ValueError(f'TorchvisionBackbone: norm_layer={norm_layer!r} must be null or "FrozenBN"')
        with torch.device("meta"):
            probe = _extractor(_create(model_name), nodes)
            maps = probe.eval()(torch.empty(1, 3, _PROBE, _PROBE))
        if bad := [name for name, x in maps.items() if x.ndim != 4 or x.shape[1] < 2 or x.shape[-2] != x.shape[-1]]:
            raise ValueError(f"TorchvisionBackbone: {bad[0]!r} of return_nodes is not a map (B, C, H, W)")
        self._shapes = {n: ShapeSpec(channels=x.shape[1], stride=_PROBE // x.shape[-1]) for n, x in maps.items()}
        self.feature_extractor = _extractor(_create(model_name), nodes)
        if norm_layer is not None:
            self.feature_extractor = FrozenBatchNorm2d.convert_frozen_batchnorm(self.feature_extractor)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H / stride, W / stride)} for each of ``return_nodes``."""
        return self.feature_extractor(x)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, as measured."""
        return {name: self._shapes[name] for name in self.out_features}

    @property
    def pixel_mean(self) -> list[float]:
        """Mean of the images that the weights were trained with, RGB, on the scale of 0 to 255."""
        return to_pixels(self._published().transforms().mean)

    @property
    def pixel_std(self) -> list[float]:
        """Standard deviation that goes with ``pixel_mean``."""
        return to_pixels(self._published().transforms().std)

    def load_pretrained_weights(self) -> None:
        """Load what ``pretrained`` asks for; the trainer calls it for a run that starts anew.

        Raises:
            ValueError: the weights cannot be fetched; says which file to put where.
        """
        if not self.pretrained:
            return
        weights = self._published()
        file = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rpartition('/')[2]}"
        try:
            with explain_failure(self.model_name, "", weights.url), torch.random.fork_rng([]):
                state = torch.get_rng_state()
                initial = _create(self.model_name)
                torch.set_rng_state(state)
                source = _create(self.model_name, weights=weights)
                copied = copy_pretrained(source, self.feature_extractor, initial=initial)
        except ValueError as e:
            raise ValueError(str(e).replace("set checkpoint_path=/path/to/the/file", f"put it at {file}")) from e
        logger.info("Backbone %s: %d pretrained tensors from %s", self.model_name, copied, weights.url)

    def _published(self) -> Any:
        from torchvision.models import get_model_weights

        try:
            return get_model_weights(self.model_name)[self.weights]
        except KeyError as e:
            known = ", ".join(get_model_weights(self.model_name).__members__)
            raise ValueError(f"{self.model_name} has no weights {self.weights!r}; there are {known}") from e


def _create(model_name: str, **arguments: Any) -> nn.Module:
    try:
        from torchvision.models import get_model
    except ImportError as e:
        raise ImportError("TorchvisionBackbone needs torchvision: pip install torchvision") from e
    try:
        return get_model(model_name, **arguments)
    except ValueError as e:
        raise ValueError(f"TorchvisionBackbone: torchvision has no model {model_name!r}") from e


def _extractor(model: nn.Module, nodes: dict[str, str]) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(model, return_nodes=nodes)
