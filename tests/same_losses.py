"""Compare the training losses of this checkout with those of an older one, to the last bit.

    python tests/same_losses.py OLD_CHECKOUT [--demo-steps 100]

Both train the demo's detector on its generated images, through tools/train_net.py, and three steps of each family's
full-size model on random images; each checkout in processes of its own, on the CPU and in one thread. Prints one line
for each comparison; exit status 1 if a loss differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = "projects/deformable_detr/configs/demo_shapes.py"
FAMILIES = (
    "projects/deformable_detr/configs/deformable_detr_r50_50ep.py",
    "projects/deformable_detr/configs/deformable_detr_r50_single_scale_dc5_50ep.py",
    "projects/deformable_detr/configs/deformable_detr_r50_with_box_refinement_50ep.py",
    "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py",
    "projects/deformable_detr/configs/deformable_detr_swin_tiny_50ep.py",
    "projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep.py",
    "projects/h_deformable_detr/configs/deformable_detr_baseline_r50_two_stage_12ep_tricks.py",
    "projects/h_deformable_detr/configs/h_deformable_detr_r50_50ep.py",
    "projects/h_deformable_detr/configs/h_deformable_detr_swin_tiny_two_stage_12ep.py",
    "projects/dab_deformable_detr/configs/dab_custom_small.py",
)
STEPS = 3


def family_losses(path: str) -> list[dict[str, float]]:
    """Losses of three steps of a config's model and optimizer; runs in the checkout of the current directory."""
    import torch
    from detectron2.config import instantiate
    from detectron2.structures import Boxes, Instances
    from omegaconf import OmegaConf

    from detrex.config import load_config

    torch.manual_seed(0)
    cfg = load_config(path)
    groups = cfg.model.transformer.queries.groups
    groups.one2one = 30  # the images are small
    if OmegaConf.select(groups, "one2many"):
        groups.one2many = 60
    model = instantiate(cfg.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    steps = []
    for _ in range(STEPS):
        batch = []
        for height, width in ((128, 160), (96, 128)):
            corners = torch.rand(5, 2, 2, generator=generator).sort(1).values * torch.tensor([width, height])
            objects = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)), gt_classes=torch.arange(5) % 3)
            image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
            batch.append({"image": image, "height": height, "width": width, "instances": objects})
        losses = model(batch)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append({name: float(value) for name, value in losses.items()})
    return steps


def demo_losses(checkout: Path, data: Path, output: Path, steps: int) -> list[dict[str, float]]:
    """Losses of each iteration of the demo's training, as metrics.json has them."""
    accelerate = (
        "train.optimizations" if "optimizations" in (checkout / "configs/common/train.py").read_text() else None
    )
    key = accelerate or "train.accelerate"  # before 0.1.0 was released
    overrides = {
        "dataloader.data.root": data,
        "train.output_dir": output,
        "train.max_iter": steps,
        "train.warmup": 10,
        "train.log_period": 1,
        "train.eval_period": 0,
        "train.report": False,
        "train.device": "cpu",
        f"{key}.training": "none",
    }
    run(checkout, "tools/train_net.py", "--config-file", DEMO, *(f"{k}={v}" for k, v in overrides.items()))
    rows = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in row.items() if "loss" in k} for row in rows if "total_loss" in row]


def run(checkout: Path, *command: str) -> str:
    """Standard output of Python in another checkout."""
    paths = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main() -> int:
    """Exit status: 0 if all losses are equal, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="another checkout")
    parser.add_argument("--demo-steps", type=int, default=100, help="iterations of the demo (%(default)s)")
    parser.add_argument("--family", help=argparse.SUPPRESS)  # what this script calls itself with
    args = parser.parse_args()
    if args.family:
        print(json.dumps(family_losses(args.family)))
        return 0
    checkouts = (args.old.resolve(), ROOT)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        run(ROOT, "tools/make_demo_data.py", "--output", str(data))
        results = {
            "demo": [demo_losses(c, data, Path(folder, str(i)), args.demo_steps) for i, c in enumerate(checkouts)]
        }
        for path in FAMILIES:
            results[path] = [json.loads(run(c, __file__, ".", "--family", path)) for c in checkouts]
    for name, (old, new) in results.items():
        same = old == new and len(new) > 0
        failed |= not same
        print(
            f"{'equal' if same else 'DIFFERENT'}: {name}, {len(new)} steps, last loss {list(new[-1].values())[-1]:.9g}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
