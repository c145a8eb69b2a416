"""What hybrid matching adds to Deformable DETR: a criterion. The rest is a configuration of the same parts."""

from .hybrid_criterion import HybridCriterion

__all__ = ["HybridCriterion"]
