"""Runs the original detrex: python original_model.py JOB.pt OUT.pt

The job has ``checkout``, ``config``, ``overrides`` and ``inputs``: image, boxes and classes of each image. The output
has the model's state with noise on it, each parameter's learning rate and weight decay, the losses of a training step
and the detections.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances


def main(job: dict, output: str) -> None:
    cfg = LazyConfig.apply_overrides(LazyConfig.load(job["config"]), job["overrides"])
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    assert Path(sys.modules[type(model).__module__].__file__).is_relative_to(job["checkout"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    cfg.optimizer.params.model = model
    groups = {id(p): group for group in instantiate(cfg.optimizer).param_groups for p in group["params"]}
    trained = [(name, groups[id(p)]) for name, p in model.named_parameters() if id(p) in groups]
    inputs = []
    for image, boxes, classes in job["inputs"]:
        instances = Instances(tuple(image.shape[-2:]), gt_boxes=Boxes(boxes), gt_classes=classes)
        inputs.append({"image": image, "instances": instances})
    losses = {name: float(loss) for name, loss in model.train()(inputs).items()}
    with torch.no_grad():
        found = [model.eval()([x])[0]["instances"] for x in inputs]
    result = {
        "state": model.state_dict(),
        "rates": {name: (group["lr"], group["weight_decay"]) for name, group in trained},
        "losses": losses,
        "detections": [(x.pred_boxes.tensor, x.scores, x.pred_classes) for x in found],
    }
    torch.save(result, output)


# It imports these, but needs none of them for these models on a CPU.
UNUSED = ("detrex._C", "detrex.modeling.backbone", "detrex.data", "wandb", "pkg_resources")


if __name__ == "__main__":
    JOB = torch.load(sys.argv[1], weights_only=True)
    # Wherever this project is on the path, its packages of the same names would be taken.
    sys.path = [JOB["checkout"], *(folder for folder in sys.path if not Path(folder, "detrex").is_dir())]
    # Its shared configs lie in the checkout.
    sys.modules |= {name: MagicMock() for name in UNUSED}
    sys.modules["pkg_resources"].resource_filename = lambda package, name: str(Path(JOB["checkout"]) / name)
    main(JOB, sys.argv[2])
