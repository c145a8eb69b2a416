"""DAB-Deformable-DETR: the worked example of docs/new_project.md."""
