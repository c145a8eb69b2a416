"""From a data set dict to a detector's input."""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch

from . import detection_utils as utils
from . import transforms as T

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Read the image, augment it, and bring image and annotations into the format of detectors.

    Adds "image", uint8 (C, H, W), and, in training, "instances" with the objects that are neither crowds nor empty
    after augmentation. A "sem_seg_file_name" becomes "sem_seg", int64 (H, W).
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            is_train: keep annotations.
            augmentations: applied in this order.
            image_format: see ``detection_utils.read_image``.
            use_instance_mask: process segmentations.
            instance_mask_format: "polygon" or "bitmask".
            recompute_boxes: take tight boxes of the augmented masks, which matters after cropping.
            use_keypoint, keypoint_hflip_indices, precomputed_proposal_topk: not in this subset.

        Raises:
            NotImplementedError: keypoints or proposals are asked for.
            AssertionError: ``recompute_boxes`` without masks.
        """
        if use_keypoint or precomputed_proposal_topk is not None:
            raise NotImplementedError("This subset of detectron2 maps neither keypoints nor precomputed proposals")
        assert use_instance_mask or not recompute_boxes, "recompute_boxes needs use_instance_mask=True"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logger.info(f"[DatasetMapper] Augmentations used in {mode}: {self.augmentations.augs}")

    def _transform_annotations(self, dataset_dict: dict, transforms: T.Transform, image_shape: tuple[int, int]) -> None:
        """Replace "annotations" by "instances"."""
        unused = {"keypoints"} if self.use_instance_mask else {"keypoints", "segmentation"}
        annos = [a for a in dataset_dict.pop("annotations") if a.get("iscrowd", 0) == 0]
        annos = [{k: v for k, v in a.items() if k not in unused} for a in annos]
        annos = [utils.transform_instance_annotations(a, transforms, image_shape) for a in annos]
        instances = utils.annotations_to_instances(annos, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one element; the given dict stays as it is.

        Raises:
            SizeMismatchError: the image has another size than the dict says.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        labels_file = dataset_dict.pop("sem_seg_file_name", None)
        sem_seg = None if labels_file is None else utils.read_image(labels_file, "L").squeeze(2)

        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        dataset_dict["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict
