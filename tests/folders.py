"""One small data set in memory, and writers for every layout that is recognised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("bird", "cat", "dog")  # alphabetical: VOC has no other order
SPLITS = {"train": range(6), "val": range(6, 9)}
ROBOFLOW = {"train": "train", "val": "valid"}
WIDTH, HEIGHT = 80, 60


@dataclass(frozen=True)
class Picture:
    """An image and its boxes: (class, [x, y, width, height]) in whole pixels."""

    name: str
    pixels: np.ndarray
    boxes: list[tuple[int, list[int]]]


def pictures() -> list[Picture]:
    """Nine noisy images with two or three boxes each, different from each other."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(9):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        boxes = []
        for j in range(2 + i % 2):
            x, y, w, h = (int(v) for v in (*rng.integers(1, 30, 2), *rng.integers(8, 28, 2)))
            boxes.append(((i + j) % 3, [x, y, w, h]))
        result.append(Picture(f"p{i}", pixels, boxes))
    return result


def save(picture: Picture, path: Path) -> None:
    """Write the pixels; the type follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.pixels).save(path)


def coco(items: list[Picture], first_id: int = 1) -> dict[str, Any]:
    """COCO content; file names end in .png."""
    images, annotations = [], []
    for i, picture in enumerate(items):
        height, width = picture.pixels.shape[:2]
        images.append({"id": i + 1, "file_name": f"{picture.name}.png", "height": height, "width": width})
        for class_id, box in picture.boxes:
            item = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": class_id + first_id, "bbox": box}
            annotations.append({**item, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": i + first_id, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """annotations/instances_<split>.json and images/."""
    (root / "annotations").mkdir(parents=True)
    for split, indices in splits.items():
        chosen = [items[i] for i in indices]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco(chosen)))
        for picture in chosen:
            save(picture, root / "images" / f"{picture.name}.png")


def write_coco_roboflow(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """<split>/_annotations.coco.json beside the images, and a first class that groups the others."""
    for split, indices in splits.items():
        chosen = [items[i] for i in indices]
        content = coco(chosen)
        for category in content["categories"]:
            category["supercategory"] = "animals"
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        for picture in chosen:
            save(picture, root / ROBOFLOW[split] / f"{picture.name}.png")
        (root / ROBOFLOW[split] / "_annotations.coco.json").write_text(json.dumps(content))


def yolo_line(class_id: int, box: list[float], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A line of a label file, six digits."""
    x, y, w, h = box
    return f"{class_id} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}"


def _yolo_labels(path: Path, picture: Picture) -> None:
    height, width = picture.pixels.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(yolo_line(c, box, width, height) + "\n" for c, box in picture.boxes))


