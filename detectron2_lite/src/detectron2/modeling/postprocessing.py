"""From the network's input size back to the image's."""

from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to an output size, clip them and drop the boxes that become empty.

    Args:
        results: detections with ``pred_boxes`` (or ``proposal_boxes``) at ``results.image_size``. The boxes are
            scaled in place. ``pred_masks`` (N, 1, M, M) are pasted into the output image, ``pred_keypoints`` scaled.
        output_height, output_width: wanted size in pixels.
        mask_threshold: see ``paste_masks_in_image``.

    Raises:
        AssertionError: neither kind of box is present.
    """
    height, width = results.image_size
    scale_x, scale_y = output_width / width, output_height / height
    results = Instances((output_height, output_width), **results.get_fields())
    name = next((n for n in ("pred_boxes", "proposal_boxes") if results.has(n)), None)
    assert name is not None, "Predictions have neither pred_boxes nor proposal_boxes"
    boxes = results.get(name)
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]

    if results.has("pred_masks"):
        results.pred_masks = paste_masks_in_image(
            results.pred_masks[:, 0], results.pred_boxes, results.image_size, mask_threshold
        ).bool()
    if results.has("pred_keypoints"):
        results.pred_keypoints[:, :, 0] *= scale_x
        results.pred_keypoints[:, :, 1] *= scale_y
    return results


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """Cut the padding off semantic logits (C, H, W) and resize them bilinearly to the output size."""
    result = result[None, :, : img_size[0], : img_size[1]]
    return F.interpolate(result, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
