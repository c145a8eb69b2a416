"""What annotation programs write: read completely, or refused by the format's name with what to do."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from folders import (
    CLASSES,
    HEIGHT,
    SPLITS,
    WIDTH,
    WRITERS,
    labelme,
    pictures,
    save,
    write_coco,
    write_yolo,
    yolo_line,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_broken_data import config

from detrex.data import DatasetError, check_source, open_folder, prepare_data, read_coco_json, write_coco_json
from detrex.data.checks import images
from detrex.data.checks.images import inspect_image, read_header
from detrex.data.checks.paths import rewritings
from detrex.data.cleaning import write_fixed_copy
from detrex.data.dataset_check import check_files
from detrex.data.formats.coco_json import load_content
from detrex.data.formats.reader import open_data
from detrex.data.formats.yolo import _looks_like_keypoints


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def kinds(checked) -> set[str]:
    return {f.kind for f in checked.findings}


def refusal(root: Path) -> str:
    """Why a folder is not opened, or the errors of its check; fails if it can be trained on."""
    try:
        checked = check_source(open_data(config(root, root / "out").dataloader.data))
    except DatasetError as e:
        return str(e)
    assert not checked.trainable
    return "\n".join(str(f) for f in checked.findings if f.is_error)


# --------------------------------------------------------------------------------------------------- YOLO keypoints
def keypoint_line(class_id: int, box: list[float], count: int, size: int, visible: int = 2) -> str:
    """A label with keypoints on the box's diagonal."""
    x, y, w, h = box
    points = []
    for i in range(count):
        t = (i + 1) / (count + 1)
        points += [f"{(x + t * w) / WIDTH:.6f}", f"{(y + t * h) / HEIGHT:.6f}", *([str(visible)] if size == 3 else [])]
    return " ".join([yolo_line(class_id, box), *points])


def write_keypoints(root: Path, count: int, size: int, visible: int = 2) -> None:
    items = pictures()
    write_yolo(root, items)
    for split, indices in SPLITS.items():
        for i in indices:
            lines = [keypoint_line(c, box, count, size, visible) for c, box in items[i].boxes]
            (root / "labels" / split / f"p{i}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize(("count", "size"), [(17, 3), (4, 3), (1, 2), (4, 2), (5, 2)])
def test_keypoints_are_not_polygons(count, size, tmp_path):
    write_yolo(tmp_path / "boxes", pictures())
    write_keypoints(tmp_path / "points", count, size)
    with open(tmp_path / "points" / "data.yaml", "a") as f:
        f.write(f"kpt_shape: [{count}, {size}]\n")
    boxes, points = (check_source(open_folder(tmp_path / name)) for name in ("boxes", "points"))
    assert points.trainable
    assert not points.findings
    assert points.source.notes == (f"keypoints (kpt_shape [{count}, {size}]) are left out, the boxes are read",)
    for split in SPLITS:
        expected = [r["annotations"] for r in boxes.splits[split].records]
        assert [r["annotations"] for r in points.splits[split].records] == expected


@pytest.mark.parametrize(
    ("count", "size", "visible"), [(17, 3, 2), (4, 3, 2), (4, 3, 1), (4, 3, 0), (1, 2, 0), (5, 2, 0)]
)
def test_keypoints_without_kpt_shape_are_refused(count, size, visible, tmp_path):
    write_keypoints(tmp_path, count, size, visible)
    assert "kpt_shape" in refusal(tmp_path)


@pytest.mark.parametrize(("shape", "text"), [("[17, 4]", "2 or 3"), ("17", "no list"), ("[0, 3]", "at least one")])
def test_a_kpt_shape_that_is_none(shape, text, tmp_path):
    write_keypoints(tmp_path, 17, 3)
    with open(tmp_path / "data.yaml", "a") as f:
        f.write(f"kpt_shape: {shape}\n")
    assert text in refusal(tmp_path)


def test_lines_that_do_not_fit_kpt_shape_are_refused(tmp_path):
    write_keypoints(tmp_path, 5, 3)
    with open(tmp_path / "data.yaml", "a") as f:
        f.write("kpt_shape: [17, 3]\n")
    assert "19 numbers after the class; kpt_shape [17, 3]" in refusal(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    st.tuples(st.floats(0.02, 0.1), st.floats(0.02, 0.1)),
    st.integers(4, 40),
    st.floats(0, 6.3),
)
def test_outlines_of_objects_are_polygons(centre, radii, count, start):
    """Ellipses, traced from any point, as the outlines of segmentation are."""
    angles = [start + 2 * math.pi * i / count for i in range(count)]
    points = [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]
    assert not _looks_like_keypoints([round(v, 6) for p in points for v in p])


def test_class_ids_with_a_fraction_of_zero(tmp_path):
    write_yolo(tmp_path, pictures())
    before = check_source(open_folder(tmp_path))
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text("".join(f"{line[0]}.0{line[1:]}\n" for line in path.read_text().splitlines()))
    after = check_source(open_folder(tmp_path))
    assert after.splits == before.splits
    path.write_text("0.5 0.5 0.5 0.1 0.1\n")
    assert "'0.5 0.5 0.5 0.1 0.1' is not: class" in refusal(tmp_path)


# ---------------------------------------------------------------------------------------------- crowds, areas, groups
@pytest.mark.parametrize(
    ("flag", "crowd"), [("0", 0), ("false", 0), (None, 0), (False, 0), ("1", 1), (True, 1), (1.0, 1)]
)
def test_crowd_flags_of_every_kind(flag, crowd, tmp_path):
    write_coco(tmp_path, pictures())
    path = tmp_path / "annotations" / "instances_train.json"
    edit_json(path, lambda c: c["annotations"][0].update(iscrowd=flag))
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert checked.splits["train"].records[0]["annotations"][0]["iscrowd"] == crowd


def test_a_negative_area_counts_as_missing(tmp_path):
    write_coco(tmp_path, pictures())
    path = tmp_path / "annotations" / "instances_val.json"
    edit_json(path, lambda c: [a.update(area=-5.0) for a in c["annotations"]])
    data = read_coco_json(path, tmp_path / "images")
    assert data.repairs == ("negative areas",)
    write_coco_json(data, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert [a["area"] for a in written] == [a["bbox"][2] * a["bbox"][3] for a in written]


def test_a_class_that_is_called_like_its_group(tmp_path):
    """Roboflow names the group after the project; a class may have that name, too."""
    WRITERS["coco_roboflow"](tmp_path, pictures())
    for path in tmp_path.rglob("_annotations.coco.json"):
        path.write_text(path.read_text().replace('"bird"', '"animals"'))
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert kinds(checked) == {"group-class"}
    assert checked.splits["train"].class_names == ("animals", "cat", "dog")
    assert sum(checked.splits["train"].count_per_class()) == sum(len(p.boxes) for p in pictures()[:6])
    copy = check_source(open_folder(write_fixed_copy(check_files(checked, num_workers=1), tmp_path.parent / "fixed")))
    assert copy.splits["train"].class_names == ("animals", "cat", "dog")
    assert copy.splits["train"].count_per_class() == checked.splits["train"].count_per_class()


def test_a_first_class_with_boxes_is_no_group(tmp_path):
    WRITERS["coco_roboflow"](tmp_path, pictures())
    edit_json(tmp_path / "valid" / "_annotations.coco.json", lambda c: c["annotations"][0].update(category_id=0))
    checked = check_source(open_folder(tmp_path))
    assert "group-class" not in kinds(checked)
    assert checked.splits["train"].class_names == ("animals", *CLASSES)


@pytest.mark.parametrize("split", ["train", "val"])
def test_fix_never_removes_a_class(split, tmp_path):
    write_coco(tmp_path / "data", pictures())
    for part in SPLITS if split == "val" else ["train"]:
        path = tmp_path / "data" / "annotations" / f"instances_{part}.json"
        edit_json(path, lambda c: [a.update(bbox=[5, 5, 0, 0]) for a in c["annotations"] if a["category_id"] == 2])
    files = check_files(check_source(open_folder(tmp_path / "data")), num_workers=1)
    assert files.checked.trainable
    with pytest.raises(DatasetError, match=r"--fix would leave out all of its \d+ boxes of class 'cat'"):
        write_fixed_copy(files, tmp_path / "fixed")
    assert sorted(os.listdir(tmp_path)) == ["data"]


# --------------------------------------------------------------------------------------- what is missing in COCO json
def test_a_test_json_without_annotations_can_be_predicted_on(tmp_path):
    write_coco(tmp_path, pictures(), {"train": range(5), "val": range(5, 7), "test": range(7, 9)})
    path = tmp_path / "annotations" / "instances_test.json"
    edit_json(path, lambda c: [c.pop(key) for key in ("annotations", "categories")])
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert not checked.findings
    data = checked.splits["test"]
    assert (len(data.records), data.class_names, data.annotated) == (2, CLASSES, False)
    assert checked.source.notes == (f"{path} has no annotations: it can be predicted on, and not be evaluated",)
    write_coco_json(data, tmp_path / "out.json")
    written = load_content(str(tmp_path / "out.json"), required=("images", "categories"))
    assert set(written) == {"images", "categories"}
    with pytest.raises(DatasetError, match='no list "annotations"'):
        load_content(str(tmp_path / "out.json"))
    copy = write_fixed_copy(check_files(checked, num_workers=1), tmp_path.parent / f"{tmp_path.name}_fixed")
    assert [len(data.records) for data in check_source(open_folder(copy)).splits.values()] == [5, 2, 2]


def test_the_json_of_a_split_that_trains_needs_annotations(tmp_path):
    write_coco(tmp_path, pictures())
    edit_json(tmp_path / "annotations" / "instances_val.json", lambda c: c.pop("annotations"))
    assert 'no list "annotations"' in refusal(tmp_path)


def test_sizes_are_read_from_the_files(tmp_path):
    write_coco(tmp_path, pictures())
    path = tmp_path / "annotations" / "instances_train.json"
    before = check_source(open_folder(tmp_path)).splits["train"].records
    edit_json(path, lambda c: [i.pop(side) for i in c["images"] for side in ("width", "height")])
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert checked.splits["train"].records == before
    (tmp_path / "images" / "p1.png").write_bytes(b"")
    assert "p1.png" in refusal(tmp_path)


def test_the_box_of_a_segmentation_is_derived(tmp_path):
    write_coco(tmp_path, pictures())
    before = check_source(open_folder(tmp_path)).splits["train"]

    def change(content):
        for a in content["annotations"]:
            x, y, w, h = a.pop("bbox")
            a["segmentation"] = [[x, y, x + w, y, x + w, y + 1], [x, y + h, x, y, x + 1, y]]

    edit_json(tmp_path / "annotations" / "instances_train.json", change)
    after = check_source(open_folder(tmp_path))
    assert after.splits["train"].records == before.records
    assert after.splits["train"].repairs == ("polygons without boxes",)
    assert kinds(after) == {"polygon-label"}


def test_names_that_lead_elsewhere_are_never_guessed_one_by_one(tmp_path):
    """One image that is missing is an error, though another folder has one of its name."""
    write_coco(tmp_path, pictures())
    for name in ("train", "val"):
        (tmp_path / "images" / name).mkdir()
    edit_json(tmp_path / "annotations" / "instances_train.json",
              lambda c: [i.update(file_name=f"train/{i['file_name']}") for i in c["images"]])  # fmt: skip
    for i in range(6):
        (tmp_path / "images" / f"p{i}.png").rename(tmp_path / "images" / ("val" if i == 3 else "train") / f"p{i}.png")
    assert "no file" in refusal(tmp_path)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=6))
