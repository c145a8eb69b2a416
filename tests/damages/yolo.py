"""YOLO: data.yaml, lists and labels."""

from __future__ import annotations

from folders import yolo_line

from .damage import damage, edit_text


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
