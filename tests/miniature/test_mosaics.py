import torch

from ovparts_lib.miniature.miniclip import cell_means, mosaics


def test_every_cell_is_one_picture_reduced():
    pictures = torch.randint(256, (18, 3, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    joined = mosaics(pictures, 3)
    assert joined.shape == (2, 3, 12, 12) and joined.dtype == torch.uint8
    for number, picture in enumerate(pictures):
        mosaic, row, column = number // 9, number % 9 // 3, number % 3
        cell = joined[mosaic, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        for y in range(4):
            for x in range(4):
                mean = picture[:, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].double().mean((1, 2))
                assert (cell[:, y, x].double() - mean).abs().max() <= 0.5


def test_features_are_averaged_within_their_cell():
    features = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    means = cell_means(features, 2)
    assert means.shape == (8, 5)
    for number, mean in enumerate(means):
        mosaic, row, column = number // 4, number % 4 // 2, number % 2
        cell = features[mosaic, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        torch.testing.assert_close(mean, cell.mean((1, 2)))
