"""The transformer as compilers, exporters and GPUs want it: one whole graph for all sizes, no wait for the device."""

from __future__ import annotations

import pytest
import torch
from tiny import EMBED_DIM, VARIANTS, tiny_transformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detrex.structures import PyramidLayout

SIZES = [(12, 16), (20, 28), (27, 19), (32, 44)]  # from the first to the second every side of every level changes
READS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "unique")


class Detect(nn.Module):
    """Feature maps of unpadded images -> logits and boxes of the last layer; encoder and decoder in between."""

    def __init__(self, variant: str, queries: int = 8):
        super().__init__()
        self.transformer = tiny_transformer(variant, queries=queries)

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        shapes = [tuple(level.shape[-2:]) for level in maps]
        layout = PyramidLayout.build(shapes, [shapes] * len(maps[0]), maps[0].device)
        last = self.transformer(maps, layout).layers[-1]
        return last.logits_BQK, last.boxes_BQ4


def feature_maps(height: int, width: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Three levels for two images."""
    torch.manual_seed(height)
    sizes = [(height, width), ((height + 1) // 2, (width + 1) // 2), ((height + 3) // 4, (width + 3) // 4)]
    return tuple(torch.randn(2, EMBED_DIM, *size).to(device) for size in sizes)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_graph_breaks(variant, training):
    torch._dynamo.reset()
    explanation = torch._dynamo.explain(Detect(variant).train(training))(*feature_maps(12, 16))
    assert explanation.graph_count == 1, explanation.break_reasons
    assert explanation.graph_break_count == 0, explanation.break_reasons


@pytest.mark.parametrize("variant", ["refine", "two_stage"])
def test_one_graph_serves_all_sizes(variant):
    """Compiled at most twice: for the first size, and for all others."""
    torch._dynamo.reset()
    compilations = []

    def counting_backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    model = Detect(variant).eval()
    compiled = torch.compile(model, backend=counting_backend, fullgraph=True)
    with torch.no_grad():
        for size in SIZES:
            maps = feature_maps(*size)
            torch.testing.assert_close(compiled(*maps), model(*maps))
    assert len(compilations) <= 2


class Waits(TorchDispatchMode):
    """Records what would make the host wait for a GPU: values read from tensors, and copies between devices."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        devices = {x.device for x in (*args, result) if isinstance(x, Tensor) and x.dim()}
        if name in READS or len(devices) > 1:
            self.found.append(str(function))
        return result


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_encoder_and_decoder_never_wait_for_the_device(variant, training):
    """On the meta device, where there is no value to be read: reading one raises, a copy to it is counted."""
    model = Detect(variant).train(training).to("meta")
    maps = feature_maps(12, 16, "meta")
    shapes = [tuple(level.shape[-2:]) for level in maps]
    layout = PyramidLayout.build(shapes, [shapes] * 2, torch.device("meta"))  # once per batch: one copy of the sizes
    with Waits() as waits:
        outputs = model.transformer(maps, layout)
    assert outputs.layers[-1].boxes_BQ4.is_meta
    assert waits.found == []


def test_waits_are_found():
    with Waits() as waits:
        torch.ones(3).nonzero()
        torch.ones(1).item()
        torch.ones(3).to("meta")
    assert [name.split(".")[1] for name in waits.found] == ["nonzero", "_local_scalar_dense", "_to_copy"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_synchronisation_on_a_gpu(variant):
    model, maps = Detect(variant).cuda(), feature_maps(12, 16, "cuda")
    shapes = [tuple(level.shape[-2:]) for level in maps]
    layout = PyramidLayout.build(shapes, [shapes] * 2, torch.device("cuda"))
    model.transformer(maps, layout)  # the self-test of the first use does synchronise
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.transformer(maps, layout)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_runtime_gives_the_same_answer(variant, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, maps, path = Detect(variant).eval(), feature_maps(12, 16), tmp_path / "detect.onnx"
    with torch.no_grad():
        expected = model(*maps)
        torch.onnx.export(model, maps, path, dynamo=True, verbose=False, external_data=False)
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert domains <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {field.name: value.numpy() for field, value in zip(session.get_inputs(), maps, strict=True)}
    for actual, wanted in zip(session.run(None, inputs), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), wanted, rtol=1e-4, atol=1e-5)
