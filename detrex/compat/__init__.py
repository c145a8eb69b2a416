"""What was written for other code: config files of the original detrex, and the classic signature of the operator."""

from .operator import MSDeformAttnFunction, MultiScaleDeformableAttnFunction, ms_deform_attn

__all__ = ["MSDeformAttnFunction", "MultiScaleDeformableAttnFunction", "ms_deform_attn"]
