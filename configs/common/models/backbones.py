"""Backbones, each with the table of its maps, from which ``neck.input_shapes`` and ``neck.in_features`` follow, and
the checkpoint to start from.

    swin_tiny = get_config("common/models/backbones.py").swin_tiny
    model.backbone = swin_tiny.backbone
    model.neck.input_shapes, model.neck.in_features = swin_tiny.shapes, list(swin_tiny.shapes)
    train.init_checkpoint = swin_tiny.checkpoint

ResNet: ``freeze_at`` counts frozen stages: 1 the stem (detrex's zoo), 2 also res2 (the official code).
Swin: ``use_checkpoint=True`` recomputes blocks in the backward pass, for less memory and the same result.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet, SwinTransformer
from omegaconf import OmegaConf

from detrex.modeling.backbone import make_dc5_stages


def _entry(backbone, shapes, checkpoint):
    content = {"backbone": backbone, "shapes": shapes, "checkpoint": checkpoint}
    return OmegaConf.create(content, flags={"allow_objects": True})


_RESNET_SHAPES = {
    "res3": ShapeSpec(channels=512, stride=8),
    "res4": ShapeSpec(channels=1024, stride=16),
    "res5": ShapeSpec(channels=2048, stride=32),
}


def _resnet(depth, stages=None, shapes=_RESNET_SHAPES):
    if stages is None:
        stages = L(ResNet.make_default_stages)(depth=depth, stride_in_1x1=False, norm="FrozenBN")
    backbone = L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=stages,
        out_features=list(shapes),
        freeze_at=1,
    )
    return _entry(backbone, shapes, f"detectron2://ImageNetPretrained/torchvision/R-{depth}.pkl")


def _resnet_dc5(depth):
    stages = L(make_dc5_stages)(depth=depth, norm="FrozenBN")
    return _resnet(depth, stages, {"res5": ShapeSpec(channels=2048, stride=16)})


resnet50, resnet101 = _resnet(50), _resnet(101)
resnet50_dc5, resnet101_dc5 = _resnet_dc5(50), _resnet_dc5(101)  # res5 alone, at stride 16


def _swin(embed_dim, depths, num_heads, release, size=224, window_size=7):
    backbone = L(SwinTransformer)(
        pretrain_img_size=size,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=num_heads,
        window_size=window_size,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        use_checkpoint=False,
    )
    shapes = {f"p{i}": ShapeSpec(channels=embed_dim * 2**i, stride=4 * 2**i) for i in (1, 2, 3)}
    return _entry(backbone, shapes, f"https://github.com/SwinTransformer/storage/releases/download/{release}.pth")


_TINY = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_SMALL = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_LARGE = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
_384 = {"size": 384, "window_size": 12}

# Pre-trained on ImageNet-1k, except where the name says 22k; there is no Swin-L of 1k.
swin_tiny = _swin(**_TINY, release="v1.0.0/swin_tiny_patch4_window7_224")
swin_tiny_22k = _swin(**_TINY, release="v1.0.8/swin_tiny_patch4_window7_224_22k")
swin_small = _swin(**_SMALL, release="v1.0.0/swin_small_patch4_window7_224")
swin_small_22k = _swin(**_SMALL, release="v1.0.8/swin_small_patch4_window7_224_22k")
swin_base = _swin(**_BASE, release="v1.0.0/swin_base_patch4_window7_224")
swin_base_22k = _swin(**_BASE, release="v1.0.0/swin_base_patch4_window7_224_22k")
swin_base_384_22k = _swin(**_BASE, **_384, release="v1.0.0/swin_base_patch4_window12_384_22k")
swin_large_22k = _swin(**_LARGE, release="v1.0.0/swin_large_patch4_window7_224_22k")
swin_large_384_22k = _swin(**_LARGE, **_384, release="v1.0.0/swin_large_patch4_window12_384_22k")
