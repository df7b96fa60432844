import numpy as np
import pandas as pd
import pytest
import torch

from ovparts_lib.inspection import class_colours, comparison, label_grid, overlay, render_overlay
from ovparts_lib.inspection.overlays import comparison_table, render_error
from ovparts_lib.inspection.palette import RIGHT, WRONG
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary

TOY = PartVocabulary("toy", ("cat's head", "cat's tail", "dog's head"), ("cat", "dog"))
IGNORE = TOY.ignore_label


def picture(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def quarters(height=40, width=60):
    """cat's tail on the upper half, dog's head lower left, nothing lower right."""
    labels = np.full((height, width), IGNORE, np.int64)
    labels[: height // 2] = 1
    labels[height // 2 :, : width // 2] = 2
    return labels


def legend_words(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_colours_are_mixed_by_the_formula_and_unlabelled_pixels_are_untouched():
    image, labels, colours = picture(), quarters(), class_colours(TOY)
    painted = render_overlay(image, labels, colours, opacity=0.6)
    for y, x in ((5, 5), (35, 10)):
        expected = 0.4 * image[y, x] + 0.6 * colours[labels[y, x]]
        np.testing.assert_allclose(painted[y, x], expected, atol=0.51)
    np.testing.assert_array_equal(painted[30:, 40:], image[30:, 40:])
    assert painted.dtype == np.uint8


def test_regions_are_outlined_between_and_nowhere_else():
    image, labels = np.zeros((40, 60, 3), np.uint8), quarters()
    painted = render_overlay(image, labels, class_colours(TOY))
    white = (painted == 255).all(axis=2)
    assert white[19:21, :].any(axis=0).all()
    assert not white[:17].any()
    assert not white[24:, :27].any()
    assert not (render_overlay(image, labels, class_colours(TOY), boundaries=False) == 255).all(axis=2).any()


def test_speckle_is_not_buried_under_its_outlines():
    labels = np.random.default_rng(0).integers(0, 3, (40, 60))
    painted = render_overlay(np.zeros((40, 60, 3), np.uint8), labels, class_colours(TOY))
    assert not (painted == 255).all(axis=2).any()


def test_a_tensor_as_read_and_an_array_give_the_same_picture():
    image, labels = picture(), quarters()
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    one = render_overlay(tensor, torch.from_numpy(labels), class_colours(TOY))
    np.testing.assert_array_equal(one, render_overlay(image, labels.astype(np.uint8), class_colours(TOY)))


def test_a_large_photograph_keeps_its_size_and_shows_its_lines():
    labels = np.zeros((1536, 2048), np.int64)
    labels[:, 1024:] = 1
    painted = render_overlay(np.zeros((1536, 2048, 3), np.uint8), labels, class_colours(TOY))
    assert painted.shape == (1536, 2048, 3)
    assert 4 <= (painted[700] == 255).all(axis=1).sum() <= 6  # visible when shown at a third of its size


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (picture().astype(np.float32), quarters(), "an image must be uint8"),
        (picture()[..., :1], quarters(), "an image must be uint8"),
        (picture(), quarters(20, 20), r"the label map is \(20, 20\), the picture \(40, 60\)"),
        (picture(), quarters().astype(float), "a label map must be integer"),
    ],
)
def test_wrong_pictures_are_named(image, labels, message):
    with pytest.raises(ValueError, match=message):
        render_overlay(image, labels, class_colours(TOY))


def test_the_legend_names_what_occurs_largest_first():
    panel = overlay(picture(), quarters(), TOY, "a picture")
    figure = panel.figure
    assert panel.table["pixels"].tolist() == [0, 1200, 600, 600]
    assert panel.table["word"].iloc[-1] == "none of them"
    assert legend_words(figure) == ["cat's tail", "dog's head"]
    assert titles(figure) == ["a picture"]
    swatch = figure.legends[0].legend_handles[0].get_facecolor()
    np.testing.assert_allclose(np.array(swatch[:3]) * 255, class_colours(TOY)[1], atol=0.51)


def test_the_legend_stands_beside_the_picture():
    figure = overlay(picture(), quarters(), TOY, "p").figure
    figure.canvas.draw()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert legend.x0 >= axes.x1 - 1
    assert legend.x1 <= figure.bbox.width + 1


def test_a_picture_of_nothing_has_no_legend():
    assert overlay(picture(), np.full((40, 60), IGNORE), TOY, "p").figure.legends == []


def test_long_legends_name_the_largest_and_count_the_rest():
    vocabulary = load_vocabulary("pascal_part_116")
    labels = np.repeat(np.arange(116), 30).reshape(60, 58)
    figure = overlay(picture(60, 58), labels, vocabulary, "p").figure
    words = legend_words(figure)
    assert len(words) == 49
    assert words[-1] == "and 68 smaller"
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.height <= figure.bbox.height + 1
    assert legend.width <= figure.bbox.width


def test_comparison_says_the_iou_of_the_picture():
    truth, guess = quarters(), quarters()
    guess[:10] = 0  # half of cat's tail is taken for cat's head
    guess[30:, 40:] = 1  # painted where nothing is labelled: not judged
    figure = comparison([picture()], [truth], [guess], TOY, ["p1"], "pred_all").figure
    assert titles(figure) == ["p1: ground truth", "prediction", "error, mean IoU 75.0 %"]
    assert legend_words(figure) == ["cat's tail", "dog's head", "cat's head", "right", "wrong", "no label"]
    nothing = np.full((40, 60), IGNORE)
    assert titles(comparison([picture()], [nothing], [guess], TOY, ["p1"], "pred_all").figure)[2] == "error, no labels"


def test_comparison_table_counts_pixels():
    truth, guess = quarters(), quarters()
    guess[:10] = 0
    guess[30:, 40:] = 1
    table = comparison_table(torch.from_numpy(truth), guess, TOY).set_index("part")
    assert list(table.loc["cat's tail", ["labelled", "predicted", "right", "IoU"]]) == [1200, 800, 600, 50.0]
    assert list(table.loc["dog's head"]) == [600, 600, 600, 100.0]
    assert pd.isna(table.loc["cat's head", "IoU"])


def test_right_is_green_wrong_is_red_and_unlabelled_is_grey():
    image, truth, guess = np.full((40, 60, 3), 128, np.uint8), quarters(), quarters()
    guess[:10] = 0
    shown = render_error(image, truth, guess, IGNORE).astype(float)

    def nearer(pixel, one, other):
        return np.linalg.norm(pixel - np.array(one)) < np.linalg.norm(pixel - np.array(other))

    assert nearer(shown[15, 5], RIGHT, WRONG)
    assert nearer(shown[35, 5], RIGHT, WRONG)
    assert nearer(shown[5, 5], WRONG, RIGHT)
    assert np.ptp(shown[35, 50]) <= 2


def test_grids_hold_every_picture_once():
    images = [picture(40, 60), picture(60, 40), picture(50, 50)]
    labels = [quarters(40, 60), quarters(60, 40), quarters(50, 50)]
    names = ["a", "b", "c"]
    panel = label_grid(images, labels, TOY, names, "val")
    grid = panel.figure
    assert panel.table["pixels"].tolist() == [1200, 600, 1200, 600, 1250, 625]
    assert [title for title in titles(grid) if title] == names
    assert legend_words(grid) == ["cat's tail", "dog's head"]
    rows = comparison(images, labels, labels, TOY, names, "oracle_obj").figure
    assert titles(rows)[::3] == ["a: ground truth", "b: ground truth", "c: ground truth"]
    assert titles(rows)[2::3] == ["error, mean IoU 100.0 %"] * 3


def test_noise_on_a_small_object_is_not_buried_under_its_outlines_and_other_lines_stay():
    labels = np.full((200, 300), IGNORE, np.int64)
    labels[:60, :60] = np.random.default_rng(0).integers(0, 3, (60, 60))  # 6 % of the picture
    labels[120:180, 150:250] = 1
    white = (render_overlay(np.zeros((200, 300, 3), np.uint8), labels, class_colours(TOY)) == 255).all(axis=2)
    assert white[5:55, 5:55].mean() < 0.02
    assert white[120:180, 149:152].any(axis=1).all()


def test_a_picture_three_pixels_wide_keeps_its_shape():
    column = torch.zeros(3, 50, 3, dtype=torch.uint8)
    assert render_overlay(column, np.zeros((50, 3), np.int64), class_colours(TOY)).shape == (50, 3, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1), (3, 4000), (4000, 3)])