def test_rewritten_names_stay_different(names):
    for rewrite in rewritings(names):
        assert len({rewrite(n) for n in names}) == len(set(names))


# ------------------------------------------------------------------------------------------------------------ formats
FOREIGN = {
    "FiftyOne": lambda root: (root / "samples.json").write_text('{"samples": [{"filepath": "a.jpg"}]}'),
    "FiftyOne's image detection": lambda root: (root / "labels.json").write_text(
        '{"classes": ["a"], "labels": {"a": []}}'
    ),
    "Label Studio's own": lambda root: (root / "x.json").write_text('[{"id": 1, "data": {}, "annotations": []}]'),
    "CreateML": lambda root: (root / "_annotations.createml.json").write_text(
        '[{"image": "a.jpg", "annotations": []}]'
    ),
    "VGG Image Annotator": lambda root: (root / "via.json").write_text('{"_via_img_metadata": {}}'),
    "VoTT": lambda root: (root / "a.json").write_text('{"assets": {}}'),
    "CVAT for images": lambda root: (root / "annotations.xml").write_text("<annotations><image/></annotations>"),
    "TFRecord": lambda root: (root / "train.tfrecord").write_bytes(b"x"),
    "table of boxes": lambda root: (root / "_annotations.csv").write_text("filename,width\n"),
    "YOLO without class names": lambda root: (root / "p0.txt").write_text("0 0.5 0.5 0.1 0.1"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused_by_name(name, tmp_path):
    save(pictures()[0], tmp_path / "p0.png")
    FOREIGN[name](tmp_path)
    text = refusal(tmp_path)
    assert name in text
    assert "export" in text or "write them" in text


def test_labelme_shapes(tmp_path):
    WRITERS["labelme"](tmp_path, pictures())
    path = tmp_path / "train" / "p0.json"
    content = labelme(pictures()[0])
    content["shapes"] = [{"label": "cat", "shape_type": "circle", "points": [[20, 20], [23, 24]]}]
    path.write_text(json.dumps(content))
    record = check_source(open_folder(tmp_path)).splits["train"].records[0]
    assert [a["bbox"] for a in record["annotations"]] == [[15, 15, 10, 10]]
    for shape in ({"shape_type": "point", "points": [[1, 2]]}, {"points": [[1, float("nan")], "x"]}, {"points": 5}):
        content["shapes"] = [{"label": "cat", **shape}]
        path.write_text(json.dumps(content))
        assert "has no box; draw a rectangle" in refusal(tmp_path)
    content["shapes"] = [{"label": 7, "points": [[1, 2], [3, 4], [5, 9]]}]
    path.write_text(json.dumps(content))
    assert "label 7 is no class name" in refusal(tmp_path)
    path.write_text('{"shapes": [3]}')
    assert 'no list "shapes"' in refusal(tmp_path)


def test_labelme_json_in_a_folder_of_their_own(tmp_path):
    WRITERS["labelme"](tmp_path, pictures(), {"train": range(9)})
    for folder, suffix in (("annotations", "json"), ("images", "png")):
        (tmp_path / folder).mkdir()
        for path in tmp_path.glob(f"*.{suffix}"):
            path.rename(tmp_path / folder / path.name)
    assert len(check_source(open_folder(tmp_path)).splits["train"].records) == 9
    path = tmp_path / "annotations" / "other.json"
    (tmp_path / "annotations" / "p3.json").rename(path)  # then imagePath says whose it is
    edit_json(path, lambda c: c.update(imagePath="..\\images\\p3.png"))
    checked = check_source(open_folder(tmp_path))
    assert len(checked.splits["train"].records) == 9
    assert checked.trainable


def test_labelimg_writes_all_into_one_folder(tmp_path):
    for item in pictures():
        save(item, tmp_path / f"{item.name}.png")
        (tmp_path / f"{item.name}.txt").write_text("\n".join(yolo_line(c, box) for c, box in item.boxes))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert not checked.findings
    assert sum(checked.splits["train"].count_per_class()) == sum(len(p.boxes) for p in pictures())


def test_class_names_beside_another_format_mean_nothing(tmp_path):
    WRITERS["voc"](tmp_path, pictures())
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    assert open_folder(tmp_path).format == "Pascal VOC xml"


def test_darknet_with_the_paths_of_another_computer(tmp_path):
    WRITERS["yolo_cvat"](tmp_path, pictures())
    for name in ("train", "val"):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"/home/somebody/{line}\n" for line in path.read_text().splitlines()))
    edit = (tmp_path / "obj.data").read_text().replace("data/", "/home/somebody/darknet/data/")
    (tmp_path / "obj.data").write_text(edit.replace("classes = 3", "classes=3"))
    checked = check_source(open_folder(tmp_path))
    assert checked.trainable
    assert [len(checked.splits[s].records) for s in SPLITS] == [6, 3]
    (tmp_path / "obj.data").write_text(edit.replace("classes = 3", "classes = 4"))
    assert "nc is 4, but names lists 3" in refusal(tmp_path)


