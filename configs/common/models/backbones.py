"""Backbones, each with the table of its maps: ``neck.input_shapes`` and ``neck.in_features`` follow from it.

    resnet50 = get_config("common/models/backbones.py").resnet50
    model.backbone = resnet50.backbone
    model.neck.input_shapes, model.neck.in_features = resnet50.shapes, list(resnet50.shapes)

``freeze_at`` counts frozen stages: 1 the stem (detrex's zoo), 2 also res2 (the official code).
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from omegaconf import OmegaConf

_RESNET_SHAPES = {
    "res3": ShapeSpec(channels=512, stride=8),
    "res4": ShapeSpec(channels=1024, stride=16),
    "res5": ShapeSpec(channels=2048, stride=32),
}


def _resnet(depth):
    return OmegaConf.create(
        {
            "backbone": L(ResNet)(
                stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
                stages=L(ResNet.make_default_stages)(depth=depth, stride_in_1x1=False, norm="FrozenBN"),
                out_features=list(_RESNET_SHAPES),
                freeze_at=1,
            ),
            "shapes": _RESNET_SHAPES,
            "checkpoint": f"detectron2://ImageNetPretrained/torchvision/R-{depth}.pkl",
        },
        flags={"allow_objects": True},
    )


resnet50, resnet101 = _resnet(50), _resnet(101)
