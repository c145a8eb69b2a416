"""``detrex convert``: rewrite a checkpoint in another layout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from os.path import expanduser

from detrex.checkpoint.conversion import LAYOUTS, Architecture, convert
from detrex.distributed.errors import with_exit_status

__all__ = ["PUBLISHED", "build_parser", "main"]

TOLERANCE = 1e-5  # of outputs, for --verify

_D, _H = "projects/deformable_detr/configs/deformable_detr_", "projects/h_deformable_detr/configs/"
# One config of each published architecture.
PUBLISHED = {
    Architecture("R50", 4, "plain", 1024, 300): f"{_D}r50_50ep.py",
    Architecture("R50", 4, "refinement", 1024, 300): f"{_D}r50_with_box_refinement_50ep.py",
    Architecture("R50", 4, "two-stage", 1024, 0): f"{_D}r50_two_stage_50ep.py",
    Architecture("R50", 1, "plain", 1024, 300): f"{_D}r50_single_scale_50ep.py",
    Architecture("R101", 4, "plain", 1024, 300): f"{_D}r101_50ep.py",
    Architecture("Swin-T", 4, "plain", 1024, 300): f"{_D}swin_tiny_50ep.py",
    Architecture("R50", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_r50_two_stage_12ep.py",
    Architecture("R101", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_r101_two_stage_12ep.py",
    Architecture("Swin-T", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_tiny_two_stage_12ep.py",
    Architecture("Swin-S", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_small_two_stage_12ep.py",
    Architecture("Swin-L", 4, "mixed", 2048, 1800): f"{_H}h_deformable_detr_swin_large_two_stage_12ep.py",
    Architecture("Swin-L", 4, "mixed", 2048, 2400): f"{_H}h_deformable_detr_swin_large_two_stage_12ep_900queries.py",
    **{
        Architecture(backbone, 4, kind, 2048, queries): f"{_H}deformable_detr_baseline_{name}_two_stage_12ep{tricks}.py"
        for backbone, name in (("R50", "r50"), ("Swin-T", "swin_tiny"), ("Swin-L", "swin_large"))
        for kind, queries, tricks in (("two-stage", 0, ""), ("mixed", 300, "_tricks"))
    },
}

_EPILOG = """
examples:
  detrex convert r50_deformable_detr.pth ours.pth
  detrex convert output/model_final.pth official.pth --to official --verify
  detrex convert hf://SenseTime/deformable-detr detrex.pth --to detrex

Conversion is not needed to use a checkpoint here: train.init_checkpoint takes files of every layout.

exit status: 0 written, 1 written but the outputs differ (--verify), 2 wrong command line, config or checkpoint
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="detrex convert",
        description="Rewrite a checkpoint in the layout of this project, detrex, the official repositories or Hugging "
        "Face.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=expanduser, metavar="SRC", help="path, folder, URL, hf://organisation/name or detectron2://"
    )
    parser.add_argument("target", type=expanduser, metavar="DST", help=".pth or .safetensors; with --to hf a folder")
    parser.add_argument("--to", choices=LAYOUTS, default="ours", help="layout of DST (%(default)s)")
    parser.add_argument(
        "--config-file",
        type=expanduser,
        default="",
        metavar="FILE",
        help="config of the model, for hf and --verify; found if published",
    )
    parser.add_argument(
        "--classes", type=int, choices=(80, 91), help="rows of a COCO classifier (80; official and hf: 91)"
    )
    parser.add_argument("--verify", action="store_true", help="run both files and compare the outputs")
    parser.add_argument("--drop-unknown", action="store_true", help="leave out tensors without a rule")
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    return parser


@with_exit_status(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Convert as the command line says; returns the exit status."""
    args = build_parser().parse_args(argv)
    result = convert(
        args.source,
        args.target,
        layout=args.to,
        config_file=args.config_file,
        published=PUBLISHED,
        classes=args.classes,
        drop_unknown=args.drop_unknown,
        verify=args.verify,
        force=args.force,
    )
    print("\n".join([*result.report, f"written: {', '.join(result.written)}"]))
    if result.difference is None:
        return 0
    print(f"largest difference of the outputs of both files: {result.difference:.3g}")
    return 0 if result.difference <= TOLERANCE else 1
