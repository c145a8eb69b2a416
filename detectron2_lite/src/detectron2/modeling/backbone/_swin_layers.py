"""Blocks of the Swin Transformer (Liu et al., 2021) with the parameter names of the official checkpoints.

Shape legend: B images, H x W tokens, C channels, S window side, N = S * S tokens of a window, K windows of an image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def to_pair(x: int | Sequence[int]) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else tuple(x)


def _round_up(length: int, divisor: int) -> int:
    """The next multiple; of a symbolic length (torch.export) one that is known to divide."""
    return (length + divisor - 1) // divisor * divisor


def _to_windows(x_BHWC: Tensor, size: int) -> Tensor:
    batch, height, width, channels = x_BHWC.shape
    x = x_BHWC.view(batch, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size * size, channels)  # (B * K, N, C)


def _from_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows with a learned bias per relative position (section 3.2)."""

    def __init__(
        self, dim: int, size: int, num_heads: int, qkv_bias: bool, qk_scale: float | None, attn_drop: float, drop: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, num_heads))
        cells = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        offset = cells[:, :, None] - cells[:, None, :] + size - 1  # (2, N, N), from 0
        self.register_buffer("relative_position_index", offset[0] * (2 * size - 1) + offset[1])
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask_KNN: Tensor | None) -> Tensor:
        """Attend within windows (B * K, N, C); ``mask_KNN`` is added to the logits."""
        num_windows, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(num_windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        logits = logits + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask_KNN is not None:
            windows = mask_KNN.shape[0]
            logits = (logits.unflatten(0, (num_windows // windows, windows)) + mask_KNN[:, None]).flatten(0, 1)
        weights = self.attn_drop(logits.softmax(dim=-1))
        x = (weights @ v).transpose(1, 2).reshape(num_windows, tokens, channels)
        return self.proj_drop(self.proj(x))

    def adapt_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Resample the bias table of a model trained with another window size, bicubically, as Swin's authors do."""
        name = prefix + "relative_position_bias_table"
        table, own = state_dict.get(name), self.relative_position_bias_table
        if table is not None and table.shape != own.shape and table.shape[1] == own.shape[1]:
            old, new = round(table.shape[0] ** 0.5), round(own.shape[0] ** 0.5)
            if old**2 == table.shape[0]:
                image = table.detach().float().T.view(1, -1, old, old)
                resampled = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
                state_dict[name] = resampled.view(-1, new**2).T.to(table.dtype)
        index = prefix + "relative_position_index"
        if index in state_dict and state_dict[index].shape != self.relative_position_index.shape:
            state_dict[index] = self.relative_position_index  # a constant of the window size

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self.adapt_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Block(nn.Module):
    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        norm_layer: Callable[[int], nn.Module],
        **attention: Any,
    ) -> None:
        from timm.layers import DropPath, Mlp  # slow to import

        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, drop=drop, **attention)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)

    def forward(self, x_BHWC: Tensor, mask_KNN: Tensor) -> Tensor:
        height, width = x_BHWC.shape[1:3]
        size = self.window_size
        x = self.norm1(x_BHWC)
        padded_height, padded_width = _round_up(height, size), _round_up(width, size)
        x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = self.attn(_to_windows(x, size), mask_KNN if self.shift else None)
        x = _from_windows(x, size, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        x = x_BHWC + self.drop_path(x[:, :height, :width])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    def __init__(self, dim: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        height, width = x_BHWC.shape[1:3]
        even_height, even_width = _round_up(height, 2), _round_up(width, 2)
        x = F.pad(x_BHWC, (0, 0, 0, even_width - width, 0, even_height - height))
        corners = x.unflatten(2, (even_width // 2, 2)).unflatten(1, (even_height // 2, 2))
        return self.reduction(self.norm(corners.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class Stage(nn.Module):
    def __init__(
        self,
        dim: int,
        window_size: int,
        drop_paths: Sequence[float],
        downsample: bool,
        use_checkpoint: bool,
        **block: Any,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.use_checkpoint = use_checkpoint
        shifts = (0, window_size // 2)
        self.blocks = nn.ModuleList(
            Block(dim, window_size=window_size, shift=shifts[i % 2], drop_path=drop_path, **block)
            for i, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim, block["norm_layer"]) if downsample else None

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """-100 between tokens that only the cyclic shift made neighbours, (K, N, N) (section 3.2, figure 4)."""
        size, shift = self.window_size, self.window_size // 2

        def region(length: int) -> Tensor:
            from_end = torch.arange(_round_up(length, size), device=device).flip(0)
            return (from_end < size).long() + (from_end < shift).long()

        regions = 3 * region(height)[:, None] + region(width)
        windows = _to_windows(regions[None, :, :, None], size).squeeze(-1)
        return (windows[:, None] != windows[:, :, None]).float() * -100.0

    def forward(self, x_BHWC: Tensor) -> Tensor:
        mask = self._mask(*x_BHWC.shape[1:3], x_BHWC.device)
        for block in self.blocks:
            if self.use_checkpoint:
                x_BHWC = checkpoint(block, x_BHWC, mask, use_reentrant=False)
            else:
                x_BHWC = block(x_BHWC, mask)
        return x_BHWC


class PatchEmbed(nn.Module):
    def __init__(
        self, patch_size: int, in_chans: int, embed_dim: int, norm_layer: Callable[[int], nn.Module] | None
    ) -> None:
        super().__init__()
        self.patch_size = to_pair(patch_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = norm_layer(embed_dim) if norm_layer is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, h, w) to tokens (B, H, W, C); sides that are no multiple of the patch are padded."""
        patch_height, patch_width = self.patch_size
        height, width = x.shape[2:]
        x = F.pad(x, (0, _round_up(width, patch_width) - width, 0, _round_up(height, patch_height) - height))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)
