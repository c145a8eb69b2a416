"""Public names of the full detectron2 that the subset leaves out, by module (as of commit 02b5c4e2)."""

from __future__ import annotations

LEFT_OUT: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "detectron2": "_C export projects tracking",
        "detectron2.checkpoint": "catalog",
        "detectron2.checkpoint.c2_model_loading": "convert_basic_c2_names convert_c2_detectron_names",
        "detectron2.config": "compat defaults downgrade_config get_cfg global_cfg set_global_cfg upgrade_config",
        "detectron2.config.config": "get_cfg global_cfg set_global_cfg",
        "detectron2.data": "load_proposals_into_dataset",
        "detectron2.data.build": "load_proposals_into_dataset",
        "detectron2.data.datasets": """
            cityscapes cityscapes_panoptic coco_panoptic  get_lvis_instances_meta load_lvis_json
            load_voc_instances lvis lvis_v0_5_categories lvis_v1_categories lvis_v1_category_image_count pascal_voc
            register_coco_panoptic register_coco_panoptic_separated register_lvis_instances register_pascal_voc
        """,
        "detectron2.data.datasets.builtin": """
            register_all_ade20k register_all_cityscapes register_all_lvis register_all_pascal_voc
        """,
        "detectron2.data.detection_utils": """
            annotations_to_instances_rotated build_augmentation build_transform_gen create_keypoint_hflip_indices
            gen_crop_transform_with_instance get_bbox transform_proposals
        """,
        "detectron2.data.samplers": "GroupedBatchSampler grouped_batch_sampler",
        "detectron2.evaluation": """
            COCOPanopticEvaluator CityscapesInstanceEvaluator CityscapesSemSegEvaluator LVISEvaluator
            PascalVOCDetectionEvaluator RotatedCOCOEvaluator SemSegEvaluator cityscapes_evaluation fast_eval_api
            lvis_evaluation panoptic_evaluation pascal_voc_evaluation rotated_coco_evaluation sem_seg_evaluation
            verify_results
        """,
        "detectron2.evaluation.coco_evaluation": "COCOevalMaxDets",
        "detectron2.evaluation.testing": "verify_results",
        "detectron2.layers": """
            ASPP CycleBatchNormList DeformConv DepthwiseSeparableConv2d ModulatedDeformConv ROIAlign ROIAlignRotated
            aspp batched_nms_rotated ciou_loss deform_conv diou_loss empty_input_loss_func_wrapper losses nms_rotated
            roi_align roi_align_rotated rotated_boxes
        """,
        "detectron2.layers.batch_norm": "CycleBatchNormList",
        "detectron2.layers.blocks": "DepthwiseSeparableConv2d",
        "detectron2.layers.nms": "batched_nms_rotated nms_rotated",
        "detectron2.modeling": """
            ANCHOR_GENERATOR_REGISTRY BaseKeypointRCNNHead BaseMaskRCNNHead DatasetMapperTTA FCOS FPN
            FastRCNNOutputLayers GeneralizedRCNN GeneralizedRCNNWithTTA META_ARCH_REGISTRY MMDetBackbone MMDetDetector
            MViT PROPOSAL_GENERATOR_REGISTRY PanopticFPN ProposalNetwork ROIHeads ROI_BOX_HEAD_REGISTRY
            ROI_HEADS_REGISTRY ROI_KEYPOINT_HEAD_REGISTRY ROI_MASK_HEAD_REGISTRY RPN_HEAD_REGISTRY RetinaNet
            SEM_SEG_HEADS_REGISTRY SemanticSegmentor SimpleFeaturePyramid StandardROIHeads ViT anchor_generator
            box_regression build_anchor_generator build_backbone build_box_head build_keypoint_head build_mask_head
            build_model build_proposal_generator build_resnet_backbone build_roi_heads build_rpn_head
            build_sem_seg_head get_vit_lr_decay_rate meta_arch mmdet_wrapper poolers proposal_generator roi_heads
            sampling test_time_augmentation
        """,
        "detectron2.modeling.backbone": """
            FPN MViT RegNet SimpleFeaturePyramid ViT build_backbone build_resnet_backbone get_vit_lr_decay_rate mvit
            regnet vit
        """,
        "detectron2.modeling.backbone.build": "build_backbone",
        "detectron2.modeling.backbone.fpn": "FPN build_resnet_fpn_backbone build_retinanet_resnet_fpn_backbone",
        "detectron2.modeling.backbone.resnet": "build_resnet_backbone",
        "detectron2.structures": """
            Keypoints ROIMasks RotatedBoxes heatmaps_to_keypoints keypoints pairwise_iou_rotated rotated_boxes
        """,
        "detectron2.structures.masks": "ROIMasks rasterize_polygons_within_box",
    }.items()
}
