"""A small Deformable DETR ++ two-stage on the generated shapes: trained from scratch on a CPU in minutes.

    python tools/run_demo.py --output output/demo

All of the large model's parts, in small: two levels, box refinement, two-stage.
"""

from detrex.config import get_config

from .base.small_two_stage import lr_multiplier, model, optimizer, train

dataloader = get_config("common/data/demo_shapes.py").dataloader

model.transformer.decoder.num_layers = 2
model.transformer.queries.groups.one2one = 30
model.num_classes = 5
model.num_select = 100

optimizer.lr = 3e-3
dataloader.train.total_batch_size = 8
train.warmup = 100
train.max_iter = "8ep"
train.eval_period = "2ep"
train.checkpointer.period = "2ep"
train.output_dir = "./output/demo_shapes"
