"""H-Deformable-DETR with ResNet-50 in the authors' recipe: what the published configs share.

``baseline`` is two-stage Deformable DETR with box refinement and wider FFNs. ``tricks`` adds no dropout, mixed query
selection and look forward twice. ``hybrid`` adds the hybrid branch: 1500 further queries in training, matched with
every object six times.
"""

import copy

from detectron2.config import LazyCall as L

from detrex.config import get_config
from detrex.modeling import LookForwardTwice
from projects.h_deformable_detr.modeling import HybridCriterion

_deformable = get_config("projects/deformable_detr/configs/base/deformable_detr_r50.py")

dataloader, train = _deformable.dataloader, _deformable.train
# 2e-4, a tenth of it for the backbone and the sampling offsets, decay everywhere: the authors' and detrex's zoo
optimizer = get_config("common/optim.py").official

baseline = _deformable.two_stage
baseline.transformer.encoder.feedforward_dim = 2048
baseline.criterion.weights.class_ = 2.0

tricks = copy.deepcopy(baseline)
tricks.transformer.encoder.dropout = 0.0
tricks.transformer.queries.content = "learned"  # mixed query selection
tricks.transformer.decoder.refinement = L(LookForwardTwice)()

hybrid = copy.deepcopy(tricks)
hybrid.transformer.queries.groups.one2many = 1500
hybrid.criterion._target_ = HybridCriterion
hybrid.criterion.num_repeats = 6
hybrid.criterion.one2many_weight = 1.0
