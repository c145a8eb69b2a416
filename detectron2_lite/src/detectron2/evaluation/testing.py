"""Results on the console."""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results in lines that paste into a spreadsheet; metrics with "-" in their name are left out.

    Args:
        results: ``{task: {metric: value}}`` or ``{name: value}``.
    """
    assert isinstance(results, Mapping) or not len(results), f"Results are a mapping, got {results}"
    for task, metrics in dict(results).items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info(f"copypaste: {','.join(shown)}")
        logger.info(f"copypaste: {','.join(f'{value:.4f}' for value in shown.values())}")


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """``{"bbox": {"AP": 1.0}}`` to ``{"bbox/AP": 1.0}``, to any depth."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
