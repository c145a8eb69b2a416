"""Checks of single records: findings, boxes, images and paths."""
