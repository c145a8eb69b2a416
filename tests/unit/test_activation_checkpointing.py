"""Recomputing activations saves memory and changes nothing else."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from tiny import image_input, tiny_detector
from torch import nn

from detrex.config import get_config


def _train(module: nn.Module, run) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, the gradients, and how many bytes autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    module.zero_grad()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in module.parameters() if p.grad is not None], sum(kept.values())


def _compare(module: nn.Module, switch, run) -> None:
    loss, gradients, kept = _train(module, run)
    switch(True)
    other_loss, other_gradients, other_kept = _train(module, run)
    assert torch.equal(loss, other_loss)
    assert len(gradients) == len(other_gradients) > 0
    for one, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert other_kept < 0.8 * kept


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_of_the_transformer(part, dropout):
    detector = tiny_detector("two_stage", queries=20 if part == "encoder" else 100)
    recomputed = getattr(detector.transformer, part)
    for module in recomputed.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    batch = [image_input(128, 160, 3, seed=1), image_input(96, 128, 2, seed=2)]
    _compare(
        detector,
        lambda on: setattr(recomputed, "use_checkpoint", on),
        lambda: sum(detector(batch).values()),
    )
    with torch.no_grad():
        assert len(detector.eval()(batch)) == 2


def test_of_a_swin_backbone():
    node = get_config("common/models/backbones.py").swin_tiny.backbone
    node.depths, node.embed_dim, node.drop_path_rate = (1, 1, 2, 1), 24, 0.3
    plain = instantiate(node)
    node.use_checkpoint = True
    recomputing = instantiate(node)
    recomputing.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 96)
    backbone = nn.ModuleList([plain])
    _compare(
        backbone,
        lambda _: backbone.__setitem__(0, recomputing),
        lambda: sum(x.square().mean() for x in backbone[0](images).values()),
    )
