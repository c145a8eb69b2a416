"""COCO 2017 detection with DETR's augmentation.

The files are found under the environment variable DETECTRON2_DATASETS (default ./datasets):
``coco/annotations/instances_{train,val}2017.json``, ``coco/train2017``, ``coco/val2017``.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from omegaconf import OmegaConf

from detrex.data import DetrDatasetMapper, build_coco_evaluator, build_train_loader

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # as in the official code, images without objects are trained on: they hold background only
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=False),
    mapper=L(DetrDatasetMapper)(
        augmentation=[
            L(T.RandomFlip)(),
            L(T.ResizeShortestEdge)(
                short_edge_length=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
                max_size=1333,
                sample_style="choice",
            ),
        ],
        augmentation_with_crop=[
            L(T.RandomFlip)(),
            L(T.ResizeShortestEdge)(short_edge_length=(400, 500, 600), sample_style="choice"),
            L(T.RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
            L(T.ResizeShortestEdge)(
                short_edge_length=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
                max_size=1333,
                sample_style="choice",
            ),
        ],
        is_train=True,
        img_format="RGB",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=True,  # less padding; every batch is wide or tall
    num_workers=4,
    max_broken_images=10,  # images that cannot be read and are skipped; one more is an error
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(DetrDatasetMapper)(
        augmentation=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        is_train=False,
        img_format="RGB",
    ),
    num_workers=4,
)

dataloader.evaluator = L(build_coco_evaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir=None,  # set by the trainer to the run's folder
    max_dets_per_image=None,  # None: 100, COCO's; raise it for crowded scenes
    use_fast_impl=True,  # hotcoco; False: pycocotools, the same to the last bit and fifty times slower
)
