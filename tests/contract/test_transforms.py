"""Transforms and augmentations: geometry, and which random numbers are drawn in which order."""

# The global generator is what augmentations draw from.
# ruff: noqa: NPY002
from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from omegaconf import ListConfig
from PIL import Image

from .conftest import LITE, lite_only

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (60, 90, 3), dtype=np.uint8)
BOXES = np.array([[10.0, 5.0, 40.0, 30.0], [50.0, 20.0, 90.0, 60.0]])


def _apply(aug: T.Augmentation, seed: int = 0, image: np.ndarray = IMAGE, **inputs) -> tuple[T.AugInput, T.Transform]:
    np.random.seed(seed)
    aug_input = T.AugInput(image.copy(), **inputs)
    return aug_input, aug(aug_input)


def _draws(seed: int) -> type[np.random.mtrand]:
    np.random.seed(seed)
    return np.random


@pytest.mark.parametrize("seed", range(4))
def test_random_flip(seed) -> None:
    aug_input, transform = _apply(T.RandomFlip(), seed, boxes=BOXES.copy())
    if _draws(seed).uniform(0, 1) < 0.5:
        assert isinstance(transform, T.HFlipTransform)
        assert np.array_equal(aug_input.image, IMAGE[:, ::-1])
        assert aug_input.boxes[0].tolist() == [50, 5, 80, 30]
    else:
        assert isinstance(transform, T.NoOpTransform)


def test_flip_directions() -> None:
    flipped, _ = _apply(T.RandomFlip(1.0, horizontal=False, vertical=True))
    assert np.array_equal(flipped.image, IMAGE[::-1])
    for both in (True, False):
        with pytest.raises(ValueError, match=r"(?i)two|least|either"):
            T.RandomFlip(horizontal=both, vertical=both)


@pytest.mark.parametrize("seed", range(3))
def test_resize_shortest_edge(seed) -> None:
    sizes = ListConfig([40, 50, 70])
    aug_input, transform = _apply(T.ResizeShortestEdge(sizes, max_size=80, sample_style="choice"), seed)
    size = _draws(seed).choice([40, 50, 70])
    expected = {40: (40, 60), 50: (50, 75), 70: (53, 80)}[int(size)]
    assert aug_input.image.shape[:2] == (transform.new_h, transform.new_w) == expected
    pil = Image.fromarray(IMAGE).resize(expected[::-1], Image.BILINEAR)
    assert np.array_equal(aug_input.image, np.asarray(pil))
    ranged, _ = _apply(T.ResizeShortestEdge(ListConfig([30, 50])), seed)
    assert min(ranged.image.shape[:2]) == _draws(seed).randint(30, 51)


def test_resize_shortest_edge_rounds_half_up_and_takes_an_int() -> None:
    assert T.ResizeShortestEdge.get_output_shape(480, 640, 800, 1333) == (800, 1067)
    assert T.ResizeShortestEdge.get_output_shape(427, 640, 800, 1333) == (800, 1199)
    assert T.ResizeShortestEdge.get_output_shape(100, 400, 800, 1333) == (333, 1333)
    assert _apply(T.ResizeShortestEdge(30))[0].image.shape == (30, 45, 3)
    assert isinstance(_apply(T.ResizeShortestEdge(0))[1], T.NoOpTransform)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([1, 2, 3])
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([1, 2], sample_style="other")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "size"), [("absolute_range", (20, 40)), ("absolute", (30, 400)), ("relative", (0.5, 0.25))]
)
def test_random_crop(kind, size, seed) -> None:
    aug_input, transform = _apply(T.RandomCrop(kind, ListConfig(list(size))), seed, boxes=BOXES.copy())
    random = _draws(seed)
    if kind == "absolute_range":
        height, width = random.randint(20, 41), random.randint(20, 41)
    else:
        height, width = {"absolute": (30, 90), "relative": (30, 23)}[kind]
    y0, x0 = random.randint(60 - height + 1), random.randint(90 - width + 1)
    assert np.array_equal(aug_input.image, IMAGE[y0 : y0 + height, x0 : x0 + width])
    assert np.allclose(aug_input.boxes, BOXES - [x0, y0, x0, y0])
    assert isinstance(transform, T.CropTransform)


def test_random_crop_never_exceeds_the_image() -> None:
    crop = T.RandomCrop("absolute_range", (384, 600))
    assert crop.get_crop_size((50, 400)) == (50, pytest.approx(392, abs=8))
    with pytest.raises(AssertionError):
        T.RandomCrop("sideways", (1, 1))
    height, width = T.RandomCrop("relative_range", (0.5, 0.9)).get_crop_size((100, 100))
    assert 50 <= height <= 100
    assert 90 <= width <= 100


@pytest.mark.parametrize("seed", range(3))
def test_large_scale_jitter(seed) -> None:
    augs = T.AugmentationList([T.ResizeScale(0.5, 2.0, 64, 64), T.FixedSizeCrop((64, 64), pad_value=7.0)])
    labels = np.ones((60, 90), dtype=np.uint8)
    aug_input, _ = _apply(augs, seed, sem_seg=labels)
    scale = _draws(seed).uniform(0.5, 2.0) * 64 / 90
    resized = np.round(np.array([60, 90]) * scale).astype(int)
    assert aug_input.image.shape == (64, 64, 3)
    inside = np.minimum(resized, 64)
    assert (aug_input.image[inside[0] :] == 7).all()
    assert (aug_input.sem_seg == 255).sum() == 64 * 64 - inside[0] * inside[1]


@pytest.mark.parametrize(
    ("aug", "expected"),
    [
        (T.RandomBrightness(0.5, 0.5), lambda x: 0.5 * x),
        (T.RandomContrast(0.5, 0.5), lambda x: 0.5 * x + 0.5 * x.mean()),
        (T.RandomSaturation(0.0, 0.0), lambda x: np.repeat(x @ [[0.299], [0.587], [0.114]], 3, axis=2)),
        (T.RandomLighting(0.0), lambda x: x),
    ],
)
def test_colours(aug, expected) -> None:
    image = IMAGE.astype(np.float32)
    aug_input, _ = _apply(aug, image=image, boxes=BOXES.copy())
    assert np.allclose(aug_input.image, expected(image), rtol=1e-5)
    assert np.array_equal(aug_input.boxes, BOXES)
    assert _apply(aug)[0].image.dtype == np.uint8


def test_colour_functions() -> None:
    assert np.array_equal(T.ColorTransform(lambda x: 255 - x).apply_image(IMAGE), 255 - IMAGE)
    inverted = T.PILColorTransform(lambda pil: pil.convert("L")).apply_image(IMAGE)
    assert inverted.shape == (60, 90)
    with pytest.raises(ValueError, match="callable"):
        T.ColorTransform(3)


@pytest.mark.parametrize("angle", [90, 30])
def test_rotation_of_coordinates(angle) -> None:
    if not LITE:
        pytest.importorskip("cv2")
    transform = T.RotationTransform(60, 90, angle)
    centre = transform.apply_coords(np.array([[45.0, 30.0]]))
    assert np.allclose(centre, [[transform.bound_w / 2, transform.bound_h / 2]])
    points = np.array([[3.0, 7.0], [80.0, 50.0]])
    assert np.allclose(transform.inverse().apply_coords(transform.apply_coords(points.copy())), points, atol=1)
    if angle == 90:  # counter-clockwise: the right edge becomes the top
        assert np.allclose(transform.apply_coords(np.array([[90.0, 0.0]])), [[0, 0]])
    with pytest.raises(NotImplementedError):
        T.RotationTransform(60, 90, angle, expand=False).inverse()


def test_rotation_of_images() -> None:
    pytest.importorskip("cv2")
    assert np.array_equal(T.RotationTransform(60, 90, 90).apply_image(IMAGE), np.rot90(IMAGE))
    assert T.RotationTransform(60, 90, 360).apply_image(IMAGE) is IMAGE


@lite_only("coordinates need OpenCV")
def test_random_rotation_moves_boxes_without_opencv() -> None:
    transform = T.RandomRotation([90, 90]).get_transform(IMAGE)
    assert np.allclose(transform.apply_box(np.array([[0.0, 0.0, 90.0, 30.0]])), [[0, 0, 30, 90]])


def test_extent_and_resize() -> None:
    shown = T.ExtentTransform((10, 20, 40, 50), (60, 60))
    assert np.allclose(shown.apply_coords(np.array([[10.0, 20.0], [40.0, 50.0]])), [[0, 0], [60, 60]])
    assert shown.apply_image(IMAGE).shape == (60, 60, 3)
    resize = T.ResizeTransform(60, 90, 30, 30)
    assert resize.apply_image(IMAGE[:, :, :1]).shape == (30, 30, 1)
    assert resize.apply_image(IMAGE.astype(np.float32)).shape == (30, 30, 3)
    assert set(np.unique(resize.apply_segmentation(np.tile(np.uint8([3, 9]), (60, 45))))) <= {3, 9}
    assert np.allclose(resize.inverse().apply_coords(resize.apply_coords(BOXES[:, :2].copy())), BOXES[:, :2])
    with pytest.raises(AssertionError):
        resize.apply_image(IMAGE[1:])


@lite_only("labels are interpolated, because Image.NEAREST is 0 and taken for 'not given'")
def test_extent_keeps_labels() -> None:
    labels = np.tile(np.uint8([3, 9]), (60, 45))
    assert set(np.unique(T.ExtentTransform((0, 0, 33, 33), (60, 60)).apply_segmentation(labels))) <= {3, 9}


@pytest.mark.parametrize("aug", [T.RandomExtent((0.8, 1.2), (0.3, 0.3)), T.Resize(ListConfig([20, 30])), T.Resize(25)])
def test_images_and_boxes_move_together(aug) -> None:
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[20:40, 30:60] = 255
    aug_input, _ = _apply(aug, 5, image=image, boxes=np.array([[30.0, 20.0, 60.0, 40.0]]))
    rows, columns = np.nonzero(aug_input.image[..., 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    size = aug_input.image.shape
    expected = np.clip(aug_input.boxes[0], 0, [size[1], size[0], size[1], size[0]])
    assert np.abs(found - expected).max() <= 1


def test_min_iou_crop_keeps_a_box() -> None:
    crop = T.MinIoURandomCrop()
    for seed in range(20):
        aug_input, _ = _apply(crop, seed, boxes=BOXES.copy())
        size = aug_input.image.shape
        centres = (aug_input.boxes[:, :2] + aug_input.boxes[:, 2:]) / 2
        assert ((centres > 0) & (centres < [size[1], size[0]])).all(axis=1).any()
    assert isinstance(_apply(crop)[1], T.Transform)


def test_category_area_constraint() -> None:
    labels = np.zeros((60, 90), dtype=np.uint8)
    labels[:, 45:] = 1
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (60, 40), single_category_max_area=0.75)
    for seed in range(5):
        aug_input, _ = _apply(crop, seed, sem_seg=labels)
        assert 0.25 <= aug_input.sem_seg.mean() <= 0.75


@pytest.mark.parametrize("seed", range(4))
def test_random_apply(seed) -> None:
    aug = T.RandomApply(T.RandomCrop("absolute", (10, 10)), prob=0.5)
    aug_input, _ = _apply(aug, seed)
    assert aug_input.image.shape[0] == (10 if _draws(seed).uniform(0, 1) < 0.5 else 60)
    with pytest.raises(AssertionError):
        T.RandomApply(T.NoOpTransform(), prob=2)


def test_lists_and_inputs() -> None:
    image, transforms = T.apply_transform_gens([T.RandomFlip(1.0), T.Resize(30)], IMAGE.copy())
    assert image.shape == (30, 30, 3)
    assert isinstance(transforms, T.TransformList)
    assert len(transforms) == 2
    aug_input = T.StandardAugInput(IMAGE.copy(), boxes=BOXES.copy())
    same, _ = T.apply_augmentations([T.HFlipTransform(90)], aug_input)
    assert same is aug_input
    assert aug_input.boxes[0].tolist() == [50, 5, 80, 30]
    assert T.TransformGen is T.Augmentation
    with pytest.raises(AssertionError):
        T.AugInput([[1, 2]])
    with pytest.raises(AssertionError):
        T.AugmentationList([3])


def test_own_augmentations() -> None:
    class ByBoxes(T.Augmentation):
        def get_transform(self, image, boxes):
            x0, y0, x1, y1 = boxes[0].astype(int)
            return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    class ByWish(T.Augmentation):
        input_args = ("wish",)

        def get_transform(self, wish):
            return wish

    class Vague(T.Augmentation):
        def get_transform(self, *args, **kwargs):
            return T.NoOpTransform()

    assert _apply(ByBoxes(), boxes=BOXES.copy())[0].image.shape == (25, 30, 3)
    aug_input = T.AugInput(IMAGE)
    aug_input.wish = T.NoOpTransform()
    assert ByWish()(aug_input) is aug_input.wish
    aug_input.wish = "nothing"
    with pytest.raises(AssertionError):
        ByWish()(aug_input)
    with pytest.raises(AttributeError):
        ByWish()(T.AugInput(IMAGE))
    with pytest.raises(TypeError):
        Vague()(T.AugInput(IMAGE))


def test_repr_shows_what_is_not_default() -> None:
    assert repr(T.RandomFlip(0.3)) == "RandomFlip(prob=0.3)"
    assert repr(T.ResizeShortestEdge((4, 5), 9)) == "ResizeShortestEdge(short_edge_length=(4, 5), max_size=9)"
    assert repr(T.AugmentationList([T.RandomFlip()])) == "AugmentationList[RandomFlip()]"


def test_cropping_polygons() -> None:
    if not LITE:
        pytest.importorskip("shapely")
    crop = T.CropTransform(10, 10, 20, 20)
    inside, outside = np.array([[12.0, 12], [20, 12], [20, 20], [12, 20]]), np.array([[0.0, 0], [5, 0], [5, 5]])
    across = np.array([[0.0, 15], [50, 15], [50, 25], [0, 25]])
    touching = np.array([[0.0, 0], [10, 0], [10, 40], [0, 40]])
    cropped = crop.apply_polygons([inside, outside, across, touching])
    assert len(cropped) == 2
    assert {tuple(p) for p in cropped[0]} == {(2, 2), (10, 2), (10, 10), (2, 10)}
    assert {tuple(p) for p in cropped[1]} == {(0, 5), (20, 5), (20, 15), (0, 15)}


@lite_only("needs shapely, an undeclared dependency")
def test_concave_polygons_keep_their_area() -> None:
    fork = np.array([[0.0, 0], [40, 0], [40, 10], [10, 10], [10, 20], [40, 20], [40, 30], [0, 30]])
    (cropped,) = T.CropTransform(20, 0, 40, 40).apply_polygons([fork])
    x, y = cropped.T
    assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 == pytest.approx(400)
