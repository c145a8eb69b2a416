"""Public names of the full detectron2 that the subset leaves out, by module (as of commit 02b5c4e2)."""

from __future__ import annotations

LEFT_OUT: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "detectron2": "_C export model_zoo projects tracking",
        "detectron2.utils": "develop testing tracing",
        "detectron2.checkpoint.c2_model_loading": "convert_c2_detectron_names",
        "detectron2.config": "downgrade_config get_cfg global_cfg set_global_cfg upgrade_config",
        "detectron2.config.config": "get_cfg global_cfg set_global_cfg",
        "detectron2.engine": "DefaultPredictor DefaultTrainer PreciseBN",
        "detectron2.engine.defaults": "DefaultPredictor DefaultTrainer",
        "detectron2.engine.hooks": "PreciseBN",
        "detectron2.solver": "WarmupCosineLR WarmupMultiStepLR build_lr_scheduler build_optimizer",
        "detectron2.solver.build": "build_lr_scheduler build_optimizer maybe_add_gradient_clipping",
        "detectron2.solver.lr_scheduler": "WarmupCosineLR WarmupMultiStepLR",
    }.items()
}
