"""The COCO evaluator, built so that it cannot miss the mapping of category ids."""

from __future__ import annotations

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator


def build_coco_evaluator(
    *,
    dataset_name: str,
    output_dir: str | None = None,
    max_dets_per_image: int | None = None,
    use_fast_impl: bool = False,
) -> COCOEvaluator:
    """Build a ``COCOEvaluator`` for boxes.

    detectron2 learns a custom data set's category ids when its json is first read; an evaluator built earlier maps
    nothing and reports AP 0 without a message. Here the data set is read first where that has not happened.

    Args:
        dataset_name: a name in the ``DatasetCatalog``.
        output_dir: where ``coco_instances_results.json`` is written; None writes nothing.
        max_dets_per_image: detections per image that count; None is COCO's 100.
        use_fast_impl: detectron2's C++ re-implementation where the host has it; False is pycocotools, the reference.

    Raises:
        KeyError: the name is not registered; the message lists those that are.
    """
    if MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id") is None:
        DatasetCatalog.get(dataset_name)
    return COCOEvaluator(
        dataset_name=dataset_name,
        tasks=("bbox",),
        output_dir=output_dir,
        max_dets_per_image=max_dets_per_image,
        use_fast_impl=use_fast_impl,
    )
