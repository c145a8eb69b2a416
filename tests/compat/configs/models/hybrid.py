"""The original's H-Deformable-DETR, in the form of its config files."""

from detectron2.config import LazyCall as L

from projects.h_deformable_detr.modeling import (
    HDeformableDETR,
    HDeformableDetrTransformer,
    HDeformableDetrTransformerDecoder,
    HDeformableDetrTransformerEncoder,
)

from .one_stage import model as _plain

_layers = {"embed_dim": 256, "num_heads": 8, "feedforward_dim": 2048, "attn_dropout": 0.0, "ffn_dropout": 0.0}

model = L(HDeformableDETR)(
    **{key: value for key, value in _plain.items() if key not in ("_target_", "transformer", "num_queries")},
    transformer=L(HDeformableDetrTransformer)(
        encoder=L(HDeformableDetrTransformerEncoder)(**_layers),
        decoder=L(HDeformableDetrTransformerDecoder)(look_forward_twice=True, **_layers),
        as_two_stage="${..as_two_stage}",
        num_feature_levels=4,
        two_stage_num_proposals=1800,
        mixed_selection=True,
    ),
    num_queries_one2one=300,
    num_queries_one2many=1500,
    mixed_selection=True,
    k_one2many=6,
    lambda_one2many=1.0,
)
_weights = model.criterion.weight_dict
model.criterion.weight_dict = {k: 2.0 if k.startswith("loss_class") else v for k, v in _weights.items()}
