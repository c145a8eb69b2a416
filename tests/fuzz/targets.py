"""What is fuzzed: readers of annotations and checkpoints. An input is the bytes of one file of a small sound whole."""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save

from detrex.checkpoint import CheckpointError, class_names, read_checkpoint
from detrex.data import DatasetError, check_source, open_folder
from detrex.data.checks.findings import raise_errors, summarize

from .mutations import TOKENS, VALUES, mutate_bytes, mutate_text, mutate_tree

SIZE = (16, 12)  # width, height
DOCUMENTED = (DatasetError, CheckpointError)


@dataclass(frozen=True)
class Target:
    """A reader and where its inputs come from.

    Attributes:
        prepare: writes the sound whole into an empty folder.
        file: the file in it that an input replaces.
        generate: an input.
        read: reads the whole; anything but ``DOCUMENTED`` that it raises is a find.
        weight: share of the inputs; a checkpoint is read several times faster than a data set.
    """

    prepare: Callable[[Path], None]
    file: str
    generate: Callable[[random.Random], bytes]
    read: Callable[[Path], None]
    weight: int = 1

    def run(self, folder: Path, data: bytes) -> bool:
        """Whether the input was read; False if one of our errors refused it."""
        (folder / self.file).write_bytes(data)
        try:
            self.read(folder)
        except DOCUMENTED as error:
            str(error).encode()  # a message that no log or terminal can hold is a find
            return False
        return True


# ------------------------------------------------------------------------------------------------------ data sets
def coco_tree() -> dict:
    box = {"category_id": 1, "iscrowd": 0, "area": 12.0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": 1 + i % 2, "bbox": [i, 1, 3, 4], **box} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat", "supercategory": "none"}, {"id": 2, "name": "dog"}],
    }


YAML_TREE = {"train": "images/train", "val": "images/val", "nc": 2, "names": ["cat", "dog"], "path": "."}
LABELS = "0 0.5 0.5 0.25 0.25\n1 0.4 0.5 0.2 0.5\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"
XML = (
    f"<annotation><filename>1.png</filename><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    "<object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></object>"
    "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    "</annotation>"
)


def images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", SIZE, (number, 0, 0)).save(folder / f"{number}.png")


def prepare_coco(folder: Path) -> None:
    images(folder / "images")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(coco_tree()))


def prepare_yolo(folder: Path) -> None:
    for split in ("train", "val"):
        images(folder / "images" / split)
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "1.txt").write_text(LABELS)
    (folder / "data.yaml").write_text(yaml.safe_dump(YAML_TREE))


def prepare_voc(folder: Path) -> None:
    images(folder / "JPEGImages")
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number in (1, 2):
        (folder / f"Annotations/{number}.xml").write_text(XML.replace("1.png", f"{number}.png"))
    for split in ("train", "val"):
        (folder / f"ImageSets/Main/{split}.txt").write_text("1\n2\n")


LABELME_TREE = {
    "shapes": [
        {"label": "cat", "points": [[1, 1], [5, 6]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 1], [5, 6], [3, 3]], "shape_type": "polygon"},
        {"label": "dog", "points": [[5, 5], [6, 6]], "shape_type": "circle"},
    ],
    "imagePath": "1.png",
    "imageWidth": SIZE[0],
    "imageHeight": SIZE[1],
    "imageData": None,
}
DARKNET = "classes = 2\ntrain = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
LIST = "data/obj_train_data/1.png\ndata/obj_train_data/2.png\n"


def prepare_labelme(folder: Path) -> None:
    for split in ("train", "val"):
        images(folder / split)
        for number in (1, 2):
            (folder / split / f"{number}.json").write_text(json.dumps(LABELME_TREE))


def prepare_darknet(folder: Path) -> None:
    images(folder / "obj_train_data")
    for number in (1, 2):
        (folder / "obj_train_data" / f"{number}.txt").write_text(LABELS)
    for name, text in (("obj.data", DARKNET), ("obj.names", "cat\ndog\n"), ("train.txt", LIST)):
        (folder / name).write_text(text)


