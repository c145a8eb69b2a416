"""Predictions of a trained detector, and how they are drawn."""