def write_yolo(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """data.yaml, images/<split> and labels/<split>."""
    for split, indices in splits.items():
        for i in indices:
            save(items[i], root / "images" / split / f"{items[i].name}.png")
            _yolo_labels(root / "labels" / split / f"{items[i].name}.txt", items[i])
    lines = [f"{split}: images/{split}" for split in splits]
    names = [f"  {i}: {name}" for i, name in enumerate(CLASSES)]
    (root / "data.yaml").write_text("\n".join([*lines, f"nc: {len(CLASSES)}", "names:", *names]) + "\n")


def write_yolo_roboflow(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """<split>/images and <split>/labels, with the paths "../train/images" that Roboflow writes."""
    for split, indices in splits.items():
        for i in indices:
            save(items[i], root / ROBOFLOW[split] / "images" / f"{items[i].name}.png")
            _yolo_labels(root / ROBOFLOW[split] / "labels" / f"{items[i].name}.txt", items[i])
    lines = [f"{split}: ../{ROBOFLOW[split]}/images" for split in splits]
    (root / "data.yaml").write_text("\n".join([*lines, f"nc: {len(CLASSES)}", f"names: {list(CLASSES)}"]) + "\n")


def voc_xml(picture: Picture) -> str:
    """One xml; pixels count from 1, the last one included."""
    height, width = picture.pixels.shape[:2]
    objects = "".join(
        f"<object><name>{CLASSES[c]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for c, (x, y, w, h) in picture.boxes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{picture.name}.png</filename>{size}{objects}</annotation>"


def write_voc(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """Annotations, JPEGImages, ImageSets/Main/<split>.txt."""
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, indices in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{items[i].name}\n" for i in indices))
        for i in indices:
            save(items[i], root / "JPEGImages" / f"{items[i].name}.png")
            (root / "Annotations" / f"{items[i].name}.xml").write_text(voc_xml(items[i]))


def write_voc_roboflow(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """<split>/ with each xml beside its image."""
    for split, indices in splits.items():
        for i in indices:
            save(items[i], root / ROBOFLOW[split] / f"{items[i].name}.png")
            (root / ROBOFLOW[split] / f"{items[i].name}.xml").write_text(voc_xml(items[i]))


def write_coco_fiftyone(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """<split>/labels.json and <split>/data/."""
    for split, indices in splits.items():
        for i in indices:
            save(items[i], root / split / "data" / f"{items[i].name}.png")
        (root / split / "labels.json").write_text(json.dumps(coco([items[i] for i in indices])))


def write_coco_label_studio(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """<split>/result.json with the paths of Label Studio's own server, images in <split>/images; ids from 0."""
    for number, (split, indices) in enumerate(splits.items()):
        content = coco([items[i] for i in indices], first_id=0)
        for i, image in enumerate(content["images"]):
            image["file_name"] = f"../../upload/{i}/{image['file_name']}" if number else f"images\\{image['file_name']}"
        for i, annotation in enumerate(content["annotations"]):
            annotation["id"] = i
        for i in indices:
            save(items[i], root / split / "images" / f"{items[i].name}.png")
        (root / split / "result.json").write_text(json.dumps(content))


def write_yolo_fiftyone(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """dataset.yaml, images/<split> and labels/<split>."""
    write_yolo(root, items, splits)
    (root / "data.yaml").unlink()
    lines = ["path: .", *(f"{split}: ./images/{split}/" for split in splits)]
    (root / "dataset.yaml").write_text("\n".join([*lines, "names:", *(f"- {name}" for name in CLASSES)]) + "\n")


def write_yolo_cvat(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """obj.data, obj.names, <split>.txt and obj_<split>_data/, with paths that begin with data/."""
    lines = [f"classes = {len(CLASSES)}", "names = data/obj.names", "backup = backup/"]
    for split, indices in splits.items():
        lines.append(f"{split} = data/{split}.txt")
        folder = f"obj_{split}_data"
        for i in indices:
            save(items[i], root / folder / f"{items[i].name}.png")
            _yolo_labels(root / folder / f"{items[i].name}.txt", items[i])
        (root / f"{split}.txt").write_text("".join(f"data/{folder}/{items[i].name}.png\n" for i in indices))
    (root / "obj.data").write_text("\n".join(lines) + "\n")
    (root / "obj.names").write_text("\n".join(CLASSES) + "\n")


def write_yolo_label_studio(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """classes.txt, notes.json, images/ and labels/; folders of splits below them if there are several."""
    for split, indices in splits.items():
        part = split if len(splits) > 1 else ""
        for i in indices:
            save(items[i], root / "images" / part / f"{items[i].name}.png")
            _yolo_labels(root / "labels" / part / f"{items[i].name}.txt", items[i])
    (root / "classes.txt").write_text("\n".join(CLASSES))
    notes = {"categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)], "info": {"year": 2024}}
    (root / "notes.json").write_text(json.dumps(notes))


def write_labelme(root: Path, items: list[Picture], splits=SPLITS) -> None:
    """A json beside each image, in folders of splits if there are several."""
    for split, indices in splits.items():
        folder = root / split if len(splits) > 1 else root
        for i in indices:
            save(items[i], folder / f"{items[i].name}.png")
            (folder / f"{items[i].name}.json").write_text(json.dumps(labelme(items[i])))


def labelme(picture: Picture) -> dict[str, Any]:
    """What labelme writes of an image; a rectangle and a polygon by turns."""
    shapes = []
    for number, (class_id, (x, y, w, h)) in enumerate(picture.boxes):
        corners = [[x, y], [x + w, y + h]]
        if number % 2:
            corners = [[x, y], [x + w, y + 1], [x + 1, y + h]]
        kind = "polygon" if number % 2 else "rectangle"
        shapes.append({"label": CLASSES[class_id], "points": corners, "group_id": None, "shape_type": kind})
    height, width = picture.pixels.shape[:2]
    size = {"imagePath": f"{picture.name}.png", "imageData": None, "imageHeight": height, "imageWidth": width}
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, **size}


WRITERS = {
    "coco": write_coco,
    "coco_roboflow": write_coco_roboflow,
    "yolo": write_yolo,
    "yolo_roboflow": write_yolo_roboflow,
    "coco_fiftyone": write_coco_fiftyone,
    "coco_label_studio": write_coco_label_studio,
    "yolo_fiftyone": write_yolo_fiftyone,
    "yolo_cvat": write_yolo_cvat,
    "yolo_label_studio": write_yolo_label_studio,
    "labelme": write_labelme,
    "voc": write_voc,
    "voc_roboflow": write_voc_roboflow,
}
