"""Readers of data set formats: COCO json, YOLO, Pascal VOC."""
