"""From masks predicted inside boxes to masks of the image. Shape legend: N objects, M the side of a box mask."""

import torch
from torch import Tensor
from torch.nn import functional as F


def paste_masks_in_image(masks: Tensor, boxes, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Sample every box mask bilinearly at the pixel centres of the image (Mask R-CNN, section 3).

    Args:
        masks: (N, M, M) in [0, 1].
        boxes: ``Boxes`` or (N, 4), xyxy in pixels.
        image_shape: (H, W).
        threshold: a pixel belongs to the mask from this value on; negative returns the soft mask times 255.

    Returns:
        (N, H, W): boolean, or uint8 if ``threshold`` is negative or N is 0.
    """
    assert masks.shape[-1] == masks.shape[-2], f"Box masks must be square, got {tuple(masks.shape)}"
    height, width = image_shape
    if len(masks) == 0:
        return masks.new_empty((0, height, width), dtype=torch.uint8)
    boxes = boxes if isinstance(boxes, Tensor) else boxes.tensor
    assert len(boxes) == len(masks), f"{len(masks)} masks, but {len(boxes)} boxes"

    pasted = masks.new_empty((len(masks), height, width), dtype=torch.bool if threshold >= 0 else torch.uint8)
    x = torch.arange(width, device=masks.device) + 0.5
    y = torch.arange(height, device=masks.device) + 0.5
    for out, mask, box in zip(pasted, masks.float(), boxes.float(), strict=True):  # one at a time bounds the memory
        x0, y0, x1, y1 = box
        grid_y, grid_x = torch.meshgrid((y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1, indexing="ij")
        grid = torch.stack((grid_x, grid_y), dim=-1)[None]
        soft = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        out.copy_(soft >= threshold if threshold >= 0 else soft * 255)
    return pasted
