"""Normalisation layers. Shape legend: inputs (B, C, H, W)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and affine terms: everything is a buffer, nothing trains.

    State: ``weight``, ``bias``, ``running_mean``, ``running_var``. A fresh layer is the identity
    (``running_var`` = 1 - eps). Files of state version < 2 that carry only weight and bias still load.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)
        # An affine map keeps only what its backward needs; F.batch_norm would also compute gradients of the buffers.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any) -> None:
        if (local_metadata.get("version") or 0) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm below ``module`` in place; a norm itself is returned anew."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps).to(module.running_mean.device)
            if module.affine:
                frozen.weight.data = module.weight.detach().clone()
                frozen.bias.data = module.bias.detach().clone()
            frozen.running_mean.data = module.running_mean.data
            frozen.running_var.data = module.running_var.data
            frozen.num_batches_tracked = module.num_batches_tracked
            return frozen
        for name, child in module.named_children():
            module.add_module(name, cls.convert_frozen_batchnorm(child))
        return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all ranks with a differentiable all-reduce of the first two moments.

    ``stats_mode=""`` weighs every rank alike; ``"N"`` weighs by the images of a rank and allows empty ones.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f'stats_mode is "" or "N", got {stats_mode!r}'
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        from fvcore.nn.distributed import differentiable_all_reduce

        x = input.float() if input.dtype == torch.float16 else input
        images, channels = x.shape[:2]
        momentum = self.momentum
        if self._stats_mode == "":
            assert images > 0, 'NaiveSyncBatchNorm(stats_mode="") needs at least one image on every rank'
            moments = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))))
            mean, mean_square = (differentiable_all_reduce(moments) / dist.get_world_size()).split(channels)
        else:
            if images == 0:  # keep the graph connected
                sums = x.new_zeros(2 * channels + 1) + x.sum()
            else:
                ones = x.new_ones(1)
                sums = torch.cat((x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3)), ones)) * images
            sums = differentiable_all_reduce(sums)
            total = sums[-1].detach()
            momentum = total.clamp(max=1) * self.momentum  # no image anywhere: leave the statistics alone
            mean, mean_square, _ = (sums / total.clamp(min=1)).split((channels, channels, 1))

        variance = mean_square - mean * mean
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (variance.detach() - self.running_var)
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W), as in ConvNeXt."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(dim=1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalisation layer.

    Args:
        norm: a name of the table above, a callable of the channel count, or "" or None for no layer.
        out_channels: number of channels.

    Raises:
        KeyError: unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"Unknown norm {norm!r}; use one of {sorted(_NORMS)}, '' or a callable")
        norm = _NORMS[norm]
    return norm(out_channels)
