"""Run the model of an official checkout on random weights and images, and save everything: used by official_parity.py.

Its compiled operator is replaced by its own PyTorch fallback, and packages that it only imports by stand-ins.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

from benchmarks.float64 import in_float64, original_dtypes

if __name__ == "__main__" and json.loads(sys.argv[1])["float64"]:
    in_float64()  # before anything of the checkout is imported

import torch
import torchvision
from torch import Tensor, nn

CLASS_STD = 0.08
COUNTS = (5, 3)  # objects of the two images


class _NoDropPath(nn.Identity):
    def __init__(self, probability: float = 0.0):
        super().__init__()
        assert probability == 0


def _stand_in(name: str, **content: object) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)


def import_checkout(folder: str) -> types.ModuleType:
    """The checkout's ``main`` module."""
    for name in ("MultiScaleDeformableAttention", "wandb", "timm", "timm.models", "mmdet"):
        _stand_in(name)
    pair = {"to_2tuple": lambda x: x if isinstance(x, tuple) else (x, x), "trunc_normal_": nn.init.trunc_normal_}
    _stand_in("timm.models.layers", DropPath=_NoDropPath, **pair)
    _stand_in("mmcv_custom", load_checkpoint=None)
    _stand_in("mmdet.utils", get_root_logger=lambda: None)
    torchvision.__version__ = "0.9.0"  # it reads the first three characters as a number
    for name in ("resnet50", "resnet101"):
        make = getattr(torchvision.models, name)
        setattr(torchvision.models, name, lambda pretrained=None, make=make, **kwargs: make(weights=None, **kwargs))
    sys.path.insert(0, folder)
    main = importlib.import_module("main")
    operator = importlib.import_module("models.ops.modules.ms_deform_attn")
    fallback = importlib.import_module("models.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch

    def apply(value, shapes, _start, locations, weights, _step):
        return fallback(value, [tuple(int(x) for x in shape) for shape in shapes], locations, weights)

    operator.MSDeformAttnFunction = types.SimpleNamespace(apply=apply)
    if (Path(folder) / "models/swin_transformer.py").exists():
        swin = importlib.import_module("models.swin_transformer").SwinTransformer
        swin.init_weights = lambda self, path=None: None
    return main


@torch.no_grad()
def randomise(model: nn.Module, *, two_stage: bool) -> None:
    """Noise on every parameter, and on the buffers of frozen norms."""
    for name, p in model.named_parameters():
        if "class_embed" in name and p.dim() > 1:
            p.normal_(0, CLASS_STD)
        elif "relative_position_bias_table" in name:
            p.normal_(0, 0.2)
        else:
            p.add_(torch.randn_like(p) * (0.02 if p.dim() > 1 else 0.08))
    for name, b in model.named_buffers():
        if name.endswith(("running_mean", "bias")):
            b.normal_(0, 0.1)
        elif name.endswith(("running_var", "weight")):
            b.uniform_(0.6, 1.4)
    if two_stage:  # tokens that cannot propose shall not be among the best: there the implementations differ on purpose
        transformer = model.transformer
        constant = transformer.enc_output_norm(transformer.enc_output(torch.zeros(1, 256)))[0]
        model.class_embed[-1].weight[0] -= 12 * constant / (constant @ constant)


def make_targets() -> list[dict[str, Tensor]]:
    """Random objects, COCO's labels from 1."""
    return [
        {
            "labels": torch.randint(1, 91, (count,)),
            "boxes": torch.cat([torch.rand(count, 2) * 0.6 + 0.2, torch.rand(count, 2) * 0.3 + 0.05], 1),
        }
        for count in COUNTS
    ]


def record_selection() -> list[Tensor]:
    """Which tokens become proposals, of each forward to come."""
    chosen, topk = [], torch.topk

    def recording(x, k, dim=-1, **kwargs):
        result = topk(x, k, dim=dim, **kwargs)
        if x.dim() == 2 and dim == 1:
            chosen.append(result.indices)
        return result

    torch.topk = recording
    return chosen


def run(job: dict) -> dict:
    """Build, evaluate and differentiate; everything that can be compared."""
    main = import_checkout(job["checkout"])
    chosen = record_selection()
    torch.manual_seed(0)
    arguments = main.get_args_parser().parse_args([*job["arguments"].split(), "--device", "cpu", "--dropout", "0"])
    model, criterion, postprocessors = importlib.import_module("models").build_model(arguments)
    hybrid = hasattr(model, "num_queries_one2one")
    randomise(model, two_stage=arguments.two_stage)
    model.to(torch.float32)
    images = [torch.randint(0, 256, (3, *size)).to(torch.float32) for size in job["sizes"]]
    mean, std = (torch.tensor(job[key], dtype=torch.float32).view(3, 1, 1) for key in ("mean", "std"))
    samples = importlib.import_module("util.misc").nested_tensor_from_tensor_list([(x - mean) / std for x in images])
    targets = make_targets()

    model.eval()
    if hybrid:
        saved = model.num_queries, model.transformer.two_stage_num_proposals
        model.num_queries = model.transformer.two_stage_num_proposals = model.num_queries_one2one
    with torch.no_grad():
        outputs = model(samples)
    evaluated_choice = chosen[:1]
    detections = postprocessors["bbox"](outputs, torch.tensor(job["sizes"]))
    if hybrid:
        model.num_queries, model.transformer.two_stage_num_proposals = saved
    chosen.clear()

    model.train()
    trained = model(samples)
    trained_choice = chosen[:1]
    if hybrid:
        engine = importlib.import_module("engine")
        losses = engine.train_hybrid(trained, targets, arguments.k_one2many, criterion, arguments.lambda_one2many)
    else:
        losses = criterion(trained, targets)
    weighted = {k: v * criterion.weight_dict[k] for k, v in losses.items() if k in criterion.weight_dict}
    sum(weighted.values()).backward()
    state = model.state_dict(keep_vars=True)
    layers = [*outputs["aux_outputs"], outputs]
    return {
        "state": model.state_dict(),
        "gradients": {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in state.items()},
        "trained": [k for k, v in state.items() if v.grad is not None],
        "images": images,
        "targets": targets,
        "layers": [(layer["pred_logits"], layer["pred_boxes"]) for layer in layers],
        "proposals": [outputs["enc_outputs"][k] for k in ("pred_logits", "pred_boxes")] if arguments.two_stage else [],
        "detections": [(d["scores"], d["labels"]) for d in detections],
        "losses": {k: v.detach() for k, v in weighted.items()},
        "chosen": {"eval": evaluated_choice, "train": trained_choice} if arguments.two_stage else {},
    }


if __name__ == "__main__":
    result = run(json.loads(sys.argv[1]))
    with original_dtypes():
        torch.save(result, sys.argv[2])