def read_data(folder: Path) -> None:
    checked = check_source(open_folder(str(folder)))
    "\n".join(summarize(checked.findings)).encode()
    raise_errors(str(folder), checked.findings)


def encoded(text: str, rng: random.Random) -> bytes:
    return text.encode(rng.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")), errors="surrogatepass")


def sometimes_damaged(data: bytes, rng: random.Random) -> bytes:
    return mutate_bytes(data, rng) if rng.random() < 0.3 else data


def json_input(tree: dict, rng: random.Random) -> bytes:
    tree = mutate_tree(tree, rng)
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, default=lambda value: None, skipkeys=True)
    except (TypeError, ValueError):  # keys or numbers that json cannot hold
        text = repr(tree)[:10_000]
    return sometimes_damaged(encoded(text, rng), rng)


def yaml_input(rng: random.Random) -> bytes:
    tree = mutate_tree(YAML_TREE, rng)
    try:
        text = yaml.safe_dump(tree, sort_keys=rng.random() < 0.5, default_flow_style=rng.random() < 0.3)
    except (yaml.YAMLError, TypeError, ValueError):
        text = repr(tree)[:10_000]
    if rng.random() < 0.3:
        text = mutate_text(text, rng)
    return sometimes_damaged(encoded(text, rng), rng)


def text_input(text: str, rng: random.Random) -> bytes:
    return sometimes_damaged(encoded(mutate_text(text, rng), rng), rng)


def xml_input(rng: random.Random) -> bytes:
    tree = ElementTree.fromstring(XML)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parents = [element for element in tree.iter() if len(element)]
        parent = rng.choice(parents)
        child = rng.choice(list(parent))
        match rng.randrange(5):
            case 0 | 1:
                child.text = rng.choice((*TOKENS, *(str(v)[:5000] for v in VALUES if not isinstance(v, int))))
            case 2:
                parent.remove(child)
                if not any(len(element) for element in tree.iter()):
                    break
            case 3:
                parent.append(child)
            case 4:
                child.tag = rng.choice(("object", "name", "bndbox", "xmin", "size", "filename", "x"))
    text = ElementTree.tostring(tree, encoding="unicode")
    if rng.random() < 0.1:
        entities = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd"><!ENTITY b "&e;&e;">]>'
        text = entities + text.replace("cat", "&b;")
    if rng.random() < 0.2:
        text = mutate_text(text.replace("><", "> <"), rng)
    return sometimes_damaged(encoded(text, rng), rng)


# ---------------------------------------------------------------------------------------------------- checkpoints
STATE = {"model": {"a.weight": [1.0, 2.0], "b": [3.0]}, "iteration": 3, "metadata": {"class_names": ["cat", "dog"]}}


def checkpoint_tree(rng: random.Random, leaf: Callable) -> object:
    """Values of all kinds under the keys of a checkpoint, tensors among them."""
    tree = {**STATE, "model": {name: leaf(values) for name, values in STATE["model"].items()}}
    return mutate_tree(tree, rng) if rng.random() < 0.7 else tree


@functools.cache
def sound(kind: str) -> bytes:
    """A checkpoint without damage."""
    tensors = {name: torch.tensor(values) for name, values in STATE["model"].items()}
    return save(tensors) if kind == "safetensors" else b""


def torch_input(rng: random.Random) -> bytes:
    memory = io.BytesIO()
    tree = checkpoint_tree(rng, torch.tensor)
    torch.save(tree, memory, _use_new_zipfile_serialization=rng.random() < 0.7)
    data = memory.getvalue()
    if rng.random() < 0.5 and data[:2] == b"PK":  # damage within the archive, under sound checksums
        memory = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(memory, "w") as target:
            for entry in source.infolist():
                body = source.read(entry)
                target.writestr(entry.filename, mutate_bytes(body, rng) if rng.random() < 0.5 else body)
        return memory.getvalue()
    return mutate_bytes(data, rng) if rng.random() < 0.6 else data


def pickle_input(rng: random.Random) -> bytes:
    tree = checkpoint_tree(rng, lambda values: np.array(values).astype(rng.choice(("f4", "f4", "i8", "O", "U3", "c8"))))
    data = pickle.dumps(tree, protocol=rng.randrange(6))
    return mutate_bytes(data, rng) if rng.random() < 0.7 else data


# Pickle programs: expressions of which each leaves one value on the stack, by the instructions of protocol 2 to 5.
NAMES = (
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "numpy ndarray", "numpy dtype"),
    *("numpy._core.numeric _frombuffer", "_codecs encode", "collections OrderedDict", "collections defaultdict"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"),
    *("torch._utils _rebuild_sparse_tensor", "torch FloatStorage", "torch UntypedStorage", "torch float32"),
    *("argparse Namespace", "mmengine.logging.history_buffer HistoryBuffer", "builtins getattr", "builtins set"),
    *("torch._tensor _rebuild_from_type_v2", "pathlib PosixPath", "torch device", "torch Size"),
)
TEXTS = ("f4", "O8", "U3", "V8", "<", "|", "f99999999", "latin1", "utf-7", "hex", "storage", "0", "\ud800", "a" * 5000)
INTEGERS = (0, 1, 4, -1, 2**31 - 1, 2**61 - 1, 2**62, 2**63, -(2**63), 10**40)


def text_of(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")
    return b"X" + len(data).to_bytes(4, "little") + data


def name_of(value: str) -> bytes:
    return b"c" + value.replace(" ", "\n").encode() + b"\n"


def integer(value: int) -> bytes:
    return b"\x8a\x14" + value.to_bytes(20, "little", signed=True)


def dtype_of(code: bytes) -> bytes:
    state = b"(" + integer(3) + text_of("<") + b"NNNNNNt"
    return name_of("numpy dtype") + code + b"\x85R" + state + b"b"


def array_of(expression: Callable[[], bytes], rng: random.Random) -> bytes:
    """An array or tensor whose parts are sound but for one or two."""

    def part(sound: bytes) -> bytes:
        return expression() if rng.random() < 0.15 else sound

    data = b"C\x08" + bytes(8)
    dtype = part(dtype_of(part(text_of("f4"))))
    size, nothing = part(b"(" + part(integer(2)) + b"t"), b"C\x01b"
    match rng.randrange(4):
        case 0:
            start = b"(" + name_of("numpy ndarray") + part(b"(K\x00t") + nothing + b"t"
            state = b"(K\x01" + size + dtype + part(b"\x89") + part(data) + b"t"
            return name_of("numpy.core.multiarray _reconstruct") + start + b"R" + state + b"b"
        case 1:
            return name_of("numpy._core.numeric _frombuffer") + b"(" + part(data) + dtype + size + text_of("C") + b"tR"
        case 2:
            return name_of("numpy.core.multiarray scalar") + dtype_of(text_of("f8")) + part(data) + b"\x86R"
    key = (
        b"("
        + text_of("storage")
        + part(name_of("torch FloatStorage"))
        + part(text_of("0"))
        + text_of("cpu")
        + b"K\x04t"
    )
    parts = part(key + b"Q") + part(b"K\x00") + size + part(b"(" + part(b"K\x01") + b"t") + b"\x89}"
    return name_of("torch._utils _rebuild_tensor_v2") + b"(" + parts + b"tR"


def expression(rng: random.Random, depth: int = 0) -> bytes:
    """One value: plain, a container, a call, an object with a state, or what the memo has."""
    again = functools.partial(expression, rng, depth + 1)
    several = b"".join(again() for _ in range(rng.randrange(4))) if depth < 4 else b""
    match rng.randrange(6 if depth > 4 else 16):
        case 0:
            return rng.choice((b"N", b")", b"]", b"}", b"\x88", b"\x8f", b"G?\xf0" + bytes(6)))
        case 1 | 2:
            return integer(rng.choice(INTEGERS))
        case 3:
            return text_of(rng.choice(TEXTS))
        case 4:
            return name_of(rng.choice(NAMES))
        case 5:
            return b"h" + bytes([rng.randrange(4)])
        case 6:
            return b"(" + several + b"t"
        case 7:
            return b"](" + several + b"e"
        case 8:
            return b"}(" + several + b"u"
        case 9:
            return rng.choice((b"\x8f(" + several + b"\x90", b"(" + several + b"\x91", b"(" + several + b"l"))
        case 10 | 11:
            return name_of(rng.choice(NAMES)) + b"(" + several + b"t" + rng.choice((b"R", b"\x81"))
        case 12:
            return again() + again() + b"b"
        case 13:
            return again() + b"q" + bytes([rng.randrange(4)])
        case 14:
            return again() + again() + b"Q0" if rng.random() < 0.5 else again() + b"20"
    return array_of(again, rng)


def pickle_program(rng: random.Random) -> bytes:
    memo = b"".join(expression(rng, 4) + b"q" + bytes([i]) + b"0" for i in range(4) if rng.random() < 0.5)
    weights = array_of(functools.partial(expression, rng), rng)
    extra = expression(rng) if rng.random() < 0.5 else b"N"
    items = text_of("model") + b"}" + text_of("a") + weights + b"s" + text_of("metadata") + extra
    return b"\x80\x02" + memo + b"}(" + items + b"u."


def torch_program(rng: random.Random) -> bytes:
    """Such a program in an archive of torch with one storage."""
    plain, changed = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"a": torch.zeros(4)}}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            is_program = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, pickle_program(rng) if is_program else source.read(entry))
    return changed.getvalue()


