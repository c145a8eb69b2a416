"""Analysis of a detector: parameters, FLOPs, speed, false and missed detections."""