def test_a_training_folder_of_images_that_are_not_read_is_named(tmp_path):
    write_yolo(tmp_path, pictures())
    for path in (tmp_path / "images" / "train").iterdir():
        path.rename(path.with_suffix(".heic"))
    text = refusal(tmp_path)
    assert "no training images, only val; train: no images in" in text
    assert "only files like" in text


def test_darknet_without_its_images(tmp_path):
    WRITERS["yolo_cvat"](tmp_path, pictures())
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    text = refusal(tmp_path)
    assert "leads to no images" in text
    assert "train.txt:1: no file" in text


# ------------------------------------------------------------------------------------- special files, broken machines
def special(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["a named pipe", "a directory", "a socket"])
@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("coco", "annotations/instances_train.json"),
        ("coco_fiftyone", "train/labels.json"),
        ("yolo", "data.yaml"),
        ("yolo", "labels/train/p0.txt"),
        ("yolo_cvat", "obj.data"),
        ("yolo_cvat", "obj.names"),
        ("yolo_cvat", "train.txt"),
        ("yolo_label_studio", "classes.txt"),
        ("voc", "Annotations/p0.xml"),
        ("voc", "ImageSets/Main/train.txt"),
        ("labelme", "train/p0.json"),
    ],
)
def test_what_is_no_file_is_refused_by_its_name(layout, file, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    WRITERS[layout](Path("d"), pictures())
    if (layout, kind) == ("labelme", "a directory"):
        pytest.skip("a folder is looked into, whatever its name")
    special(Path("d") / file, kind)
    text = refusal(Path("d"))
    assert Path(file).name in text or "no data set recognised" in text or "no training images" in text


@pytest.mark.timeout(60)
def test_two_pipes_in_place_of_images_hold_nothing_up(tmp_path):
    """They are of equal length, so that a made split would compare their bytes."""
    write_coco(tmp_path / "data", pictures(), {"train": range(9)})
    for name in ("p0.png", "p1.png"):
        special(tmp_path / "data" / "images" / name, "a named pipe")
    prepare_data(config(tmp_path / "data", tmp_path / "out"))


MACHINE = [OSError(getattr(errno, n), os.strerror(getattr(errno, n))) for n in ("EMFILE", "ESTALE", "EIO", "ENOMEM")]


@pytest.mark.parametrize(
    "fault", [*MACHINE, MemoryError()], ids=lambda f: errno.errorcode.get(getattr(f, "errno", None), "memory")
)
def test_the_machine_s_faults_are_no_broken_images(fault, tmp_path, monkeypatch):
    write_coco(tmp_path, pictures())
    checked = check_source(open_folder(tmp_path))
    path = str(tmp_path / "images" / "p0.png")

    def fail(*args, **kwargs):
        raise fault

    for target, name in ((Image, "open"), (Image.Image, "convert"), (images.os, "stat")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            for read in (inspect_image, read_header) if name != "convert" else (inspect_image,):
                with pytest.raises(type(fault), match=r"p0\.png"):
                    read(path)
            with pytest.raises(type(fault)):
                check_files(checked, num_workers=1)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), MemoryError()], ids=["disk", "memory"])
