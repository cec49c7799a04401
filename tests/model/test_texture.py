from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.transform import hough_line

from rsiccllm.model.texture import (
    Hough,
    kernels,
    line_angles,
    line_bins,
    line_texture,
    mean_texture,
    responses,
    texture_difference,
)

CPU = torch.device("cpu")
PATCH = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0], [8.0, 9.0, 13.0]], dtype=torch.float64)


def centre(patch: torch.Tensor) -> torch.Tensor:
    return responses(patch[None])[0, :, 1, 1]


def test_kernels_on_a_patch_by_hand() -> None:
    expected = [
        47 / 8 - 5,  # all around
        (1 + 4 + 8) / 3 - 5,  # left
        (3 + 7 + 13) / 3 - 5,  # right
        (1 + 4 + 8 + 3 + 7 + 13) / 6 - 5,  # both sides
        (1 + 2 + 3) / 3 - 5,  # top
        (8 + 9 + 13) / 3 - 5,  # bottom
        (1 + 2 + 3 + 8 + 9 + 13) / 6 - 5,  # both ends
        52 / 9,  # the plain mean
    ]
    torch.testing.assert_close(centre(PATCH), torch.tensor(expected, dtype=torch.float64))


def test_light_changes_the_responses_as_the_formula_says() -> None:
    image = torch.rand(1, 9, 11, dtype=torch.float64)
    plain, offset, gain = responses(image), responses(image + 0.3), responses(1.7 * image)
    torch.testing.assert_close(offset[:, :7], plain[:, :7])
    torch.testing.assert_close(offset[:, 7], plain[:, 7] + 0.3)
    torch.testing.assert_close(gain, 1.7 * plain)
    assert not responses(torch.full((1, 5, 5), 0.4, dtype=torch.float64))[:, :7].abs().gt(1e-15).any()


def test_directions_turn_with_the_image() -> None:
    image = torch.rand(1, 8, 8, dtype=torch.float64)
    mirrored = responses(image.flip(2)).flip(3)
    plain = responses(image)
    for one, other in ((1, 2), (2, 1), (0, 0), (3, 3), (4, 4), (5, 5), (6, 6)):
        torch.testing.assert_close(mirrored[:, one], plain[:, other])
    turned = responses(image.transpose(1, 2)).transpose(2, 3)
    for one, other in ((1, 4), (2, 5), (3, 6)):
        torch.testing.assert_close(turned[:, one], plain[:, other])
    assert kernels().shape == (8, 3, 3)


@pytest.mark.parametrize("size", [(64, 64), (37, 90)])
def test_votes_equal_scikit_image(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.random(size) > 0.8
    angles = line_angles(45)
    expected, _, distances = hough_line(image, theta=angles.numpy())  # [bins, angles]
    found = Hough(*size, 45, CPU, torch.float64).vote(torch.from_numpy(image).double()[None])[0].T.numpy()
    assert found.shape == expected.shape
    assert distances[found.shape[0] // 2] == 0
    np.testing.assert_array_equal(found, expected)
    single = line_bins(*size, angles.float())
    assert (single == line_bins(*size, angles)).double().mean() > 0.999


def test_a_line_by_hand() -> None:
    # Three pixels of the column x = 2: at angle 0 (the normal points right) all vote for rho = 2.
    image = torch.zeros(1, 3, 4, dtype=torch.float64)
    image[0, :, 2] = 1
    lines = Hough(3, 4, 2, CPU, torch.float64)  # angles -90 and 0 degrees; bins -5 to 5
    votes = lines.vote(image)[0]
    assert votes[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]
    assert votes[0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    back = lines.project(votes[None])[0]
    assert back.tolist() == [[1, 1, 4, 1]] * 3


def test_the_inverse_is_the_exact_adjoint() -> None:
    torch.manual_seed(0)
    lines = Hough(20, 31, 24, CPU, torch.float64)
    maps, accumulators = torch.randn(3, 20, 31).double(), torch.randn(3, *lines.shape).double()
    left = (lines.vote(maps) * accumulators).sum()
    right = (maps * lines.project(accumulators)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


def test_difference_by_hand_and_its_size() -> None:
    first = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
    second = torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1)
    assert texture_difference(first, second, eps=0).flatten().tolist() == [0.25, -0.25]
    assert texture_difference(first, second, "image", eps=0).flatten().tolist() == [0.5, -0.5]
    torch.manual_seed(0)
    grey = torch.rand(2, 256, 256)
    one, two = line_texture(grey, 16, 1).split(1)
    per_image, per_place = (texture_difference(one, two, norm).abs().mean() for norm in ("image", "kernels"))
    assert per_image < 1e-5  # the softmax over such numbers is flat; hence the other norm
    assert per_place > 100 * per_image


def test_each_image_votes_alone_and_light_cancels() -> None:
    torch.manual_seed(0)
    grey = torch.rand(3, 28, 56)
    together = line_texture(grey, 12, 4)
    assert together.shape == (3, 8, 7, 14)
    torch.testing.assert_close(together[1:2], line_texture(grey[1:2], 12, 4))
    darker = line_texture(0.6 * grey + 0.1, 12, 4)
    torch.testing.assert_close(darker[:, :7], 0.6 * together[:, :7], atol=1e-5, rtol=1e-4)
    assert mean_texture(grey, 4).shape == (3, 1, 7, 14)
