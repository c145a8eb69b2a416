"""Assignment of predictions to ground truth by thresholds. Shape legend: M ground-truth objects, N predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Matcher:
    """Give every prediction its best ground-truth object and a label that depends on the quality of that match.

    Ren et al., "Faster R-CNN", 2015, section 3.1.2.
    """

    def __init__(
        self, thresholds: Sequence[float], labels: Sequence[int], allow_low_quality_matches: bool = False
    ) -> None:
        """
        Args:
            thresholds: rising positive bounds that cut the qualities into len(labels) intervals [low, high).
            labels: per interval, 1 (positive), 0 (negative) or -1 (ignored).
            allow_low_quality_matches: also make positive, for each object, the predictions that fit it best.

        Raises:
            AssertionError: bounds that fall or are not positive, other labels, or another number of labels.
        """
        bounds = [-float("inf"), *thresholds, float("inf")]
        assert bounds[1] > 0, f"Thresholds must be positive, got {list(thresholds)}"
        assert bounds == sorted(bounds), f"Thresholds must rise, got {list(thresholds)}"
        assert all(label in (-1, 0, 1) for label in labels), f"Labels are -1, 0 or 1, got {list(labels)}"
        assert len(labels) == len(bounds) - 1, f"{len(thresholds)} thresholds need {len(bounds) - 1} labels"
        self.thresholds = bounds
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match.

        Args:
            match_quality_matrix: (M, N), non-negative, e.g. IoU.

        Returns:
            int64 (N,), index of the best object (0 if there is none), and int8 (N,), its label.
        """
        assert match_quality_matrix.dim() == 2, f"Expected (M, N), got {tuple(match_quality_matrix.shape)}"
        if match_quality_matrix.numel() == 0:
            matches = match_quality_matrix.new_zeros(match_quality_matrix.size(1), dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        assert torch.all(match_quality_matrix >= 0), "Match qualities must not be negative"

        quality, matches = match_quality_matrix.max(dim=0)
        match_labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds[:-1], self.thresholds[1:], strict=True):
            match_labels[(quality >= low) & (quality < high)] = label
        if self.allow_low_quality_matches:
            best_per_object = match_quality_matrix.max(dim=1, keepdim=True).values
            match_labels[(match_quality_matrix == best_per_object).any(dim=0)] = 1
        return matches, match_labels
