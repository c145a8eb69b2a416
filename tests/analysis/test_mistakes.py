"""Which detections the report takes for which objects."""

from __future__ import annotations

import pytest

from detrex.analysis.mistakes import (
    confusion,
    describe_false,
    false_detections,
    match_image,
    missed_objects,
    unsure_detection,
)

NAMES = {1: "cat", 2: "dog", 7: "bird"}


def item(box, category=1, **more):
    return {"bbox": box, "category_id": category, **more}


def found(box, category=1, score=0.9):
    return item(box, category, score=score)


def crowd(box, category=1):
    return item(box, category, iscrowd=1)


@pytest.mark.parametrize(
    ("objects", "detections", "pairs"),
    [
        ([], [], []),
        ([], [found([0, 0, 9, 9])], [(1, None, "nothing there")]),
        ([item([0, 0, 9, 9])], [], [(None, 1, None)]),
        ([item([0, 0, 10, 10])], [found([0, 0, 10, 9])], [(1, 1, None)]),
        ([item([0, 0, 10, 10])], [found([0, 0, 10, 9], 2)], [(2, 1, "it is a cat")]),
        ([item([0, 0, 10, 10])], [found([0, 0, 10, 4])], [(1, None, "badly placed: IoU 0.40"), (None, 1, None)]),
        (
            [item([0, 0, 10, 10])],
            [found([0, 0, 10, 9]), found([0, 0, 10, 9])],
            [(1, 1, None), (1, None, "found twice")],
        ),
        # A confident detection of another class does not take the object from one of its own.
        (
            [item([0, 0, 10, 10])],
            [found([0, 0, 10, 10], 2), found([0, 0, 10, 7], score=0.4)],
            [(2, None, "nothing there"), (1, 1, None)],
        ),
        ([crowd([0, 0, 50, 50])], [found([5, 5, 5, 5]), found([9, 9, 5, 5])], []),
        ([crowd([0, 0, 50, 50])], [found([5, 5, 5, 5], 2)], [(2, None, "nothing there")]),
    ],
)
def test_matching(objects, detections, pairs):
    matches = match_image(1, objects, detections)
    got = []
    for m in matches:
        wrong = m.detection is not None and not m.is_right
        classes = [e and e["category_id"] for e in (m.detection, m.object)]
        got.append((*classes, describe_false(m, NAMES) if wrong else None))
    assert got == pairs


def test_confusion_counts_every_object_and_detection_once():
    objects = [item([0, 0, 10, 10]), item([20, 0, 10, 10], 2), item([40, 0, 10, 10], 7)]
    detections = [found([0, 0, 10, 10]), found([20, 0, 10, 10], 7), found([80, 80, 5, 5], 2)]
    matrix = confusion(match_image(1, objects, detections), NAMES)
    assert matrix.names == ("cat", "dog", "bird")
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_confusion_sums_up_classes_with_few_mistakes():
    names = {i: str(i) for i in range(30)}
    objects = [item([20 * i, 0, 10, 10], i) for i in range(30)]
    detections = [found([20 * i, 0, 10, 10], i if i != 17 else 4) for i in range(30)]
    matrix = confusion(match_image(1, objects, detections), names, limit=2)
    assert matrix.names == ("4", "17", "28 others")
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 28, 0], [0, 0, 0, 0]]


def test_mistakes_are_ordered_and_two_of_an_image():
    matches = []
    for image in (1, 2):
        objects = [item([200, 20 * i, 5 + i + image, 8]) for i in range(3)]
        detections = [found([50 * i, 0, 9, 9], score=0.9 - 0.1 * i - 0.01 * image) for i in range(3)]
        matches += match_image(image, objects, detections)
    false = false_detections(matches, 10)
    assert [(m.image_id, round(m.detection["score"], 2)) for m in false] == [(1, 0.89), (2, 0.88), (1, 0.79), (2, 0.78)]
    missed = missed_objects(matches, 3)
    assert [(m.image_id, m.object["bbox"][2]) for m in missed] == [(2, 9), (1, 8), (2, 8)]


def test_a_missed_object_may_have_been_found_with_a_low_score():
    (missed,) = match_image(1, [item([0, 0, 10, 10])], [])
    weak = [found([0, 0, 10, 9], 2, 0.2), found([0, 0, 10, 3], 1, 0.2), found([0, 0, 10, 8], 1, 0.1)]
    assert unsure_detection(missed, weak) is weak[2]
    assert unsure_detection(missed, weak[:2]) is None
    assert unsure_detection(missed, []) is None
