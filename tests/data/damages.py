"""Kinds of damage: each function breaks a good data set (``folders.py``) in one way and says what must be reported."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from folders import HEIGHT, WIDTH, yolo_line
from PIL import Image


@dataclass(frozen=True)
class Damage:
    """``apply(root)`` breaks a data set of ``layout``; a finding of ``kind`` that holds ``text`` must follow."""

    layout: str
    kind: str
    text: str
    apply: Callable[[Path], None]


DAMAGES: list[Damage] = []


def damage(layout: str, kind: str, text: str):
    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        DAMAGES.append(Damage(layout, kind, text, function))
        return function

    return register


def edit_json(root: Path, change: Callable[[dict], None], split: str = "train") -> None:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# COCO: the files


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_cut_off(root):
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-40])


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_in_utf16(root):
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text(), encoding="utf-16")


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_nested_too_deeply(root):
    (root / "annotations" / "instances_train.json").write_text("[" * 100_000)


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_number_of_5000_digits(root):
    path = root / "annotations" / "instances_train.json"
    edit_text(path, '"id": 1,', f'"id": {"9" * 5000},')


@damage("coco", "unreadable-annotations", 'no list "annotations"')
def json_of_another_kind(root):
    (root / "annotations" / "instances_train.json").write_text('{"images": []}')


@damage("coco", "unreadable-annotations", "annotations[1] is not an object")
def json_null_annotation(root):
    edit_json(root, lambda c: c["annotations"].insert(1, None))


@damage("coco", "empty-split", '"images" is empty')
def json_without_images(root):
    edit_json(root, lambda c: c["images"].clear())


@damage("coco", "empty-split", "not one usable box")
def json_without_annotations(root):
    edit_json(root, lambda c: c["annotations"].clear(), "val")


@damage("coco", "unknown-format", "instances_train2017.json")
def two_training_jsons(root):
    source = root / "annotations" / "instances_train.json"
    (root / "annotations" / "instances_train2017.json").write_text(source.read_text())


@damage("coco", "unknown-format", "choose with dataloader.data.format")
def two_formats(root):
    (root / "data.yaml").write_text("train: images\nnames: [bird, cat, dog]\n")


# COCO: classes


@damage("coco", "bad-classes", "duplicate category id 2")
def class_id_twice(root):
    edit_json(root, lambda c: c["categories"][2].update(id=2))


@damage("coco", "bad-classes", "'1' is not an integer")
def class_id_as_text(root):
    edit_json(root, lambda c: c["categories"][0].update(id="1"))


@damage("coco", "bad-classes", "has no name")
def class_without_name(root):
    edit_json(root, lambda c: c["categories"][1].update(name=" "))


@damage("coco", "bad-classes", "used by two categories")
def class_name_twice(root):
    edit_json(root, lambda c: c["categories"][1].update(name="bird"))


@damage("coco", "bad-classes", 'the list "categories" is empty')
def no_classes(root):
    edit_json(root, lambda c: c["categories"].clear())


@damage("coco", "different-classes", "only in the second: ['lion']")
def val_has_another_class(root):
    edit_json(root, lambda c: c["categories"][1].update(name="lion"), "val")


@damage("coco", "different-classes", "in another order")
def val_has_the_classes_in_another_order(root):
    edit_json(root, lambda c: [k.update(id=i) for k, i in zip(c["categories"], (2, 1, 3), strict=True)], "val")


@damage("coco", "similar-classes", "'bird' and 'Bird '")
def class_spelt_twice(root):
    for split in ("train", "val"):
        edit_json(root, lambda c: c["categories"].append({"id": 9, "name": "Bird "}), split)


@damage("coco", "unused-class", r"'$\\frac{\x1b[31m'")
def class_name_that_terminals_and_plots_obey(root):
    for split in ("train", "val"):
        edit_json(root, lambda c: c["categories"].append({"id": 9, "name": "$\\frac{\x1b[31m"}), split)


# COCO: images


@damage("coco", "duplicate-image-id", "duplicate image id 1 ('p0.png', 'p1.png')")
def image_id_twice(root):
    edit_json(root, lambda c: c["images"][1].update(id=1))


@damage("coco", "bad-image-record", "id '1' is not an integer")
def image_id_as_text(root):
    edit_json(root, lambda c: c["images"][0].update(id="1"))


@damage("coco", "bad-image-record", "is not an integer of 64 bits")
def image_id_beyond_64_bits(root):
    edit_json(root, lambda c: c["images"][0].update(id=2**70))


@damage("coco", "bad-image-record", "has no file_name")
def image_without_name(root):
    edit_json(root, lambda c: c["images"][0].pop("file_name"))


@damage("coco", "bad-image-record", "(None, 80) are not positive")
def image_without_height(root):
    edit_json(root, lambda c: c["images"][0].pop("height"))


@damage("coco", "bad-image-record", "(-60, 80) are not positive")
def image_of_negative_height(root):
    edit_json(root, lambda c: c["images"][0].update(height=-HEIGHT))


@damage("coco", "missing-image", "p2.png")
def image_file_deleted(root):
    (root / "images" / "p2.png").unlink()


@damage("coco", "missing-image", "the name has backslashes")
def image_name_from_windows(root):
    edit_json(root, lambda c: c["images"][0].update(file_name="images\\p0.png"))


@damage("coco", "missing-image", "\\x00")
def image_name_with_nul(root):
    edit_json(root, lambda c: c["images"][0].update(file_name="p0\0.png"))


@damage("coco", "missing-image", "\\ud800")
def image_name_with_a_lone_surrogate(root):
    edit_json(root, lambda c: c["images"][0].update(file_name="\ud800.png"))


@damage("coco", "outside-root", "allow_outside")
def image_name_with_dots(root):
    edit_json(root, lambda c: c["images"][0].update(file_name="../../elsewhere.png"))


@damage("coco", "outside-root", "allow_outside")
def image_name_absolute(root):
    edit_json(root, lambda c: c["images"][0].update(file_name="/etc/hostname"))


@damage("coco", "wrong-size", "80 x 60, its annotation says 60 x 80")
def image_size_swapped(root):
    edit_json(root, lambda c: c["images"][0].update(width=HEIGHT, height=WIDTH))


@damage("coco", "wrong-size", "40 x 30, its annotation says 80 x 60")
def image_resized_after_annotation(root):
    path = root / "images" / "p1.png"
    Image.open(path).resize((40, 30)).save(path)


@damage("coco", "repeated-file", "with different boxes")
def image_listed_twice_with_half_of_its_boxes_each(root):
    def split_boxes(content):
        content["images"].append({**content["images"][0], "id": 77})
        content["annotations"][0]["image_id"] = 77

    edit_json(root, split_boxes)


@damage("coco", "duplicate-image", "the same picture as")
def image_copied_within_training(root):
    def add(content):
        content["images"].append({**content["images"][0], "id": 77, "file_name": "copy.bmp"})
        for a in [a for a in content["annotations"] if a["image_id"] == 1]:
            content["annotations"].append({**a, "id": 100 + a["id"], "image_id": 77})

    edit_json(root, add)
    Image.open(root / "images" / "p0.png").save(root / "images" / "copy.bmp")


@damage("coco", "leakage", "p6.png in val")
def val_image_in_training_under_another_name(root):
    Image.open(root / "images" / "p6.png").save(root / "images" / "p0.png", compress_level=1)


@damage("coco", "leakage", "in val")
def training_json_as_val_json(root):
    source = root / "annotations" / "instances_train.json"
    (root / "annotations" / "instances_val.json").write_text(source.read_text())


@damage("coco", "unlisted-file", "1 of 10 image files are in no json")
def image_in_no_json(root):
    Image.new("RGB", (8, 8)).save(root / "images" / "new.png")


# image files, the same for every format


@damage("coco", "unreadable-image", "p0.png")
def image_empty(root):
    (root / "images" / "p0.png").write_bytes(b"")


@damage("voc", "unreadable-image", "p0.png")
def image_is_a_web_page(root):
    (root / "JPEGImages" / "p0.png").write_text("<html>404 not found</html>")


@damage("coco", "truncated-image", "p0.png")
def image_cut_off(root):
    path = root / "images" / "p0.png"
    path.write_bytes(path.read_bytes()[:-3000])


@damage("yolo", "truncated-image", "p0.jpg")
def jpeg_cut_off(root):
    image = Image.open(root / "images" / "train" / "p0.png")
    image.save(root / "images" / "train" / "p0.jpg")
    (root / "images" / "train" / "p0.png").unlink()
    data = (root / "images" / "train" / "p0.jpg").read_bytes()
    (root / "images" / "train" / "p0.jpg").write_bytes(data[: len(data) // 2])


@damage("coco", "damaged-image", "p0.png")
def image_with_a_flipped_bit(root):
    path = root / "images" / "p0.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@damage("coco", "unreadable-image", "is not a regular file")
def image_is_a_pipe(root):
    (root / "images" / "p0.png").unlink()
    os.mkfifo(root / "images" / "p0.png")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@damage("coco", "decompression-bomb", "p0.png")
def image_of_ten_gigapixels(root):
    (root / "images" / "p0.png").write_bytes(png_header(100_000, 100_000))


@damage("voc_roboflow", "decompression-bomb", "p0.png")
def voc_image_of_ten_gigapixels(root):
    (root / "train" / "p0.png").write_bytes(png_header(100_000, 100_000))


@damage("yolo", "unsupported-pixels", "I;16")
def image_of_16_bits(root):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(root / "images" / "train" / "p0.png")


def rotate_by_exif(path: Path, orientation: int) -> None:
    image = Image.open(path)
    image.load()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@damage("coco", "exif-mismatch", "EXIF orientation 6")
def image_that_exif_turns_after_annotation(root):
    rotate_by_exif(root / "images" / "p0.png", 6)


@damage("voc", "exif-mismatch", "EXIF orientation 8")
def voc_image_that_exif_turns_after_annotation(root):
    rotate_by_exif(root / "JPEGImages" / "p0.png", 8)


@damage("yolo", "exif-rotation", "EXIF orientation 3")
def image_upside_down(root):
    rotate_by_exif(root / "images" / "train" / "p0.png", 3)


# COCO: annotations


@damage("coco", "unknown-image", "unknown image id 99")
def annotation_of_an_unknown_image(root):
    edit_json(root, lambda c: c["annotations"][0].update(image_id=99))


@damage("coco", "unknown-image", "unknown image id [1]")
def annotation_of_a_list_of_images(root):
    edit_json(root, lambda c: c["annotations"][0].update(image_id=[1]))


@damage("coco", "unknown-class", "unknown category id 17; the file defines 1, 2, 3")
def annotation_of_an_unknown_class(root):
    edit_json(root, lambda c: c["annotations"][0].update(category_id=17))


@damage("coco", "unknown-class", "unknown category id True")
def annotation_of_class_true(root):
    edit_json(root, lambda c: c["annotations"][0].update(category_id=True))


@damage("coco", "malformed-box", "[1, 2, 3] is not [x, y, width, height]")
def box_of_three_numbers(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[1, 2, 3]))


@damage("coco", "malformed-box", "['1', '2', '3', '4']")
def box_of_texts(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=["1", "2", "3", "4"]))


@damage("coco", "malformed-box", "bbox None")
def annotation_without_box(root):
    edit_json(root, lambda c: c["annotations"][0].pop("bbox"))


@damage("coco", "malformed-box", "is not [x, y, width, height]")
def box_of_a_300_digit_number(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[10**300, 2, 3, 4]))


@damage("coco", "box-without-area", "zero or negative size")
def box_without_width(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10]))


@damage("coco", "box-without-area", "zero or negative size")
def box_of_negative_height(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[5, 5, 10, -10]))


@damage("coco", "box-not-finite", "nan")
def box_with_nan(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[float("nan"), 5, 10, 10]))


@damage("coco", "box-not-finite", "inf")
def box_with_infinity(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[5, 5, float("inf"), 10]))


@damage("coco", "box-outside", "outside the image")
def box_beside_the_image(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[500, 5, 10, 10]))


@damage("coco", "box-partly-outside", "on an image of 80 x 60")
def box_over_the_edge(root):
    edit_json(root, lambda c: c["annotations"][0].update(bbox=[70, 5, 30, 10]))


@damage("coco", "duplicate-box", "for the second time")
def box_twice(root):
    edit_json(root, lambda c: c["annotations"].append({**c["annotations"][0], "id": 500}))


@damage("coco", "conflicting-box", "has another class as well")
def box_of_two_classes(root):
    edit_json(root, lambda c: c["annotations"].append({**c["annotations"][0], "id": 500, "category_id": 2}))


@damage("coco", "bad-annotation-id", "repeated annotation ids")
def annotation_id_twice(root):
    edit_json(root, lambda c: c["annotations"][1].update(id=1))


@damage("coco", "bad-annotation-id", "missing or not positive")
def annotation_ids_from_zero(root):
    edit_json(root, lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]], "val")


@damage("coco", "missing-fields", "missing areas")
def annotations_without_area(root):
    edit_json(root, lambda c: [a.pop("area") for a in c["annotations"]], "val")


@damage("coco", "wrong-convention", "(x1, y1, x2, y2)")
def boxes_as_corners(root):
    def change(content):
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x + 30, y + 20, min(x + w + 30, WIDTH), min(y + h + 20, HEIGHT)]

    edit_json(root, change)


@damage("coco", "wrong-convention", "fractions of the image")
def boxes_as_fractions(root):
    def change(content):
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]

    edit_json(root, change)


@damage("coco", "image-without-boxes", "p0.png")
def image_not_annotated(root):
    edit_json(root, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 1]))


@damage("coco", "unused-class", "no boxes of 'dog'")
def class_without_boxes(root):
    edit_json(root, lambda c: c.update(annotations=[a for a in c["annotations"] if a["category_id"] != 3]), "val")


@damage("coco", "crowded-image", "40 objects, but the model has 30 queries")
def more_objects_than_queries(root):
    def change(content):
        for i in range(38):
            box = [i, 1, 8, 8]
            item = {"id": 900 + i, "image_id": 1, "category_id": 1, "bbox": box, "area": 64, "iscrowd": 0}
            content["annotations"].append(item)

    edit_json(root, change)


@damage("coco_roboflow", "group-class", "'animals' has no boxes and groups all others")
def class_that_groups_the_others(root):
    assert "animals" in (root / "train" / "_annotations.coco.json").read_text()  # every such export has it


# YOLO


@damage("yolo", "unreadable-annotations", "cannot be read as yaml")
def yaml_with_a_tab(root):
    (root / "data.yaml").write_text("train:\timages\n\tnames: [a\n")


@damage("yolo", "unreadable-annotations", "cannot be read as yaml")
def yaml_that_runs_code(root):
    (root / "data.yaml").write_text("names: !!python/object/apply:os.system ['touch pwned']\ntrain: images/train\n")


@damage("yolo", "bad-classes", "is no text; put it in quotes")
def yaml_that_multiplies(root):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (root / "data.yaml").write_text("\n".join([*rows, "train: images/train", "names: {0: *a11}"]))


@damage("yolo", "bad-classes", "nc is 5, but names lists 3")
def yaml_with_another_count(root):
    edit_text(root / "data.yaml", "nc: 3", "nc: 5")


@damage("yolo", "bad-classes", "are not 0, 1, 2")
def yaml_with_a_gap_in_the_names(root):
    edit_text(root / "data.yaml", "2: dog", "3: dog")


@damage("yolo", "bad-classes", "False is no text; put it in quotes")
def yaml_that_reads_no_as_false(root):
    edit_text(root / "data.yaml", "1: cat", "1: no")


@damage("yolo", "empty-split", "no training images, only val; train: 'images/nowhere' is not there")
def yaml_with_a_wrong_training_folder(root):
    edit_text(root / "data.yaml", "images/train", "images/nowhere")


@damage("yolo", "missing-split", "images/nowhere")
def yaml_with_a_wrong_val_folder(root):
    edit_text(root / "data.yaml", "images/val", "images/nowhere")


@damage("yolo", "outside-root", "allow_outside")
def yaml_that_leaves_the_folder(root):
    (root.parent / "elsewhere").mkdir()
    edit_text(root / "data.yaml", "images/train", "../elsewhere")


@damage("yolo", "outside-root", "list.txt:2")
def list_that_leaves_the_folder(root):
    (root / "list.txt").write_text("./images/train/p0.png\n../../../secret.png\nimages/train/p1.png\n")
    edit_text(root / "data.yaml", "images/train", "list.txt")


@damage("yolo", "missing-image", "list.txt:2")
def list_with_a_missing_image(root):
    (root / "list.txt").write_text("./images/train/p0.png\nimages/train/p99.png\n")
    edit_text(root / "data.yaml", "images/train", "list.txt")


@damage("yolo", "leakage", "in val")
def yaml_with_one_folder_for_both(root):
    edit_text(root / "data.yaml", "images/val", "images/train")


@damage("yolo", "unknown-class", "unknown category id 3; the file defines 0, 1, 2")
def label_of_class_nc(root):
    (root / "labels" / "train" / "p0.txt").write_text(yolo_line(3, [1, 1, 20, 20]))


@damage("yolo", "unknown-class", "p0.txt:1")
def label_of_a_negative_class(root):
    (root / "labels" / "train" / "p0.txt").write_text(yolo_line(-1, [1, 1, 20, 20]))


@damage("yolo", "malformed-box", "p0.txt:2")
def label_of_four_columns(root):
    path = root / "labels" / "train" / "p0.txt"
    path.write_text(yolo_line(0, [1, 1, 20, 20]) + "\n0 0.5 0.5 0.1\n")


@damage("yolo", "malformed-box", "p0.txt:1")
def label_with_a_score(root):
    (root / "labels" / "train" / "p0.txt").write_text("0 0.5 0.5 0.1 0.1 0.93\n")


@damage("yolo", "malformed-box", "'bird 0.5 0.5 0.1 0.1'")
def label_with_a_class_name(root):
    (root / "labels" / "train" / "p0.txt").write_text("bird 0.5 0.5 0.1 0.1\n")


@damage("yolo", "malformed-box", "'1_0 0.5 0.5 0.1 0.1'")
def label_that_python_reads_as_ten(root):
    (root / "labels" / "train" / "p0.txt").write_text("1_0 0.5 0.5 0.1 0.1\n")


@damage("yolo", "box-not-finite", "p0.txt:1")
def label_with_nan(root):
    (root / "labels" / "train" / "p0.txt").write_text("0 nan 0.5 0.1 0.1\n")


@damage("yolo", "unreadable-annotations", "p0.txt")
def label_of_random_bytes(root):
    (root / "labels" / "train" / "p0.txt").write_bytes(bytes(range(128, 256)))


@damage("yolo", "polygon-label", "4 points")
def label_with_a_polygon(root):
    (root / "labels" / "train" / "p0.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")


@damage("yolo", "wrong-convention", "they are pixels")
def labels_in_pixels(root):
    for path in (root / "labels" / "train").iterdir():
        path.write_text("0 40 30 20 20\n")


@damage("yolo", "wrong-convention", "(x1, y1, x2, y2)")
def labels_as_corners(root):
    for path in (root / "labels" / "train").iterdir():
        path.write_text("0 0.6 0.6 0.9 0.95\n")


@damage("yolo", "image-without-boxes", "p0.png")
def label_file_deleted(root):
    (root / "labels" / "train" / "p0.txt").unlink()


@damage("yolo", "unlisted-file", "p0.txt")
def label_without_image(root):
    (root / "images" / "train" / "p0.png").unlink()


@damage("yolo", "empty-split", "not one usable box")
def labels_in_a_folder_of_another_name(root):
    (root / "labels").rename(root / "annotation")


# Pascal VOC


@damage("voc", "unreadable-annotations", "p0.xml")
def xml_cut_off(root):
    path = root / "Annotations" / "p0.xml"
    path.write_text(path.read_text()[:-30])


@damage("voc", "unreadable-annotations", "DTDForbidden")
def xml_that_reads_a_file(root):
    path = root / "Annotations" / "p0.xml"
    entity = '<!DOCTYPE annotation [<!ENTITY secret SYSTEM "file:///etc/hostname">]>'
    path.write_text(entity + path.read_text().replace("<name>bird", "<name>&secret;"))


@damage("voc", "unreadable-annotations", "DTDForbidden")
def xml_that_multiplies(root):
    path = root / "Annotations" / "p0.xml"
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    path.write_text(f"<!DOCTYPE annotation [{entities}]>" + path.read_text().replace("<name>bird", "<name>&a9;"))


@damage("voc", "missing-annotations", "train.txt:7")
def image_set_names_an_absent_xml(root):
    with open(root / "ImageSets" / "Main" / "train.txt", "a") as f:
        f.write("p99\n")


@damage("voc", "outside-root", "train.txt:7")
def image_set_leaves_the_folder(root):
    with open(root / "ImageSets" / "Main" / "train.txt", "a") as f:
        f.write("../../../secret\n")


@damage("voc", "missing-image", "p0.xml")
def voc_image_deleted(root):
    (root / "JPEGImages" / "p0.png").unlink()


@damage("voc", "outside-root", "p0.xml")
def xml_names_a_file_outside(root):
    (root / "JPEGImages" / "p0.png").unlink()
    edit_text(root / "Annotations" / "p0.xml", "p0.png", "../../../secret.png")


@damage("voc", "name-mismatch", "p0.xml")
def xml_names_another_image(root):
    edit_text(root / "Annotations" / "p0.xml", "p0.png", "p1.png")


@damage("voc_roboflow", "repeated-file", "belongs to")
def two_xmls_of_one_image(root):
    path = root / "train" / "p0.xml"
    (root / "train" / "q.xml").write_text(path.read_text())


@damage("voc", "wrong-size", "its annotation says 160 x 60")
def xml_with_a_wrong_size(root):
    edit_text(root / "Annotations" / "p0.xml", "<width>80", "<width>160")


@damage("voc", "malformed-box", "p0.xml object 1")
def xml_without_bndbox(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<left>")  # and broken nesting is another damage
    edit_text(root / "Annotations" / "p0.xml", "</xmin>", "</left>")


@damage("voc", "malformed-box", "p0.xml object 1")
def xml_with_a_coordinate_in_words(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<xmin>about ")


@damage("voc", "unknown-class", "the object has no name")
def xml_object_without_name(root):
    edit_text(root / "Annotations" / "p0.xml", "<name>bird</name>", "")


@damage("voc", "box-without-area", "p0.xml object 1")
def xml_with_corners_swapped(root):
    edit_text(root / "Annotations" / "p0.xml", "<xmin>", "<xmin>7")


@damage("voc_roboflow", "unlisted-file", "an image without an xml file")
def voc_xml_deleted(root):
    (root / "train" / "p0.xml").unlink()


@damage("voc", "similar-classes", "'Bird' and 'bird'")
def xml_class_spelt_otherwise(root):
    edit_text(root / "Annotations" / "p0.xml", "<name>bird", "<name>Bird")


# no data set at all


@damage("coco", "unknown-format", "no data set recognised")
def nothing_but_images(root):
    for path in (root / "annotations").iterdir():
        path.unlink()


@damage("yolo", "unknown-format", "no data set recognised")
def labels_without_yaml(root):
    (root / "data.yaml").unlink()


@damage("voc", "unknown-format", "did you mean")
def one_folder_too_high(root):
    (root / "VOC2007").mkdir()
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        (root / name).rename(root / "VOC2007" / name)
