"""Our three variants against Hugging Face transformers' Deformable DETR, with the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra detrex[parity]")

from detrex.checkpoint.dialects import detect_dialect, to_ours
from detrex.modeling.batching import PadImages
from tests.parity.pairs import NUM_CLASSES, OURS_OF_LABEL, WEIGHTS, pair, saved_state
from tests.tiny import image_input

VARIANTS = ("plain", "refine", "two_stage")
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def batch(*sizes: tuple[int, int]) -> list[dict]:
    """Images of different size with a few boxes each."""
    return [image_input(h, w, boxes=3 + i, num_classes=NUM_CLASSES, seed=i) for i, (h, w) in enumerate(sizes)]


def their_input(model, inputs: list[dict]) -> dict:
    """The same images, normalised and padded, with the mask of what is image."""
    images = [(x["image"].float() - model.pixel_mean) / model.pixel_std for x in inputs]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    values, mask = torch.zeros(len(images), 3, height, width), torch.zeros(len(images), height, width, dtype=torch.long)
    for i, image in enumerate(images):
        values[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": values, "pixel_mask": mask}


def assert_same_predictions(theirs, mine, inputs: list[dict]) -> None:
    with torch.no_grad():
        expected = theirs(**their_input(mine, inputs))
        actual = mine.outputs([x["image"] for x in inputs])
    assert expected.logits.std() > 0.1  # weights that make a difference
    assert expected.pred_boxes.std() > 0.1
    torch.testing.assert_close(actual.layers[-1].logits_BQK, expected.logits, **TOLERANCE)
    torch.testing.assert_close(actual.layers[-1].boxes_BQ4, expected.pred_boxes, **TOLERANCE)
    if actual.proposals is None:
        assert expected.enc_outputs_class is None
        return
    valid = ~actual.proposals.padding_BQ
    assert torch.equal(expected.enc_outputs_coord_logits.isfinite().all(-1), valid)
    torch.testing.assert_close(actual.proposals.logits_BQK, expected.enc_outputs_class, **TOLERANCE)
    boxes = expected.enc_outputs_coord_logits.sigmoid()
    torch.testing.assert_close(actual.proposals.boxes_BQ4[valid], boxes[valid], **TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_boxes_and_proposals(variant, tmp_path):
    assert_same_predictions(*pair(variant, tmp_path), batch((128, 224), (160, 120)))


def test_resnet50_two_stage_at_full_size(tmp_path):
    pytest.importorskip("timm", reason="the published files' backbone is timm's")
    assert_same_predictions(*pair("two_stage", tmp_path, full=True), batch((96, 160), (128, 100)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients(variant, tmp_path):
    """Losses of every decoder layer, and every gradient.

    transformers has no loss on the encoder's proposals; ours is left out of the sum here, and is tested elsewhere.
    """
    theirs, mine = (model.train() for model in pair(variant, tmp_path))
    assert isinstance(mine.train_batching, PadImages)
    inputs = batch((128, 224), (160, 120))
    targets = mine._targets(inputs)
    labels = [{"class_labels": target.labels_M, "boxes": target.boxes_M4} for target in targets]
    expected = theirs(**their_input(mine, inputs), labels=labels)
    outputs = replace(mine.outputs([x["image"] for x in inputs]), proposals=None)
    losses = mine.criterion(outputs, targets)

    compared = 0
    for name, ours_name in OURS_OF_LABEL.items():
        for suffix in ("", "_0", "_1"):
            weighted = expected.loss_dict[name + suffix] * WEIGHTS[name]
            torch.testing.assert_close(losses[ours_name + suffix], weighted, **TOLERANCE)
            compared += 1
    assert compared == len(losses)
    torch.testing.assert_close(sum(losses.values()), expected.loss, **TOLERANCE)

    expected.loss.backward()
    sum(losses.values()).backward()
    _assert_same_gradients(theirs, mine, tmp_path)


def _assert_same_gradients(theirs, mine, folder) -> None:
    """Gradients take the way of the weights: they replace them in a file, which is renamed."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    state = saved_state(theirs, folder)
    expected = to_ours(detect_dialect(state), state).state
    compared = {}
    for name, parameter in mine.named_parameters():
        # transformers freezes all of its own ResNet; the proposals' head has no gradient without their loss.
        if parameter.grad is None or name.startswith("backbone."):
            continue
        scale = expected[name].abs().max()
        compared[name] = float(scale)
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-4 * max(1.0, float(scale)), msg=name)
    assert len(compared) > 80
    assert sum(scale > 1e-3 for scale in compared.values()) > 0.9 * len(compared), "gradients that are all but zero"
