"""detrex report: a page about a run, whatever the run lacks, with names that would be markup."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from stub_detector import write_config

from detrex.cli.report import main
from detrex.cli.train import build_parser
from detrex.config import find_config
from detrex.data import BoxMetrics, build_coco_evaluator, category_ids
from detrex.data.datasets.shapes import ShapesParameters, make_demo_data
from detrex.engine.train import main as train
from detrex.report import write_report
from detrex.utils.text import printable

CONFIG = "projects/deformable_detr/configs/demo_shapes.py"
EVIL = "<script>alert('&amp;')</script>\x1b[31m\u202e猫"
EVIL_FILE = "<b onmouseover=alert(1)>&lt;\"'"
QUICK = ["train.max_iter=3", "train.warmup=1", "train.log_period=1", "train.device=cpu", "train.eval_period=2",
         "model.transformer.queries.groups.one2one=12"]  # fmt: skip


class Page(HTMLParser):
    """What a page consists of; complains about elements that are not closed."""

    VOID = ("meta", "br")

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.sections, self.missing, self.links, self.open = [], [], {}, [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag == "section":
            self.sections.append(attributes["id"])
        if attributes.get("class", "").startswith("missing"):
            self.missing[self.sections[-1]] = ""
        if tag not in self.VOID:
            self.open.append((tag, attributes.get("class", "")))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][1].startswith("missing"):
            self.missing[self.sections[-1]] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training on four classes and one whose name is markup, and results with known mistakes."""
    folder = tmp_path_factory.mktemp("report")
    make_demo_data(folder / "data", ShapesParameters(num_train=16, num_val=4, image_size=64))
    for split in ("train", "val"):
        path = folder / "data" / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = EVIL
        for image in content["images"] if split == "val" else ():
            (file,) = (folder / "data").rglob(f"val/{image['file_name']}")
            image["file_name"] = EVIL_FILE + image["file_name"]
            file.rename(file.with_name(image["file_name"]))
        path.write_text(json.dumps(content))
    paths = [f"dataloader.data.root={folder}/data", f"train.output_dir={folder}/run"]
    train(build_parser().parse_args(["--config-file", str(find_config(CONFIG)), *QUICK, *paths]))
    content = json.loads((folder / "data" / "annotations" / "val.json").read_text())
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9 - 0.01 * i}
        for i, a in enumerate(content["annotations"][1:])  # the first object is missed
    ]
    other = next(c["id"] for c in content["categories"] if c["id"] != results[0]["category_id"])
    results[0]["category_id"] = other
    results.append({"image_id": content["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.95})
    evaluate(results, [image["id"] for image in content["images"]], folder / "run")
    return folder / "run"


def evaluate(results: list[dict], image_ids: list[int], output: Path) -> None:
    """Have the evaluator write its files for COCO results of the data set of the last run."""
    evaluator = build_coco_evaluator(dataset_name="demo_shapes_val", output_dir=str(output))
    ids = category_ids("demo_shapes_val")
    for image_id in image_ids:
        found = [r for r in results if r["image_id"] == image_id]
        boxes = np.array([r["bbox"] for r in found], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((64, 64), pred_boxes=Boxes(torch.from_numpy(boxes)))
        instances.scores = torch.tensor([r["score"] for r in found])
        instances.pred_classes = torch.tensor([ids.index(r["category_id"]) for r in found], dtype=torch.long)
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    evaluator.evaluate()


@pytest.fixture(scope="module")
def page(run) -> Page:
    assert main([str(run)]) == 0
    return Page(run / "report.html")


def test_every_section_has_its_content(page):
    assert not page.missing
    assert page.sections == [
        *("facts", "accuracy", "curves", "precision_recall", "confusion", "predictions", "false_detections"),
        *("missed_objects", "sampling", "proposals", "cost", "config", "environment"),
    ]
    for text in ("Learning rate", "total_loss", "AR@100", "IoU 0.75", "nothing there", "level 2 of 2",
                 "objectness", "optimizer", "PyTorch", "Peak memory in MiB"):  # fmt: skip
        assert text in page.source, text
    assert page.source.count('class="plot"') > 12
    assert page.source.count("stroke: var(--c0)") > 12


def test_nothing_is_loaded_and_nothing_runs(page):
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert "default-src 'none'" in page.source


def test_names_are_text(page):
    assert EVIL not in page.source
    assert EVIL_FILE not in page.source
    assert not {"\x1b", "\u202e"} & set(page.source)
    for name in (EVIL, EVIL_FILE):
        assert html.escape(printable(name)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page.source


def test_pictures_have_a_description(page):
    pictures = re.findall(r'<svg class="(?:picture|plot)"[^>]*>', page.source)
    assert len(pictures) > 20
    assert all(re.search(r'role="img" aria-label="[^"]+"', picture) for picture in pictures)


def test_numbers_are_those_of_the_evaluation(run, page):
    sections = {s.key: s.content for s in write_report(run)}
    accuracy, metrics = sections["accuracy"], BoxMetrics.load(run / "coco_instances_metrics.npz")
    expected = metrics.summary() | metrics.recalls()
    assert 0 < expected["AP"] < 100
    assert {k: v for k, v in accuracy.total.items() if v is not None} == {k: v for k, v in expected.items() if v == v}
    assert [(name, objects) for name, objects, _ in accuracy.classes] == list(
        zip(metrics.class_names, metrics.num_objects, strict=True)
    )
    assert accuracy.note == "4 images; at most 100 detections of a class count."
    counts = sections["confusion"].counts
    assert counts[:, -1].sum() == counts[-1].sum() == 1  # an object missed, a detection of nothing
    off_diagonal = counts[:-1, :-1].sum() - counts[:-1, :-1].trace()
    assert off_diagonal == 1
    assert len(sections["false_detections"]) == 2
    assert sections["false_detections"][0].caption.endswith("0.95: nothing there")
    assert "it is a " in sections["false_detections"][1].caption
    assert len(sections["missed_objects"]) == 1


@pytest.mark.parametrize("first_id", [1, 0])
def test_the_page_shows_the_ap_of_the_run(tmp_path, first_id):
    """Also with the annotation id 0 and a low limit of detections, where pycocotools by itself says otherwise."""
    config = write_config(tmp_path)
    path = tmp_path / "data" / "data.json"
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"], first_id):
        annotation["id"] = number
    path.write_text(json.dumps(content))
    options = ["train.eval_period=0", "dataloader.evaluator.max_dets_per_image=1"]
    result = train(build_parser().parse_args(["--config-file", str(config), *options]))["bbox"]
    (sections,) = [s for s in write_report(tmp_path / "output") if s.key == "accuracy"]
    assert result["AP"] > 0
    assert sections.content.total["AP"] == result["AP"]
    assert [values["AP"] for _, _, values in sections.content.classes] == [result["AP-red"], result["AP-green"]]
    assert "AR@1" in sections.content.total
    assert "AR@10" not in sections.content.total


def test_a_data_set_whose_classes_changed_since_is_matched_by_name_or_refused(run, tmp_path):
    folder = copy_without(run, tmp_path / "run")
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    counts = {s.key: s.content for s in write_report(run)}["confusion"].counts
    order = [4, 2, 0, 3, 1]
    for path in (data / "annotations").iterdir():
        content = json.loads(path.read_text())
        ids = [c["id"] for c in content["categories"]]
        new_id = {ids[k]: ids[i] for i, k in enumerate(order)}
        for annotation in content["annotations"]:
            annotation["category_id"] = new_id[annotation["category_id"]]
        for category in content["categories"]:
            category["id"] = new_id[category["id"]]
        path.write_text(json.dumps(content))
    sections = {s.key: s for s in write_report(folder, overrides=[f"dataloader.data.root={data}"])}
    both = [*order, 5]
    assert not sections["confusion"].missing
    assert (sections["confusion"].content.counts == counts[np.ix_(both, both)]).all()
    for path in (data / "annotations").iterdir():
        path.write_text(path.read_text().replace('"square"', '"circle"'))
    sections = {s.key: s for s in write_report(folder, overrides=[f"dataloader.data.root={data}"])}
    assert "only in the data: circle" in sections["confusion"].missing


def copy_without(run: Path, target: Path, *names: str) -> Path:
    shutil.copytree(run, target, ignore=shutil.ignore_patterns(*names, "model_0*", "events*"))
    return target


@pytest.mark.parametrize(
    ("absent", "missing", "reason"),
    [
        ("coco_instances_*", {"precision_recall", "confusion", "predictions"}, "this run has had none"),
        ("*.pth", {"sampling", "proposals"}, "no checkpoint"),
        ("log.txt", {"facts", "environment"}, "no log.txt"),
        ("config.yaml", {"config", "confusion", "sampling"}, "no config.yaml"),
        ("metrics.json", {"curves", "cost"}, "no metrics.json"),
        ("*", {"facts", "accuracy", "curves", "confusion", "sampling", "config"}, "the folder has no"),
    ],
)
def test_what_a_run_lacks_is_said_in_its_place(run, tmp_path, capsys, absent, missing, reason):
    folder = copy_without(run, tmp_path / "run", absent)
    assert main([str(folder), "--images", "1", "--mistakes", "1"]) == 0
    page = Page(folder / "report.html")
    assert missing <= set(page.missing)
    assert all(reason in page.missing[key] for key in missing)
    assert reason in capsys.readouterr().out


def test_data_elsewhere(run, tmp_path, capsys):
    folder = copy_without(run, tmp_path / "run")
    config = folder / "config.yaml"
    data = str(run.parent / "data")
    config.write_text(config.read_text().replace(data, str(tmp_path / "gone")))
    assert main([str(folder), "--images", "1"]) == 0
    assert "the validation data cannot be read here" in Page(folder / "report.html").missing["confusion"]
    assert "accuracy" not in Page(folder / "report.html").missing  # as the run has recorded it
    assert main([str(folder), "--images", "1", f"dataloader.data.root={data}"]) == 0
    assert not Page(folder / "report.html").missing
    assert main([str(folder), "dataloader.data.rot=x"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_part_that_cannot_be_read_does_not_stop_the_others(run, tmp_path):
    folder = copy_without(run, tmp_path / "run")
    (folder / "coco_instances_results.json").write_text("[{")
    (folder / "model_final.pth").write_bytes(b"nothing")
    assert main([str(folder)]) == 1
    page = Page(folder / "report.html")
    assert "JSONDecodeError" in page.missing["confusion"]
    assert page.missing["sampling"]
    assert not {"facts", "curves", "config"} & set(page.missing)


def test_no_folder(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--enable-logging=stderr", "--window-size=1100,1600")  # fmt: skip


def browse(page: Path, folder: Path, *options: str) -> list[str]:
    """Lines of the browser's console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    command = [browser, *SWITCHES, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_it_without_complaint(run, page, tmp_path):
    shot = tmp_path / "page.png"
    assert browse(run / "report.html", tmp_path, f"--screenshot={shot}") == []
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (1600, 1100)
    assert len(np.unique(pixels)) > 50
    rows = pixels.std(axis=1) > 5  # text, tables and charts down the whole page
    assert all(part.any() for part in np.array_split(rows, 8))


def test_a_browser_does_complain_about_what_the_page_forbids(page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(page.source.replace("</body>", "<script>alert(1)</script></body>"), encoding="utf-8")
    assert any("Content Security Policy" in line for line in browse(bad, tmp_path, "--dump-dom"))
