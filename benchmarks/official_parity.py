"""The official repositories and this one on the same random weights and images: the table of docs/parity.md.

    python benchmarks/official_parity.py --deformable-detr CHECKOUT --h-detr CHECKOUT [--float64] [VARIANT ...]

Each variant runs the official code in one process and ours in another. The weights go through the conversion of
``detrex.checkpoint``. Swin-Large takes 12 GB of memory in float64.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

DEFORMABLE = "projects/deformable_detr/configs/deformable_detr_r50_{}_50ep{}.py"
HYBRID = "projects/h_deformable_detr/configs/h_deformable_detr_{}_two_stage_12ep{}.py"
H_ARGUMENTS = (
    "--with_box_refine --two_stage --dim_feedforward 2048 --num_queries_one2one {} --num_queries_one2many 1500 "
    "--k_one2many 6 --lambda_one2many 1.0 --mixed_selection --look_forward_twice --drop_path_rate 0 --use_checkpoint "
    "--backbone {}"
)
SMALL, MIDDLE = [(200, 264), (160, 300)], [(256, 320), (224, 352)]
LARGE = [(352, 416), (320, 448)]  # more tokens than 900 + 1500 queries
VARIANTS = {
    "single_scale": ("--num_feature_levels 1", DEFORMABLE.format("single_scale", ""), SMALL),
    "single_scale_dc5": ("--num_feature_levels 1 --dilation", DEFORMABLE.format("single_scale_dc5", ""), SMALL),
    "multi_scale": ("", DEFORMABLE.replace("{}_50ep", "50ep", 1).format("_official"), SMALL),
    "box_refine": ("--with_box_refine", DEFORMABLE.format("with_box_refinement", "_official"), SMALL),
    "two_stage": ("--with_box_refine --two_stage", DEFORMABLE.format("two_stage", "_official"), MIDDLE),
    "h_r50": (H_ARGUMENTS.format(300, "resnet50"), HYBRID.format("r50", ""), LARGE),
    "h_swin_tiny": (H_ARGUMENTS.format(300, "swin_tiny"), HYBRID.format("swin_tiny", ""), LARGE),
    "h_swin_large": (H_ARGUMENTS.format(300, "swin_large"), HYBRID.format("swin_large", ""), LARGE),
    "h_swin_large_900": (H_ARGUMENTS.format(900, "swin_large"), HYBRID.format("swin_large", "_900queries"), LARGE),
}
TIE = 1e-5  # scores of proposals this close may come in either order


def main() -> None:
    """Parse the arguments, run each variant, print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help="(all)")
    parser.add_argument("--deformable-detr", help="checkout of fundamentalvision/Deformable-DETR")
    parser.add_argument("--h-detr", help="checkout of HDETR/H-Deformable-DETR")
    parser.add_argument("--float64", action="store_true")
    args = parser.parse_args()
    print("| model | logits | boxes | proposals | scores | losses | gradients |\n|:--|--:|--:|--:|--:|--:|--:|")
    for variant in args.variants:
        arguments, config, sizes = VARIANTS[variant]
        checkout = args.h_detr if variant.startswith("h_") else args.deformable_detr
        job = {"variant": variant, "arguments": arguments, "config": config, "sizes": sizes, "float64": args.float64}
        job |= {"checkout": checkout, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
        with tempfile.TemporaryDirectory() as folder:
            for module in ("benchmarks.official_model", "benchmarks.official_parity"):
                command = [sys.executable, "-W", "ignore", "-m", module, json.dumps(job), f"{folder}/official.pt"]
                output = None if module.endswith("parity") else subprocess.DEVNULL
                environment = os.environ | ({"DETREX_OPS": "reference"} if args.float64 else {})
                subprocess.run(command, cwd=ROOT, check=True, stdout=output, env=environment)


def compare(job: dict, file: str) -> str:
    """Ours on the official weights and images: a row of the table."""
    import torch

    from benchmarks.float64 import in_float64

    official = torch.load(file, weights_only=True, mmap=True)
    if job["float64"]:
        in_float64()
    from detectron2.config import instantiate

    from detrex.checkpoint.dialects import detect_dialect, to_ours
    from detrex.config import load_config
    from detrex.modeling import PadImages
    from detrex.modeling.postprocess import select_top
    from detrex.structures import Targets

    cfg = load_config(job["config"], ["model.num_classes=91", "model.transformer.encoder.dropout=0.0"])
    if "swin" in job["config"]:
        cfg.model.backbone.drop_path_rate, cfg.model.backbone.use_checkpoint = 0.0, True
    else:
        cfg.model.backbone.freeze_at = 2
    dialect = detect_dialect(official["state"])
    model = instantiate(cfg.model).to(torch.float32)
    model.load_state_dict(to_ours(dialect, official["state"], num_classes=91).state)
    model.eval_batching = PadImages()

    def difference(ours, theirs) -> float:
        return float((ours.detach() - theirs).abs().max()) if theirs is not None else 0.0

    take_order(official["chosen"].get("eval"))
    with torch.no_grad():
        outputs = model.eval().outputs(official["images"])
    logits = max(difference(p.logits_BQK, x) for p, (x, _) in zip(outputs.layers, official["layers"], strict=True))
    boxes = max(difference(p.boxes_BQ4, x) for p, (_, x) in zip(outputs.layers, official["layers"], strict=True))
    proposals = difference(outputs.proposals.logits_BQK, official["proposals"][0]) if official["proposals"] else 0.0
    scores, labels, _ = select_top(outputs.layers[-1], 100)
    found = zip(scores, labels, official["detections"], strict=True)
    score = max(difference(s, x) if torch.equal(own, y) else float("inf") for s, own, (x, y) in found)

    take_order(official["chosen"].get("train"))
    targets = [Targets(target["labels"], target["boxes"]) for target in official["targets"]]
    losses = model.criterion(model.train().outputs(official["images"]), targets)
    sum(losses.values()).backward()
    expected = {name.replace("_ce", "_class"): float(value) for name, value in official["losses"].items()}
    assert losses.keys() == expected.keys()
    loss = max(abs(float(losses[name]) - value) / max(1, abs(value)) for name, value in expected.items())
    gradients = to_ours(dialect, official["gradients"], num_classes=91).state
    trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    silent = [n for n, p in model.named_parameters() if p.grad is None and gradients[n].any()]
    assert not silent, f"no gradient here: {silent}"
    gradient = max(difference(g, gradients[n]) / float(gradients[n].abs().max()) for n, g in trained.items())
    cells = [logits, boxes, proposals, score, loss, gradient]
    return f"| {job['variant']} | " + " | ".join(f"{cell:.0e}" for cell in cells) + " |"


def take_order(chosen: list | None) -> None:
    """Let our next selections of proposals take the official order of those whose scores tie."""
    import torch

    topk = getattr(torch.Tensor.topk, "original", torch.Tensor.topk)

    def ordered(self, k, dim=-1, **kwargs):
        result = topk(self, k, dim=dim, **kwargs)
        if chosen and self.dim() == 2 and chosen[0].shape == result.indices.shape:
            assert (self.gather(1, chosen[0]) - result.values).abs().max() < TIE
            return torch.return_types.topk((result.values, chosen[0]))
        return result

    ordered.original = topk
    torch.Tensor.topk = ordered


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        print(compare(json.loads(sys.argv[1]), sys.argv[2]), flush=True)
    else:
        main()
