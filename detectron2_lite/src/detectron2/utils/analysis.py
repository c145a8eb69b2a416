"""FLOPs, activations and parameters of detection models, with fvcore.

fvcore traces a function from tensors to tensors, whereas a detector takes ``list[dict]`` and returns dicts or
Instances; an adapter stands in between. fvcore counts one multiply-add as one FLOP.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from detectron2.evaluation import inference_context
from torch import Tensor, nn

with warnings.catch_warnings():  # of the TorchScript functions that fvcore compiles on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import fvcore.nn as fvcore_nn

parameter_count = fvcore_nn.parameter_count
parameter_count_table = fvcore_nn.parameter_count_table

# Elementwise operations, reductions and the like: not worth a count, nor a warning about it.
_IGNORED_OPS = """
    aten::add aten::add_ aten::argmax aten::argsort aten::batch_norm aten::constant_pad_nd aten::div aten::div_
    aten::exp aten::log2 aten::max_pool2d aten::meshgrid aten::mul aten::mul_ aten::neg aten::nonzero_numpy
    aten::reciprocal aten::repeat_interleave aten::rsub aten::sigmoid aten::sigmoid_ aten::softmax aten::sort
    aten::sqrt aten::sub torchvision::nms
""".split()  # noqa: SIM905


class _TensorAdapter(nn.Module):
    """``model`` as a function of the tensors in ``inputs``, which returns the tensors in the model's output.

    Attributes:
        flattened_inputs: the tensors found in ``inputs``, in the order in which ``forward`` takes them.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        self.model = model.module if wrapped else model
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.flattened_inputs = tuple(_tensors(self.inputs))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(tensors)
        outputs = self.model(*_replace_tensors(self.inputs, lambda _: next(remaining)))
        return tuple(_tensors(outputs))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, mappings, Instances, and structures that keep one as ``.tensor``."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif hasattr(value, "get_fields"):
        yield from _tensors(value.get_fields())
    elif isinstance(getattr(value, "tensor", None), Tensor):
        yield value.tensor


def _replace_tensors(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_replace_tensors(item, replace) for item in value])
    if isinstance(value, Mapping):
        return {key: _replace_tensors(item, replace) for key, item in value.items()}
    if hasattr(value, "get_fields"):
        return type(value)(value.image_size, **_replace_tensors(value.get_fields(), replace))
    if isinstance(getattr(value, "tensor", None), Tensor):
        return type(value)(replace(value.tensor))
    return value


class FlopCountAnalysis(fvcore_nn.FlopCountAnalysis):
    """``fvcore.nn.FlopCountAnalysis`` for models with structured inputs and outputs.

    Args:
        model: counted in the mode, training or evaluation, that it is in.
        inputs: the argument of the model, or a tuple of its arguments.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        adapter = _TensorAdapter(model, inputs)
        super().__init__(adapter, adapter.flattened_inputs)
        self.set_op_handle(**dict.fromkeys(_IGNORED_OPS))


def flop_count_operators(model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, float]:
    """GFLOPs by operator, in evaluation mode; for a detector they depend on the input, so average over several."""
    with inference_context(model):
        counts = FlopCountAnalysis(model, inputs).by_operator()
    return {name: count / 1e9 for name, count in counts.items()}


def activation_count_operators(model: nn.Module, inputs: list[dict[str, Any]], **kwargs: Any) -> dict[str, float]:
    """Millions of activations by operator, in evaluation mode.

    Args:
        model: a detector.
        inputs: one image in detectron2's format; only its key "image" is used.
        kwargs: further arguments of ``fvcore.nn.activation_count``.
    """
    assert len(inputs) == 1, f"Activations are counted for one image, got {len(inputs)}"
    supported = {name: lambda inputs, outputs: {} for name in _IGNORED_OPS} | kwargs.pop("supported_ops", {})
    with inference_context(model), torch.no_grad():
        adapter = _TensorAdapter(model, [{"image": inputs[0]["image"]}])
        counts, _ = fvcore_nn.activation_count(adapter, adapter.flattened_inputs, supported_ops=supported, **kwargs)
    return counts


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the parameters that get no gradient from the losses. Existing gradients are discarded.

    Args:
        model: in training mode; returns a loss or a dict of losses.
        inputs: the argument of the model, or a tuple of its arguments.
    """
    assert model.training, "find_unused_parameters needs a model in training mode"
    model.zero_grad(set_to_none=True)
    losses = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    total = sum(losses.values()) if isinstance(losses, Mapping) else losses
    total.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused
