import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from skimage.draw import polygon as draw_polygon

from ovparts_lib.data.coco_instances import (
    BAD_POLYGON,
    NO_POLYGON,
    NO_SEGMENTATION,
    CocoImage,
    CocoInstance,
    compressed_counts,
    rasterise,
    rasterise_columns,
    read_coco,
)
from ovparts_lib.data.coco_writing import encode_rle
from ovparts_lib.data.files import DatasetError

# of pycocotools' own decoder, which only these tests use
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SQUARE = [[1, 1, 10, 1, 10, 10, 1, 10]]
IMAGE = {"id": 1, "file_name": "one.jpg", "height": 20, "width": 30}


def entry(**changes):
    return {"id": 1, "image_id": 1, "category_id": 0, "iscrowd": 0, "segmentation": SQUARE} | changes


@pytest.fixture
def file(tmp_path):
    def write(annotations, images=(IMAGE,)):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({"images": list(images), "annotations": list(annotations)}))
        return path

    return write


def drawn(segmentation, height=20, width=30):
    if isinstance(segmentation, list):
        segmentation = tuple(np.array(polygon, np.float64) for polygon in segmentation)
    image = CocoImage(1, "one.jpg", height, width, ())
    return rasterise(CocoInstance(7, 0, segmentation), image, "instances.json")


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        (rng := np.random.default_rng(seed)),
        np.kron(rng.random(rng.integers(1, 12, 2)) < rng.random(), np.ones(rng.integers(1, 40, 2))) > 0,
    )[1]
)


@settings(deadline=None, max_examples=60)
@given(masks)
def test_every_form_of_rle_gives_the_mask_back(mask):
    rle = encode_rle(mask)
    np.testing.assert_array_equal(coco_mask.decode(rle), mask)
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(changes, prepend=0, append=flat.size)
    np.testing.assert_array_equal(compressed_counts(rle["counts"]), counts)
    for form in (rle, {"size": list(mask.shape), "counts": counts.tolist()}):
        np.testing.assert_array_equal(drawn(form, *mask.shape), mask)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_polygons_are_drawn_as_pycocotools_does(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 90, 2))
    polygons = [rng.uniform(-3, max(height, width), 2 * rng.integers(3, 9)).round(2) for _ in range(rng.integers(1, 4))]
    polygons.append(np.array([0, 0, width / 2, 0, width / 2, height / 2]))
    rle = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width))
    mask = drawn([polygon.tolist() for polygon in polygons], height, width)
    assert mask.shape == (height, width) and mask.dtype == bool and mask.flags.c_contiguous
    np.testing.assert_array_equal(mask, coco_mask.decode(rle) > 0)


def test_only_the_columns_of_an_instance_are_drawn():
    image = CocoImage(1, "one.jpg", 20, 30, ())
    columns, inside = rasterise_columns(CocoInstance(7, 0, (np.array(SQUARE[0], float),)), image, "instances.json")
    assert columns == slice(1, 10) and inside.shape == (20, 9) and inside[1:10].all() and inside.sum() == 81
    rows, cols = draw_polygon([1, 1, 9, 9], [1, 9, 9, 1])
    assert sorted(zip(rows, cols, strict=True)) == sorted(zip(*np.nonzero(drawn(SQUARE)), strict=True))
    columns, inside = rasterise_columns(CocoInstance(7, 0, {"size": [20, 30], "counts": [600]}), image, "x")
    assert columns == slice(0, 0) and inside.shape == (20, 0)
    assert drawn({"size": [20, 30], "counts": [0, 600]}).all()


def test_a_polygon_that_reaches_over_the_border_is_clipped():
    mask = drawn([[25, 5, 33, 5, 33, 15, 25, 15]])
    assert mask[5:15, 25:].all() and mask.sum() == 50


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        (
            [40, 5, 50, 5, 50, 15],
            r"annotation 7 of one\.jpg lies outside its image: x 40\.\.50, y 5\.\.15, in an image",
        ),
        ([5, 20, 10, 20, 10, 30], "lies outside its image"),
        ([-9, 5, 0, 5, -1, 15], "lies outside its image"),
        ([5, 5, 10, 5, 1e9, 15], "lies far outside its image"),
        ([5, 5, float("nan"), 5, 10, 15], "no finite number"),
        ([5, 5, float("inf"), 5, 10, 15], "no finite number"),
    ],
)
def test_polygons_that_cannot_belong_to_the_image(polygon, message):
    with pytest.raises(DatasetError, match=message):
        drawn([polygon])


GOOD = encode_rle(np.arange(600).reshape(20, 30) % 7 < 3)["counts"]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [20, 31], "counts": [620]}, r"is 20×31 \(height × width\), but the image 20×30"),
        ({"size": [20, 30], "counts": [10, 20]}, "its runs add up to 30 pixels, not 600"),
        ({"size": [20, 30], "counts": [-1, 601]}, "damaged RLE"),
        ({"size": [20, 30], "counts": ["a"]}, "damaged RLE"),
        ({"size": [20, 30], "counts": [[100, 500]]}, "damaged RLE: its counts are nested lists"),
        ({"size": [20, 30], "counts": [100, [500]]}, "damaged RLE"),
        ({"size": [20, 30], "counts": []}, "add up to 0 pixels"),
        ({"size": [20, 30], "counts": GOOD[:-2]}, "damaged RLE"),
        ({"size": [20, 30], "counts": GOOD + "9"}, "damaged RLE"),
        ({"size": [20, 30], "counts": ""}, "add up to 0 pixels"),
        ({"size": [20, 30], "counts": "ab\x01"}, "damaged RLE: a damaged string"),
        ({"size": [20, 30], "counts": "ä"}, "damaged RLE"),
        ({"size": [20, 30], "counts": "o" * 12 + "0"}, "more than 32 bits"),
    ],
)
def test_damaged_rle(rle, message):
    with pytest.raises(DatasetError, match=message):
        drawn(rle)


def test_images_come_by_id_and_annotations_in_file_order(file):
    images = [IMAGE | {"id": 9, "file_name": "nine.jpg"}, IMAGE]
    read = read_coco(file([entry(id=5), entry(id=3), entry(id=4, image_id=9, category_id=2)], images), 3)
    assert [(i.id, [a.id for a in i.instances]) for i in read.images] == [(1, [5, 3]), (9, [4])]
    assert read.instances == 3 and not any(read.dropped.values())
    assert (read.images[0].file_name, read.images[0].height, read.images[0].width) == ("one.jpg", 20, 30)


def test_broken_polygons_are_dropped_and_counted(file):
    annotations = [
        entry(id=1, segmentation=[*SQUARE, [1, 1, 2, 2], [1, 1, 2, 2, 3, 3, 4]]),
        entry(id=2, segmentation=[[1, 1, 2, 2]]),
        entry(id=3, segmentation=[]),
        {"id": 4, "image_id": 1, "category_id": 0},
        entry(id=5, segmentation={"size": [20, 30], "counts": [600]}),
    ]
    read = read_coco(file(annotations), 1)
    assert [a.id for a in read.images[0].instances] == [1, 5]
    assert len(read.images[0].instances[0].segmentation) == 1
    assert read.dropped == {BAD_POLYGON: 3, NO_POLYGON: 2, NO_SEGMENTATION: 1}


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([entry(), entry()], [IMAGE], "two annotations have the id 1"),
        ([entry(image_id=2)], [IMAGE], "annotation 1 is of image 2, which is not listed"),
        ([entry(category_id=44)], [IMAGE], r"annotation 1 has category_id 44; ids are 0\.\.43"),
        ([entry(category_id=-1)], [IMAGE], "category_id -1, which should be a whole number from 0"),
        ([entry(category_id="1")], [IMAGE], "category_id '1', which"),
        ([entry(id=None)], [IMAGE], "entry 0 of annotations has id None"),
        ([entry(id=True)], [IMAGE], "has id True"),
        ([entry(ignore=1)], [IMAGE], "annotation 1 has 'ignore' set"),
        ([entry(segmentation="x")], [IMAGE], "neither polygons nor an RLE"),
        ([entry(segmentation=[1, 2, 3, 4, 5, 6])], [IMAGE], "neither polygons nor an RLE"),
        ([entry(segmentation={"counts": [600]})], [IMAGE], "neither polygons nor an RLE"),
        ([entry(segmentation=[["a", "b", "c", "d", "e", "f"]])], [IMAGE], "no flat list of numbers"),
        ([entry(segmentation=[[[1, 2], [3, 4], [5, 6], [7, 8], [9, 8], [7, 6]]])], [IMAGE], "no flat list of numbers"),
        ([entry(segmentation=[[1, 2, 3, 4, 5, [6]]])], [IMAGE], "no flat list of numbers"),
        ([], [IMAGE, IMAGE], "two images have the id 1"),
        ([], [IMAGE, IMAGE | {"id": 2}], r"one\.jpg is listed more than once"),
        ([], [IMAGE | {"height": 0}], "height 0, which should be a whole number from 1"),
        ([], [{"id": 1, "height": 1, "width": 1}], "entry 0 of images has the file_name None"),
        ([], [IMAGE | {"file_name": "../../etc/x.jpg"}], "has the file_name '../../etc"),
        ([3], [IMAGE], "holds no list of annotations in the format of COCO"),
    ],
)
def test_wrong_files_are_errors_that_say_what(file, annotations, images, message):
    path = file(annotations, images)
    with pytest.raises(DatasetError, match=rf"instances\.json: .*{message}"):
        read_coco(path, 44)


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"images": []}', '{"images": {}, "annotations": []}', "\xff"])
def test_a_file_that_is_something_else(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"instances\.json: (is not readable JSON|holds no list of)"):
        read_coco(path, 44)
    with pytest.raises(DatasetError, match="no such file"):
        read_coco(tmp_path / "nothing.json", 44)
