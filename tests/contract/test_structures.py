"""Boxes, Instances and ImageList."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, ImageList, Instances, pairwise_ioa, pairwise_iou
from detectron2.structures.boxes import matched_pairwise_iou


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_box_mode_keeps_the_type_and_the_input(kind) -> None:
    box = kind([1.0, 2.0, 30.0, 40.0]) if kind in (list, tuple) else kind([[1.0, 2.0, 30.0, 40.0]])
    before = copy.deepcopy(box)
    converted = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(converted) is type(box)
    assert np.allclose(converted, kind([1.0, 2.0, 31.0, 42.0]))
    assert np.allclose(BoxMode.convert(converted, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS), before)
    assert np.allclose(box, before)
    assert BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS) is box


def test_box_mode_values_are_those_of_the_files() -> None:
    names = ["XYXY_ABS", "XYWH_ABS", "XYXY_REL", "XYWH_REL", "XYWHA_ABS"]
    assert [BoxMode[name] for name in names] == [0, 1, 2, 3, 4]


def test_box_mode_converts_lists_in_float32() -> None:
    converted = BoxMode.convert([0.1, 0.2, 0.3, 0.4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert converted[0] == float(np.float32(0.1))  # training targets depend on it
    assert BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]


def test_rotated_boxes_become_their_enclosing_box() -> None:
    square = BoxMode.convert([10.0, 20.0, 2.0, 2.0, 45.0], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    half = 2**0.5
    assert square == pytest.approx([10 - half, 20 - half, 10 + half, 20 + half])
    upright = BoxMode.convert([1.0, 2.0, 4.0, 6.0], BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)
    assert upright == [3.0, 5.0, 4.0, 6.0, 0.0]


@pytest.mark.parametrize(
    ("box", "modes", "error"),
    [
        ([1, 2, 3], (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS), AssertionError),
        ([0.1, 0.2, 0.3, 0.4], (BoxMode.XYXY_REL, BoxMode.XYXY_ABS), AssertionError),
        ([1, 2, 3, 4], (BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS), NotImplementedError),
    ],
)
def test_box_mode_refuses(box, modes, error) -> None:
    with pytest.raises(error):
        BoxMode.convert(box, *modes)


def test_boxes() -> None:
    boxes = Boxes([[0, 0, 10, 20], [-5, 3, 4, 3], [8, 8, 40, 60]])
    assert boxes.tensor.dtype == torch.float32
    assert boxes.area().tolist() == [200, 0, 1664]
    assert boxes.get_centers()[2].tolist() == [24, 34]
    assert boxes.nonempty().tolist() == [True, False, True]
    assert boxes.nonempty(threshold=10).tolist() == [False, False, True]
    assert boxes.inside_box((20, 40)).tolist() == [False, False, False]
    assert boxes.inside_box((100, 100)).tolist() == [True, False, True]
    assert boxes.inside_box((100, 100), boundary_threshold=5).tolist() == [True, True, True]
    clipped = boxes.clone()
    clipped.clip((30, 20))
    assert clipped.tensor.tolist() == [[0, 0, 10, 20], [0, 3, 4, 3], [8, 8, 20, 30]]
    clipped.scale(2.0, 0.5)
    assert clipped[0].tensor.tolist() == [[0, 0, 20, 10]]
    assert boxes.tensor[1, 0] == -5  # the clone shares nothing
    assert boxes[1:].tensor.shape == boxes[torch.tensor([False, True, True])].tensor.shape == (2, 4)
    assert len(Boxes.cat([boxes, boxes[0]])) == 4
    assert [box.shape for box in boxes] == [(4,)] * 3
    assert boxes.to("cpu").device == torch.device("cpu")
    assert repr(boxes).startswith("Boxes(tensor(")


def test_boxes_empty_and_wrong() -> None:
    assert Boxes([]).tensor.shape == Boxes.cat([]).tensor.shape == (0, 4)
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(3, 5))
    with pytest.raises(AssertionError):
        Boxes([[0, 0, float("nan"), 1]]).clip((5, 5))
    with pytest.raises(AssertionError):
        Boxes([[0, 0, 1, 1]])[torch.tensor(0)]


def test_pairwise() -> None:
    first = Boxes([[0, 0, 10, 10], [0, 0, 0, 0]])
    second = Boxes([[5, 5, 15, 15], [0, 0, 10, 5], [50, 50, 60, 60]])
    assert torch.allclose(pairwise_iou(first, second), torch.tensor([[25 / 175, 0.5, 0], [0, 0, 0]]))
    assert torch.allclose(pairwise_ioa(first, second), torch.tensor([[0.25, 1.0, 0], [0, 0, 0]]))
    assert torch.allclose(matched_pairwise_iou(first[0], second[1]), torch.tensor([0.5]))
    with pytest.raises(AssertionError):
        matched_pairwise_iou(first, second)


def test_instances() -> None:
    instances = Instances((30, 40), scores=torch.tensor([0.9, 0.5, 0.1]))
    instances.gt_boxes = Boxes(torch.arange(12.0).view(3, 4))
    instances.names = ["a", "b", "c"]
    assert instances.image_size == (30, 40)
    assert len(instances) == 3
    assert instances.has("names")
    assert not instances.has("masks")
    assert instances.get("names") is instances.get_fields()["names"]
    kept = Instances((30, 40), scores=instances.scores, gt_boxes=instances.gt_boxes)[instances.scores > 0.3]
    assert len(kept.gt_boxes) == len(kept.scores) == len(kept) == 2
    assert instances[-1].names == ["c"]
    assert len(instances[1:]) == 2
    instances.remove("names")
    assert not instances.has("names")
    assert instances.to("cpu").scores is not None
    assert "num_instances=3" in str(instances)
    restored = pickle.loads(pickle.dumps(copy.deepcopy(instances)))
    assert torch.equal(restored.scores, instances.scores)


def test_instances_errors() -> None:
    instances = Instances((3, 4), scores=torch.zeros(2))
    with pytest.raises(AssertionError):
        instances.labels = torch.zeros(3)
    with pytest.raises(AttributeError):
        _ = instances.labels
    with pytest.raises(IndexError):
        instances[2]
    with pytest.raises(NotImplementedError):
        iter(instances)
    with pytest.raises(NotImplementedError):
        len(Instances((3, 4)))


def test_instances_cat() -> None:
    one = Instances((3, 4), boxes=Boxes([[0, 0, 1, 1]]), scores=torch.ones(1), names=["a"])
    both = Instances.cat([one, one])
    assert (len(both.boxes), both.scores.tolist(), both.names) == (2, [1, 1], ["a", "a"])
    assert Instances.cat([one]) is one
    with pytest.raises(ValueError, match="concat"):
        Instances.cat([Instances((3, 4), x=(1,)), Instances((3, 4), x=(2,))])
    with pytest.raises(AssertionError):
        Instances.cat([one, Instances((5, 5), boxes=Boxes([[0, 0, 1, 1]]), scores=torch.ones(1), names=["a"])])


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (11, 13)),
        ({"size_divisibility": 8}, (16, 16)),
        ({"padding_constraints": {"size_divisibility": 4}}, (12, 16)),
        ({"padding_constraints": {"square_size": 20}}, (20, 20)),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_image_list(options, size, number) -> None:
    images = [torch.rand(3, 11, 13), torch.rand(3, 10, 9)][:number]
    batch = ImageList.from_tensors(images, pad_value=-1.0, **options)
    assert batch.tensor.shape == (number, 3, *size)
    assert batch.image_sizes == [(11, 13), (10, 9)][:number]
    assert len(batch) == number
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
        assert batch.tensor[index].sum() == pytest.approx(
            image.sum().item() - 3 * (size[0] * size[1] - image.shape[1] * image.shape[2]), abs=1e-2
        )
    assert batch.to(torch.float64).tensor.dtype == torch.float64


def test_image_list_refuses() -> None:
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.rand(3, 4, 4), torch.rand(1, 4, 4)])
