"""Backbones, each with the table of its maps, from which ``neck.input_shapes`` and ``neck.in_features`` follow, and
the checkpoint to start from.

    swin_tiny = get_config("common/models/backbones.py").swin_tiny
    model.backbone = swin_tiny.backbone
    model.neck.input_shapes, model.neck.in_features = swin_tiny.shapes, list(swin_tiny.shapes)
    train.init_checkpoint = swin_tiny.checkpoint

ResNet: ``freeze_at`` counts frozen stages: 1 the stem (detrex's zoo), 2 also res2 (the official code).
Swin: ``use_checkpoint=True`` recomputes blocks in the backward pass, for less memory and the same result.

Backbones of timm (``pip install 'detrex[timm]'``) know their channels and their weights, so they need neither a table
nor a checkpoint. Where the values below are None, neck and normalization take them from the backbone.

    convnext = get_config("common/models/backbones.py").convnext_tiny
    model.backbone = convnext.backbone
    model.neck.input_shapes = model.neck.in_features = None
    model.pixel_mean = model.pixel_std = None
    train.init_checkpoint = ""  # the weights are those of model.backbone.pretrained
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet, SwinTransformer
from omegaconf import OmegaConf

from detrex.modeling.backbone import TimmBackbone, make_dc5_stages


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


def _timm(model_name, **arguments):
    return _entry(L(TimmBackbone)(model_name=model_name, pretrained=True, **arguments), None, "")


def _timm_resnet(model_name):
    return _timm(model_name, norm_layer="FrozenBN", freeze_at=1)


# Recipes of "ResNet strikes back" (arXiv 2110.00476); d: a stem of three convolutions and average pooling in shortcuts.
resnet18_a1, resnet34_a1 = _timm_resnet("resnet18.a1_in1k"), _timm_resnet("resnet34.a1_in1k")
resnet50_a1, resnet101_a1 = _timm_resnet("resnet50.a1_in1k"), _timm_resnet("resnet101.a1_in1k")
resnet18d, resnet34d = _timm_resnet("resnet18d.ra2_in1k"), _timm_resnet("resnet34d.ra2_in1k")
resnet50d, resnet101d = _timm_resnet("resnet50d.a1_in1k"), _timm_resnet("resnet101d.ra2_in1k")
resnet18, resnet34 = _timm_resnet("resnet18.tv_in1k"), _timm_resnet("resnet34.tv_in1k")  # torchvision's

mobilenetv4_small = _timm("mobilenetv4_conv_small.e2400_r224_in1k", norm_layer="FrozenBN")
mobilenetv4_medium = _timm("mobilenetv4_conv_medium.e500_r256_in1k", norm_layer="FrozenBN")
mobilenetv4_large = _timm("mobilenetv4_conv_large.e600_r384_in1k", norm_layer="FrozenBN")
efficientnet_lite0 = _timm("efficientnet_lite0.ra_in1k", norm_layer="FrozenBN")

# Pretrained on ImageNet-22k; ConvNeXt V2 and those that say 1k are fine-tuned or trained on 1k.
convnext_tiny, convnext_small = _timm("convnext_tiny.fb_in22k"), _timm("convnext_small.fb_in22k")
convnext_base, convnext_large = _timm("convnext_base.fb_in22k"), _timm("convnext_large.fb_in22k")
convnextv2_atto = _timm("convnextv2_atto.fcmae_ft_in1k")
convnextv2_tiny = _timm("convnextv2_tiny.fcmae_ft_in22k_in1k")
convnextv2_base = _timm("convnextv2_base.fcmae_ft_in22k_in1k")
convnextv2_large = _timm("convnextv2_large.fcmae_ft_in22k_in1k")
swinv2_tiny = _timm("swinv2_tiny_window8_256.ms_in1k")
swinv2_small = _timm("swinv2_small_window8_256.ms_in1k")
swinv2_base = _timm("swinv2_base_window8_256.ms_in1k")
focalnet_tiny, focalnet_small = _timm("focalnet_tiny_lrf.ms_in1k"), _timm("focalnet_small_lrf.ms_in1k")
focalnet_base = _timm("focalnet_base_lrf.ms_in1k")

# DINOv3, distilled from a ViT-7B on 1.7 billion images; the weights have a licence of their own.
dinov3_convnext_tiny = _timm("convnext_tiny.dinov3_lvd1689m")
dinov3_convnext_small = _timm("convnext_small.dinov3_lvd1689m")
dinov3_convnext_base = _timm("convnext_base.dinov3_lvd1689m")
dinov3_convnext_large = _timm("convnext_large.dinov3_lvd1689m")
