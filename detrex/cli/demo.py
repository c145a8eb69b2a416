"""``detrex demo``: draw a data set, train a small Deformable DETR on it, evaluate and show."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os.path import expanduser
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from detrex.config import find_config, load_config
from detrex.config.serialization import resolved_yaml
from detrex.data import prepare_data, read_image
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.distributed.errors import with_exit_status
from detrex.engine.train import config_from_args
from detrex.engine.train import main as train
from detrex.inference.detections import class_name
from detrex.inference.detector import Detector
from detrex.inference.drawing import BoxLayer, comparison_grid
from detrex.utils.text import count_of
from detrex.visualization.charts import training_curve

from . import train as training

__all__ = ["DemoReport", "build_parser", "main", "print_report", "run_demo"]

CONFIG = "projects/deformable_detr/configs/demo_shapes.py"
STATE = "demo.json"  # says "finished", and with what
PICTURED_IMAGES = 12
SCORE_THRESHOLD = 0.3


_EPILOG = """
examples:
  detrex demo
  detrex demo --data-only --output datasets/shapes --num-train 500

exit status: 0 done, 2 wrong command line or output folder
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    default = ShapesParameters()
    parser = argparse.ArgumentParser(
        prog="detrex demo",
        description="Draw a data set of shapes, train a small Deformable DETR on it, evaluate and show. Does what is "
        "still to be done, once for each seed and folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=expanduser, help="folder for everything (output/demo; with --data-only datasets/demo_shapes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of images, weights and order (%(default)s)")
    parser.add_argument("--data-only", action="store_true", help="only draw the data set into --output, in COCO format")
    parser.add_argument("--num-train", type=int, default=default.num_train, help="training images (%(default)s)")
    parser.add_argument("--num-val", type=int, default=default.num_val, help="validation images (%(default)s)")
    parser.add_argument("--image-size", type=int, default=default.image_size, help="side in pixels (%(default)s)")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that draw (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides of the training's config")
    return parser


@with_exit_status(FileExistsError)
def main(argv: Sequence[str] | None = None) -> int:
    """Do the demo as the command line says; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    parameters = ShapesParameters(
        seed=args.seed, num_train=args.num_train, num_val=args.num_val, image_size=args.image_size
    )
    start = time.perf_counter()
    if args.data_only:
        draw_data(args.output or "datasets/demo_shapes", parameters, num_workers=args.num_workers)
        return 0
    output = args.output or "output/demo"
    report = run_demo(output, seed=args.seed, overrides=args.opts, parameters=parameters, num_workers=args.num_workers)
    print(f"\n== Demo finished in {time.perf_counter() - start:.1f} s")
    print_report(report, output)
    return 0


@dataclass
class DemoReport:
    """What a demo reached.

    Attributes:
        results: metric -> percent, of the last evaluation.
        seconds: step -> duration when it was done.
        eval_command: reproduces ``results``.
        pictures: files.
        reused: whether a finished run was found and nothing was trained.
    """

    results: dict[str, float]
    seconds: dict[str, float]
    eval_command: str
    pictures: list[str] = field(default_factory=list)
    reused: bool = False


def run_demo(
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    parameters: ShapesParameters | None = None,
    num_workers: int = 1,
) -> DemoReport:
    """Do all steps into one folder: ``data/``, ``run/`` (the training's own output) and the pictures.

    A folder that an equal demo (same data, config and seed) has finished in is left as it is.

    Args:
        output: folder.
        seed: of the images, the weights and the order of training.
        overrides: further changes of the config, in its grammar.
        parameters: of the images; None takes the default set with ``seed``.
        num_workers: processes that draw the images.
    """
    folder = Path(output)
    parameters = parameters or ShapesParameters(seed=seed)
    seconds = {"data": draw_data(folder / "data", parameters, num_workers=num_workers)}

    settings = _settings(folder, seed, overrides)
    fingerprint = _fingerprint(settings, parameters)
    report = _finished(folder, fingerprint)
    if report is not None:
        _say(f"Training: {folder / 'run'} holds the finished run of this config, data and seed; nothing to do")
    else:
        (folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(folder / "run", ignore_errors=True)
        _say(f"Training and evaluation: {CONFIG}, seed {seed}")
        start = time.perf_counter()
        results = train(_training_arguments(settings))["bbox"]
        seconds["training and evaluation"] = time.perf_counter() - start
        report = DemoReport(dict(results), seconds, _eval_command(folder))
        _write_state(folder, fingerprint, report)  # before the pictures: they can be drawn again, without training

    if not report.pictures or not all(Path(p).is_file() for p in report.pictures):
        start = time.perf_counter()
        report.pictures = _draw(folder, settings)
        report.seconds["pictures"] = time.perf_counter() - start
        _write_state(folder, fingerprint, report)
    return report


def draw_data(folder: str | os.PathLike[str], parameters: ShapesParameters, *, num_workers: int = 1) -> float:
    """Draw the data set if it is not there yet, and say so; the seconds that it took."""
    start = time.perf_counter()
    drawn = make_demo_data(folder, parameters, num_workers=num_workers)
    seconds = time.perf_counter() - start
    images = f"{parameters.num_train} training and {count_of(parameters.num_val, 'validation image')}"
    _say(f"Data: {images} in {folder}: {f'drawn in {seconds:.1f} s' if drawn else 'already there'}")
    return seconds


def print_report(report: DemoReport, output: str | os.PathLike[str]) -> None:
    """The lines that a demo ends with."""
    per_class = {k.removeprefix("AP-"): v for k, v in report.results.items() if k.startswith("AP-")}
    print("\nAP per class: " + ", ".join(f"{name} {value:.1f}" for name, value in per_class.items()))
    times = ", ".join(f"{step} {value:.1f} s" for step, value in report.seconds.items())
    print(f"Time: {times}" + (" (of the run found there)" if report.reused else ""))
    print(f"Pictures: {', '.join(report.pictures)}")
    print(f"The same AP again:\n  {report.eval_command}")
    print(f"AP: {report.results['AP']:.1f}")
    print(f"AP50: {report.results['AP50']:.1f}")
    print(f"Everything is in {output}")


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def _settings(folder: Path, seed: int, overrides: Sequence[str]) -> list[str]:
    paths = {"dataloader.data.root": folder / "data", "train.output_dir": folder / "run"}
    return [*(training.override(key, path) for key, path in paths.items()), f"train.seed={seed}", *overrides]


def _training_arguments(settings: Sequence[str]) -> argparse.Namespace:
    return training.build_parser().parse_args(["--config-file", str(find_config(CONFIG)), *settings])


def _fingerprint(settings: Sequence[str], parameters: ShapesParameters) -> str:
    cfg = config_from_args(_training_arguments(settings))
    return hashlib.sha256((resolved_yaml(cfg) + parameters.fingerprint()).encode()).hexdigest()[:16]


def _write_state(folder: Path, fingerprint: str, report: DemoReport) -> None:
    text = json.dumps({"fingerprint": fingerprint, **asdict(report)}, indent=2)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")


def _finished(folder: Path, fingerprint: str) -> DemoReport | None:
    """The report of a training that is complete, with or without its pictures."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state.pop("fingerprint") != fingerprint or not (folder / "run" / "model_final.pth").is_file():
            return None
        return DemoReport(**{**state, "reused": True})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _eval_command(folder: Path) -> str:
    here, python = Path.cwd(), Path(sys.executable)
    python = python.relative_to(here) if python.is_relative_to(here) else python
    words = [str(python), "-m", "detrex", "evaluate", "--config-file", CONFIG]
    words += ["--weights", str(folder / "run" / "model_final.pth")]
    words += [training.override("dataloader.data.root", folder / "data")]
    words += [training.override("train.output_dir", folder / "eval")]
    return shlex.join(words)


def _draw(folder: Path, settings: Sequence[str]) -> list[str]:
    """Predictions beside the ground truth, and the curves."""
    cfg = load_config(CONFIG, settings)
    detector = Detector.from_checkpoint(folder / "run" / "model_final.pth", device=cfg.train.device)
    test_name = prepare_data(cfg, train=False).test_name
    rows = []
    for record in DatasetCatalog.get(test_name)[:PICTURED_IMAGES]:
        image = read_image(record["file_name"])
        found = detector.predict(image, threshold=SCORE_THRESHOLD)
        rows.append((image, _truth(record, detector), found.box_layer()))
    grid, curve = folder / "predictions.png", folder / "training.png"
    comparison_grid(rows, columns=3, titles=("ground truth", f"prediction (score >= {SCORE_THRESHOLD})")).save(grid)
    training_curve(folder / "run" / "metrics.json", curve, title="Deformable DETR on generated shapes")
    return [str(grid), str(curve)]


def _truth(record: dict, detector: Detector) -> BoxLayer:
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
    classes = [a["category_id"] for a in record["annotations"]]
    return BoxLayer(np.array(boxes).reshape(-1, 4), [class_name(detector.class_names, c) for c in classes], classes)
