"""detrex visualize results: detections beside the ground truth, mistakes counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from coco_files import coco_content
from PIL import Image

from detrex.cli.visualize import main
from detrex.data.coco_metrics import evaluate_boxes
from detrex.data.evaluation import METRICS
from detrex.visualization.results import count_mistakes


def annotation(box, category=1, crowd=0):
    return {"bbox": box, "category_id": category, "iscrowd": crowd}


def detection(box, category=1, score=0.9):
    return {"bbox": box, "category_id": category, "score": score}


@pytest.mark.parametrize(
    ("objects", "found", "missed", "false"),
    [
        ([], [], 0, 0),
        ([annotation([0, 0, 10, 10])], [], 1, 0),
        ([annotation([0, 0, 10, 10])], [detection([0, 0, 10, 9])], 0, 0),
        ([annotation([0, 0, 10, 10])], [detection([0, 0, 10, 4.9])], 1, 1),  # IoU 0.49
        ([annotation([0, 0, 10, 10])], [detection([0, 0, 10, 10], category=2)], 1, 1),
        ([annotation([0, 0, 10, 10])], [detection([0, 0, 10, 10]), detection([0, 0, 10, 9], score=0.5)], 0, 1),
        # The better score takes the object, though the other fits better.
        ([annotation([0, 0, 10, 10])], [detection([0, 0, 10, 10], score=0.5), detection([0, 0, 10, 6])], 0, 1),
        ([annotation([0, 0, 50, 50], crowd=1)], [detection([5, 5, 5, 5]), detection([9, 9, 5, 5])], 0, 0),
        ([annotation([0, 0, 50, 50], crowd=1)], [detection([5, 5, 5, 5], category=2)], 0, 1),
    ],
)
def test_mistakes(objects, found, missed, false):
    result = count_mistakes("a.png", objects, found)
    assert (result.missed, result.false) == (missed, false)
    assert result.objects == sum(not o["iscrowd"] for o in objects)


@pytest.fixture
def command(folder, write):
    """The command line's start, for perfect results that lack all objects of image 3."""
    content = coco_content()
    found = [detection(a["bbox"], a["category_id"]) | {"image_id": a["image_id"]} for a in content["annotations"]]
    (folder / "results.json").write_text(json.dumps([d for d in found if d["image_id"] != 3]))
    paths = {"--results": folder / "results.json", "--annotations": write(content), "--image-root": folder}
    return ["results", *(str(word) for pair in paths.items() for word in pair), "--output", str(folder / "out")]


def test_pictures_and_counts(folder, command, capsys):
    assert main(command) == 0
    assert "4 images with 10 objects, 2 missed, 0 false detections" in capsys.readouterr().out
    assert sorted(p.name for p in (folder / "out").glob("*.png")) == [f"{i + 1}_{i}.png" for i in range(4)]
    with Image.open(folder / "out" / "1_0.png") as picture:
        assert picture.width > 2 * 640


def test_worst_first(folder, command):
    assert main([*command, "--worst", "--limit", "1"]) == 0
    (summary,) = json.loads((folder / "out" / "summary.json").read_text())
    assert summary == {"file": str(folder / "2.png"), "objects": 2, "missed": 2, "false": 0}


def test_no_file_outside_the_image_root_is_read(folder, command, write, capsys):
    content = coco_content()
    content["images"][0]["file_name"] = "../../etc/passwd"
    command[command.index("--annotations") + 1] = str(write(content))
    assert main(command) == 2
    assert "[outside-root]" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_classes_are_matched_by_the_names_of_the_evaluation(folder, command, write, capsys):
    """The metrics beside the results know the names; the annotations have other ids for them now."""
    content = coco_content()
    evaluate_boxes(content, np.empty((0, 7))).save(folder / METRICS)
    for annotation in content["annotations"]:
        annotation["category_id"] = annotation["category_id"] % 3 + 1
    content["categories"] = [{**c, "id": c["id"] % 3 + 1} for c in content["categories"]]
    command[command.index("--annotations") + 1] = str(write(content))
    assert main(command) == 0
    assert "4 images with 10 objects, 2 missed, 0 false detections" in capsys.readouterr().out
    content["categories"][0]["name"] = "fox"
    write(content)
    assert main(command) == 2
    assert "only in the data: fox" in capsys.readouterr().err


def test_a_threshold_hides(folder, command, capsys):
    assert main([*command, "--threshold", "0.95"]) == 0
    assert "10 missed, 0 false" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}x", "is not a COCO results file"),
        ('[{"image_id": 1}]', "is not a COCO results file"),
        ('[{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "images that the annotations lack"),
        ('[{"image_id": 1, "category_id": 77, "bbox": [0, 0, 1, 1], "score": 1}]', "such as 77: another data set?"),
    ],
)
def test_wrong_results_are_named(folder, command, capsys, text, message):
    (folder / "results.json").write_text(text)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "results.json" in error