def test_extreme_shapes_make_figures_of_sensible_size(height, width):
    image, labels = picture(height, width), np.zeros((height, width), np.int64)
    for panel in (
        overlay(image, labels, TOY, "p"),
        comparison([image], [labels], [labels], TOY, ["p"], "pred_all"),
        label_grid([image], [labels], TOY, ["p"], "val"),
    ):
        figure = panel.figure
        assert figure.get_figwidth() <= 12
        assert figure.get_figheight() <= 12
        figure.canvas.draw()


def test_a_figure_draws_no_more_pixels_of_a_large_photograph_than_it_shows():
    figure = overlay(np.zeros((4000, 6000, 3), np.uint8), np.zeros((4000, 6000), np.int64), TOY, "p").figure
    assert figure.axes[0].images[0].get_array().shape == (572, 858, 3)  # every seventh pixel


def test_long_words_leave_room_for_the_picture():
    words = [f"a very long description of part number {i}, as nobody would write it by hand" for i in range(17)]
    vocabulary = PartVocabulary.from_words(words)
    labels = np.repeat(np.arange(17), 20).reshape(17, 20).repeat(10, 0).repeat(10, 1)
    figure = overlay(picture(170, 200), labels, vocabulary, "p").figure
    figure.canvas.draw()
    axes, legend = figure.axes[0].get_window_extent(), figure.legends[0].get_window_extent()
    assert axes.width > 0.4 * figure.bbox.width
    assert axes.x1 <= legend.x0 + 1
    assert legend.x1 <= figure.bbox.width + 1
