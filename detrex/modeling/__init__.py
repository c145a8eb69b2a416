"""The parts a detection transformer is composed of."""

from .batching import PadFeatures, PadImages
from .criterion import SetCriterion
from .decoder import DeformableDecoder
from .encoder import DeformableEncoder
from .losses import LossWeights
from .matcher import HungarianMatcher
from .proposals import EncoderProposals
from .queries import LearnedQueries, QueryGroups, TwoStageQueries
from .refinement import IterativeRefinement, LookForwardTwice, NoRefinement
from .transformer import DeformableTransformer

__all__ = [
    "DeformableDecoder",
    "DeformableEncoder",
    "DeformableTransformer",
    "EncoderProposals",
    "HungarianMatcher",
    "IterativeRefinement",
    "LearnedQueries",
    "LookForwardTwice",
    "LossWeights",
    "NoRefinement",
    "PadFeatures",
    "PadImages",
    "QueryGroups",
    "SetCriterion",
    "TwoStageQueries",
]
