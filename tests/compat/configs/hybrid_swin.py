from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import SwinTransformer

from .hybrid import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    pretrain_img_size=224,
    embed_dim=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    drop_path_rate=0.2,
    window_size=7,
    out_indices=(1, 2, 3),
)
model.neck.input_shapes = {f"p{i}": ShapeSpec(channels=96 * 2**i) for i in (1, 2, 3)}
model.neck.in_features = ["p1", "p2", "p3"]
train.init_checkpoint = "/elsewhere/swin_tiny_patch4_window7_224.pth"
