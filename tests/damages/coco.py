"""COCO json: files, classes, images and annotations."""

from __future__ import annotations

from folders import HEIGHT, WIDTH
from PIL import Image

from .damage import damage, edit_json, edit_text

# COCO: the files


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_cut_off(root):
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-40])


@damage("coco", "unreadable-annotations", "cannot be read as json")
def json_in_latin1(root):
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("bird", "b\u00e4r"), encoding="latin-1")


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


@damage("coco", "bad-classes", "'one' is not an integer")
def class_id_in_words(root):
    edit_json(root, lambda c: c["categories"][0].update(id="one"))


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


@damage("coco", "unprintable-name", r"is kept as $\frac{\x1b[31m")
def class_name_that_terminals_and_plots_obey(root):
    for split in ("train", "val"):
        edit_json(root, lambda c: c["categories"].append({"id": 9, "name": "$\\frac{\x1b[31m"}), split)


# COCO: images


@damage("coco", "duplicate-image-id", "duplicate image id 1 ('p0.png', 'p1.png')")
def image_id_twice(root):
    edit_json(root, lambda c: c["images"][1].update(id=1))


@damage("coco", "bad-image-record", "id 'one' is not an integer")
def image_id_in_words(root):
    edit_json(root, lambda c: c["images"][0].update(id="one"))


@damage("coco", "bad-image-record", "is not an integer of 64 bits")
def image_id_beyond_64_bits(root):
    edit_json(root, lambda c: c["images"][0].update(id=2**70))


@damage("coco", "bad-image-record", "has no file_name")
def image_without_name(root):
    edit_json(root, lambda c: c["images"][0].pop("file_name"))


@damage("coco", "bad-image-record", "(None, 80) are not positive")
def image_with_an_empty_height(root):
    edit_json(root, lambda c: c["images"][0].update(height=None))


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


@damage("coco", "unlisted-file", "1 of 10 image files not in any json")
def image_in_no_json(root):
    Image.new("RGB", (8, 8)).save(root / "images" / "new.png")


@damage("coco", "missing-fields", "no size of 1 of 6 images, for example 'p0.png'")
def image_without_size(root):
    edit_json(root, lambda c: [c["images"][0].pop(side) for side in ("width", "height")])


@damage("coco", "unprintable-name", "the file name 'p0\\n.png'")
def image_name_of_two_lines(root):
    (root / "images" / "p0.png").rename(root / "images" / "p0\n.png")
    edit_json(root, lambda c: c["images"][0].update(file_name="p0\n.png"))


@damage("coco", "extreme-shape", "3 x 300 pixels")
def image_like_a_thread(root):
    Image.new("RGB", (3, 300)).save(root / "images" / "p0.png")

    def change(content):
        content["images"][0].update(width=3, height=300)
        for a in content["annotations"]:
            if a["image_id"] == 1:
                a["bbox"] = [0, a["bbox"][1], 3, a["bbox"][3]]

    edit_json(root, change)


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


@damage("coco", "number-as-text", "ids or sizes as text or as 640.0")
def numbers_as_text(root):
    def change(content):
        for image in content["images"]:
            image.update(id=str(image["id"]), width=float(image["width"]), height=f"{image['height']}.0")
        for a in content["annotations"]:
            a.update(image_id=str(a["image_id"]), category_id=float(a["category_id"]))

    edit_json(root, change)


@damage("coco", "bad-crowd-flag", "iscrowd 'maybe' is neither 0 nor 1")
def crowd_flag_of_another_word(root):
    edit_json(root, lambda c: c["annotations"][0].update(iscrowd="maybe"))


@damage("coco", "missing-fields", "missing crowd flags")
def crowd_flags_as_text(root):
    edit_json(root, lambda c: [a.update(iscrowd=("0", "false", "False", "0.0", "")[i % 5])
                               for i, a in enumerate(c["annotations"])])  # fmt: skip


@damage("coco", "empty-split", "all boxes are crowds (iscrowd 1)")
def every_box_a_crowd(root):
    edit_json(root, lambda c: [a.update(iscrowd="1") for a in c["annotations"]], "val")


@damage("coco", "missing-fields", "negative areas")
def area_below_zero(root):
    edit_json(root, lambda c: [a.update(area=-1) for a in c["annotations"]], "val")


@damage("coco", "polygon-label", "polygons without boxes")
def segmentation_without_box(root):
    def change(content):
        for a in content["annotations"]:
            x, y, w, h = a.pop("bbox")
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h], [x, y + h, x + w, y, x, y]]

    edit_json(root, change)


@damage("coco", "malformed-box", "bbox None")
def segmentation_of_run_lengths_without_box(root):
    rle = {"size": [HEIGHT, WIDTH], "counts": "abc"}
    edit_json(root, lambda c: [c["annotations"][0].pop("bbox"), c["annotations"][0].update(segmentation=rle)])


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