def safetensors_input(rng: random.Random) -> bytes:
    data = sound("safetensors")
    length = int.from_bytes(data[:8], "little")
    header = mutate_tree({**json.loads(data[8 : 8 + length]), "__metadata__": {"metadata": '{"class_names": []}'}}, rng)
    text = json.dumps(header, default=lambda value: None, skipkeys=True).encode()
    if rng.random() < 0.8:
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return sometimes_damaged(data, rng)


def index_input(rng: random.Random) -> bytes:
    tree = mutate_tree({"metadata": {}, "weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}, rng)
    try:
        return sometimes_damaged(json.dumps(tree, default=lambda value: None, skipkeys=True).encode(), rng)
    except ValueError:
        return repr(tree).encode(errors="replace")[:10_000]


def read_weights(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        checkpoint = read_checkpoint(str(folder / name))
        assert all(isinstance(value, torch.Tensor) for value in checkpoint["model"].values())
        assert all(isinstance(name, str) for name in class_names(checkpoint))

    return read


def checkpoint(name: str, generate: Callable[[random.Random], bytes]) -> Target:
    def prepare(folder: Path) -> None:
        (folder / "part.safetensors").write_bytes(sound("safetensors"))

    return Target(prepare, name, generate, read_weights(name), weight=4)


TARGETS = {
    "coco": Target(
        prepare_coco, "annotations/instances_train.json", functools.partial(json_input, coco_tree()), read_data
    ),
    "labelme": Target(prepare_labelme, "train/1.json", functools.partial(json_input, LABELME_TREE), read_data),
    "yolo_data": Target(prepare_darknet, "obj.data", functools.partial(text_input, DARKNET), read_data),
    "yolo_list": Target(prepare_darknet, "train.txt", functools.partial(text_input, LIST), read_data),
    "yolo_yaml": Target(prepare_yolo, "data.yaml", yaml_input, read_data),
    "yolo_labels": Target(prepare_yolo, "labels/train/1.txt", functools.partial(text_input, LABELS), read_data),
    "voc_xml": Target(prepare_voc, "Annotations/1.xml", xml_input, read_data),
    "voc_list": Target(prepare_voc, "ImageSets/Main/train.txt", functools.partial(text_input, "1\n2\n"), read_data),
    "torch": checkpoint("weights.pth", torch_input),
    "pickle": checkpoint("weights.pkl", pickle_input),
    "pickle_program": checkpoint("weights.pkl", pickle_program),
    "torch_program": checkpoint("weights.pth", torch_program),
    "safetensors": checkpoint("weights.safetensors", safetensors_input),
    "index": checkpoint("model.safetensors.index.json", index_input),
}
