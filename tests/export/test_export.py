"""Exported detectors beside the detector itself, at sizes and batches that they were not traced with."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import detectron2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.backbone.swin import SwinTransformer
from detectron2.structures import Boxes, Instances
from PIL import Image
from tiny import EMBED_DIM, NUM_LEVELS, image_input, tiny_detector

from detrex.data import DetrDatasetMapper
from detrex.export.comparison import compare, compare_instances
from detrex.export.program import ExportableDetector, describe, export_program, save_onnx, save_program
from detrex.export.runtime import OnnxDetector, ProgramDetector
from detrex.inference.detector import Detector
from detrex.modeling import LookForwardTwice, PadImages
from detrex.modeling.backbone import ConvStages, TimmBackbone
from detrex.modeling.neck import ChannelMapper

onnx = pytest.importorskip("onnx", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'detrex[export]'")
pytest.importorskip("onnxscript", reason="pip install 'detrex[export]'")

RESIZE = {"short_edge_length": 72, "max_size": 100, "interpolation": "bilinear"}
METADATA = {"class_names": ["a", "b", "c"], "input_format": "BGR", "resize": RESIZE}
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def shallow(variant: str, **kwargs):
    """One encoder and two decoder layers: what more there is repeats them."""
    detector = tiny_detector(variant, **kwargs)
    transformer = detector.transformer
    transformer.encoder.layers = transformer.encoder.layers[:1]
    transformer.decoder.layers, transformer.decoder.heads = (
        transformer.decoder.layers[:2],
        transformer.decoder.heads[:2],
    )
    return detector.eval()


def with_backbone(detector, backbone, channels: dict[str, int]):
    shapes = {name: ShapeSpec(channels=n) for name, n in channels.items()}
    torch.manual_seed(1)
    detector.backbone = backbone.eval()
    detector.neck = ChannelMapper(
        input_shapes=shapes, in_features=list(shapes), out_channels=EMBED_DIM, num_outs=NUM_LEVELS
    ).eval()
    return detector


def resnet() -> ResNet:
    torch.manual_seed(0)
    stages = [
        [BottleneckBlock(i, o, bottleneck_channels=8, stride=s, norm="FrozenBN")]
        for i, o, s in [(8, 16, 1), (16, 24, 2), (24, 32, 2)]
    ]
    return ResNet(BasicStem(out_channels=8, norm="FrozenBN"), stages, out_features=["res3", "res4"])


def swin() -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(
        embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=3, out_indices=(0, 1), drop_path_rate=0.0
    )


CASES = {
    "plain": lambda: shallow("plain", queries=30),
    "refine_resnet": lambda: with_backbone(shallow("refine", queries=30), resnet(), {"res3": 24, "res4": 32}),
    # More queries than the small images have tokens: their slots are padded.
    "two_stage": lambda: shallow("two_stage", queries=90, num_select=100),
    "hybrid_swin": lambda: with_backbone(
        shallow("two_stage", queries=30, one2many=40, refinement=LookForwardTwice()), swin(), {"p0": 8, "p1": 16}
    ),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    """(detector, its ONNX file, its program)."""
    if "swin" in request.param and not getattr(detectron2, "__lite__", False):
        pytest.skip("full detectron2: its Swin computes window sizes outside the graph")
    detector = CASES[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    program = export_program(detector)
    save_onnx(program, folder / "model.onnx", METADATA)
    save_program(program, folder / "model.pt2", METADATA)
    return detector, OnnxDetector(folder / "model.onnx"), ProgramDetector(folder / "model.pt2")


def test_any_size_and_batch_gives_the_detectors_boxes(exported):
    detector, onnx_detector, program = exported
    exports = {"onnx": onnx_detector, "pt2": program}
    for comparison in compare(detector, exports, [(96, 128), (131, 77), (70, 69), (40, 50)], [1, 4]):
        assert comparison.detections > 0
        assert comparison.agrees, comparison


@pytest.mark.parametrize(("model_name", "out_indices"), [("test_convnext", (1, 2)), ("test_efficientnet", (2, 3))])
def test_a_backbone_of_timm_gives_the_detectors_boxes(model_name, out_indices, tmp_path):
    pytest.importorskip("timm", reason="pip install 'detrex[timm]'")
    backbone = TimmBackbone(model_name, out_indices=out_indices)  # strides 8 and 16
    channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
    detector = with_backbone(shallow("two_stage", queries=30), backbone, channels)
    save_onnx(export_program(detector), tmp_path / "model.onnx", METADATA)
    exports = {"onnx": OnnxDetector(tmp_path / "model.onnx")}
    for comparison in compare(detector, exports, [(96, 128), (131, 77), (70, 69)], [1, 4]):
        assert comparison.detections > 0
        assert comparison.agrees, comparison


def test_images_of_different_size_get_the_boxes_of_padded_images(exported):
    detector, onnx_detector, program = exported
    padding = copy.copy(detector)
    padding.eval_batching = PadImages()
    batch = [image_input(h, w, seed=i) for i, (h, w) in enumerate([(96, 128), (70, 101), (88, 70)])]
    batch[1].update(height=140, width=202)  # boxes of the image before it was resized
    with torch.no_grad():
        expected = padding(batch)
    for export in (onnx_detector, program):
        for one, other in zip(expected, export(batch), strict=True):
            box_error, score_error = compare_instances(one["instances"], other["instances"])
            assert box_error < 2e-3
            assert score_error < 1e-5


def test_the_files_describe_themselves_and_use_standard_operators(exported):
    _, onnx_detector, program = exported
    assert onnx_detector.metadata == program.metadata == METADATA
    model = onnx.load(onnx_detector.path)
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert "GridSample" in {node.op_type for node in model.graph.node}
    axes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]


def test_the_documented_use_without_this_project(exported, tmp_path, monkeypatch):
    detector, onnx_detector, _ = exported
    shutil.copy(onnx_detector.path, tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    code = re.search("```python\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1).replace("image.jpg", "image.png")
    scope: dict = {}
    exec(code, scope)

    resizing = T.ResizeShortestEdge(RESIZE["short_edge_length"], max_size=RESIZE["max_size"])
    mapper = DetrDatasetMapper(augmentation=[resizing], is_train=False, img_format="BGR")
    whole = Detector(model=detector, mapper=mapper, class_names=METADATA["class_names"])
    assert describe(whole)["resize"] == RESIZE
    expected = whole.predict(pixels, threshold=0)
    assert expected.image_size == (120, 200)
    found = Instances((120, 200))
    found.pred_boxes, found.scores, found.pred_classes = (
        Boxes(torch.from_numpy(scope["boxes"])),
        torch.from_numpy(scope["scores"]),
        torch.from_numpy(scope["labels"]),
    )
    assert compare_instances(expected, found)[0] < 4e-3


@pytest.fixture(scope="module")
def small():
    return shallow("two_stage", queries=20)


@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(small):
    exportable = ExportableDetector(small).eval()
    sizes = torch.tensor([[96, 128], [70, 50]])
    images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)
    dirty = images.clone()
    dirty[1, :, 70:] = 255
    dirty[1, :, :, 50:] = 7
    for clean, other in zip(exportable(images, sizes), exportable(dirty, sizes), strict=True):
        assert torch.equal(clean, other)
    boxes = exportable(images, sizes)[0][1]
    assert boxes.min() >= 0
    assert (boxes <= torch.tensor([50, 70, 50, 70])).all()


def test_fixed_size(small, tmp_path):
    detector = small
    program = export_program(detector, fixed_size=(96, 128), batch_size=2, dtype=torch.float32)
    save_onnx(program, tmp_path / "model.onnx", METADATA)
    export = OnnxDetector(tmp_path / "model.onnx")
    assert (export.fixed_size, export.batch_size, export.dtype) == ((96, 128), 2, np.float32)
    (comparison,) = compare(detector, {"onnx": export}, [(96, 128)], [2])
    assert comparison.agrees, comparison

    padding = copy.copy(detector)
    padding.eval_batching = PadImages()
    batch = [image_input(80, 128, seed=1), image_input(96, 90, seed=2)]
    with torch.no_grad():
        expected = padding(batch)
    for one, other in zip(expected, export(batch), strict=True):
        assert compare_instances(one["instances"], other["instances"])[0] < 2e-3
    # An empty slot is filled up and left out.
    alone = export(batch[:1])
    assert len(alone) == 1
    assert compare_instances(expected[0]["instances"], alone[0]["instances"])[0] < 2e-3

    with pytest.raises(ValueError, match=r"takes images \(2, 3, 96, 128\) float32, got 1 image of at most \(97, 128\)"):
        export([image_input(97, 128)])
    with pytest.raises(ValueError, match="got 3 images"):
        export(batch + batch[:1])
    images, sizes = np.zeros((2, 3, 96, 128), np.float32), np.array([[96, 128], [80, 90]])
    with pytest.raises(ValueError, match=r"takes images \(2, 3, 96, 128\) float32, got \(2, 3, 96, 128\) uint8"):
        export.run(images.astype(np.uint8), sizes)
    with pytest.raises(ValueError, match=r"sizes must be \(2, 2\) integers"):
        export.run(images, sizes[:1])
    with pytest.raises(ValueError, match=r"sizes \[\[97, 128\], \[80, 90\]\] are not within"):
        export.run(images, sizes + np.array([[1, 0], [0, 0]]))


def test_files_of_another_origin_and_other_models(tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    graph = onnx.helper.make_graph([node], "relu", [x], [y])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "relu.onnx")
    with pytest.raises(ValueError, match=r"relu\.onnx is not of detrex export: its inputs are x"):
        OnnxDetector(tmp_path / "relu.onnx")
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), tmp_path / "relu.pt2")
    with pytest.raises(ValueError, match=r"relu\.pt2 is not of detrex export"):
        ProgramDetector(tmp_path / "relu.pt2")
    with pytest.raises(TypeError, match="ReLU has no backbone, neck"):
        export_program(torch.nn.ReLU())


@torch.no_grad()
def test_the_comparison_sees_what_is_wrong(small):
    found = small([image_input(96, 128)])[0]["instances"]
    assert compare_instances(found, found) == (0.0, 0.0)
    moved = copy.deepcopy(found)
    moved.pred_boxes.tensor[0] += 0.5
    assert compare_instances(found, moved)[0] == pytest.approx(0.5, abs=1e-3)
    renamed = copy.deepcopy(found)
    renamed.pred_classes[:] = 7
    assert compare_instances(found, renamed)[0] == float("inf")
    assert compare_instances(found, found[:0])[0] == float("inf")


def test_the_program_of_a_small_detector_serves_odd_sizes():
    torch.manual_seed(0)
    detector = with_backbone(
        shallow("two_stage", queries=20), ConvStages(channels=(4, 8, 8, 8)), {"stage3": 8, "stage4": 8}
    )
    program = export_program(detector)
    module = program.module(check_guards=False)
    x = image_input(93, 75)
    with torch.no_grad():
        boxes, scores, labels = module(x["image"][None], torch.tensor([[93, 75]]))
        expected = detector([x])[0]["instances"]
    assert torch.equal(labels[0, : len(expected)], expected.pred_classes)
    torch.testing.assert_close(scores[0, : len(expected)], expected.scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes[0, : len(expected)], expected.pred_boxes.tensor, atol=1e-3, rtol=0)
