"""H-Deformable-DETR."""
