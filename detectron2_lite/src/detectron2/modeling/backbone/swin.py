"""Swin Transformer backbone (Liu et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._swin_layers import PatchEmbed, Stage, to_pair
from .backbone import Backbone


class SwinTransformer(Backbone):
    """Swin Transformer backbone with outputs ``p0`` .. ``p3`` at strides 4 to 32 and channels embed_dim * 2**i.

    Checkpoints trained with another window size or image size load: position tables are resampled.
    """

    def __init__(
        self,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
    ) -> None:
        """
        Args:
            pretrain_img_size: side of the pre-training images, the size of the absolute position embedding.
            patch_size: pixels per token side.
            in_chans: image channels.
            embed_dim: channels of the first stage; every stage doubles them.
            depths, num_heads: blocks and attention heads of each stage.
            window_size: side of an attention window in tokens.
            mlp_ratio: hidden over model width of the MLPs.
            qkv_bias, qk_scale: attention details; ``None`` scales by head width ** -0.5.
            drop_rate, attn_drop_rate: dropout.
            drop_path_rate: stochastic depth of the last block, rising linearly from 0.
            norm_layer: constructor of the norms.
            ape: add an absolute position embedding.
            patch_norm: normalise the patch embedding.
            out_indices: stages to return.
            frozen_stages: 0 freezes the patch embedding, 1 also the absolute position embedding, i >= 2 also the
                first i - 1 stages; -1 nothing.
            use_checkpoint: recompute blocks in the backward pass to save memory.
        """
        super().__init__()
        self.num_layers = len(depths)
        self.embed_dim = embed_dim
        self.ape = ape
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.num_features = [int(embed_dim * 2**i) for i in range(self.num_layers)]

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        if ape:
            size = [s // p for s, p in zip(to_pair(pretrain_img_size), to_pair(patch_size), strict=True)]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *size))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(p=drop_rate)

        total = sum(depths)
        drop_paths = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            first = sum(depths[:i])
            self.layers.append(
                Stage(
                    self.num_features[i],
                    window_size,
                    drop_paths[first : first + depth],
                    downsample=i < self.num_layers - 1,
                    use_checkpoint=use_checkpoint,
                    num_heads=num_heads[i],
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    norm_layer=norm_layer,
                )
            )
        for i in self.out_indices:
            self.add_module(f"norm{i}", norm_layer(self.num_features[i]))

        self._out_features = [f"p{i}" for i in self.out_indices]
        self._out_feature_channels = {f"p{i}": self.num_features[i] for i in self.out_indices}
        self._out_feature_strides = {f"p{i}": 2 ** (i + 2) for i in self.out_indices}
        self._freeze()
        self.apply(_init_weights)
        self.train()

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        if self.frozen_stages < 2:
            return [self.patch_embed]
        return [self.patch_embed, self.pos_drop, *self.layers[: self.frozen_stages - 1]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if self.frozen_stages >= 1 and self.ape:
            self.absolute_pos_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Set the mode; frozen parts stay in evaluation mode, so their dropout and stochastic depth stay off."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """32: the stride of the last stage."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, C, h, w) to ``{"p0": (B, embed_dim, h / 4, w / 4), ...}``."""
        x = self.patch_embed(x)
        if self.ape:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        outputs = {}
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.out_indices:
                outputs[f"p{i}"] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs

    def adapt_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Resample an absolute position embedding; the published files store it as (1, H * W, C)."""
        name = prefix + "absolute_pos_embed"
        table = state_dict.get(name)
        if self.ape and table is not None and table.shape != self.absolute_pos_embed.shape:
            if table.dim() == 3:
                side = round(table.shape[1] ** 0.5)
                table = table.transpose(1, 2).unflatten(2, (side, -1))
            size = self.absolute_pos_embed.shape[2:]
            if table.shape[2:] != size:
                table = F.interpolate(table.float(), size=size, mode="bicubic").to(table.dtype)
            state_dict[name] = table

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self.adapt_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