def test_the_machine_s_faults_are_no_broken_annotations(layout, fault, tmp_path, monkeypatch):
    WRITERS[layout](tmp_path, pictures())

    def fail(*args, **kwargs):
        raise fault

    for module in ("checks.paths", "formats.voc", "formats.labelme"):
        monkeypatch.setattr(f"detrex.data.{module}.open_regular", fail)
    with pytest.raises(type(fault)):
        open_folder(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write_yolo(tmp_path, pictures())
    listdir = os.listdir

    def deny(folder="."):
        if str(folder).endswith("train"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", deny)
    assert "Permission denied" in refusal(tmp_path)


def test_links_to_folders_are_read_and_circles_end(tmp_path):
    write_yolo(tmp_path / "data", pictures())
    images_train = tmp_path / "data" / "images" / "train"
    images_train.rename(tmp_path / "elsewhere")
    images_train.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "data.yaml").write_text(
        (tmp_path / "data" / "data.yaml")
        .read_text()
        .replace("train: images/train", "train: images")
        .replace("val: images/val", "")
    )
    assert len(check_source(open_folder(tmp_path / "data")).splits["train"].records) == 9


# ---------------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["a\x1b[2Jb", "\ud800", "x\ny", "\u202egnp", "tab\there"])
@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_class_names_that_nothing_can_show_are_escaped(layout, name, tmp_path, caplog):
    WRITERS[layout](tmp_path / "data", pictures())
    for path in (tmp_path / "data").rglob("*.json" if layout == "coco" else "data.yaml"):
        if layout == "coco":
            edit_json(path, lambda c: c["categories"][1].update(name=name))
        else:
            path.write_text(path.read_text().replace("1: cat", f"1: {json.dumps(name)}"))
    with caplog.at_level(logging.INFO):
        info = prepare_data(config(tmp_path / "data", tmp_path / "out"))
    assert info.class_names[1].isprintable()
    assert info.class_names[1] == ascii(name)[1:-1]
    assert "unprintable-name" in caplog.text
    caplog.text.encode()


def test_tga_files_are_read_under_their_own_suffix_alone(tmp_path):
    """A TGA has no signature: under another name, such bytes are a damaged file."""
    Image.fromarray(np.full((60, 80, 3), 100, np.uint8)).save(tmp_path / "a.tga")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.tga").read_bytes())
    assert (read_header(tmp_path / "a.tga").width, read_header(tmp_path / "a.tga").height) == (80, 60)
    with pytest.raises(images.ImageFault, match="cannot identify"):
        read_header(tmp_path / "a.jpg")


def test_one_is_not_many(tmp_path):
    write_coco(tmp_path, pictures(), {"train": [0], "val": [1]})
    edit_json(tmp_path / "annotations" / "instances_val.json", lambda c: c["annotations"].clear())
    assert "1 usable image and not one usable box" in refusal(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").unlink()
    with pytest.raises(DatasetError, match="1 image of 1 different file cannot be divided"):
        prepare_data(config(tmp_path, tmp_path / "out"))
