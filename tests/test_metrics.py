"""Metrics against closed forms and identities."""

from __future__ import annotations

import math

import pytest
import torch
from judges import noise_pictures as pictures
from judges import random_judge

from core.errors import StudioError
from core.sampling.metrics import (
    MIN_IMAGES_FOR_FID,
    Judge,
    frechet_distance,
    gaussian,
    latent_mse,
    psnr,
    ssim,
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return random_judge()


# ------------------------------------------------------------ Frechet distance


def test_frechet_distance_of_diagonal_gaussians():
    """|mu_a - mu_b|^2 + sum (sqrt a - sqrt b)^2."""
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.25])
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 1.0, 0.0])
    expected = 9 + 4 + (1 - 2) ** 2 + (2 - 1) ** 2 + (3 - 0.5) ** 2
    assert frechet_distance(mean_a, a.diag(), mean_b, b.diag()) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_rotated_gaussians_and_its_symmetry():
    random = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(5, 5, generator=random, dtype=torch.float64))[0]
    a, b = (
        torch.rand(5, generator=random, dtype=torch.float64),
        torch.rand(5, generator=random, dtype=torch.float64),
    )
    zero = torch.zeros(5)
    turned = frechet_distance(zero, q @ a.diag() @ q.T, zero, q @ b.diag() @ q.T)
    assert turned == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)
    other = torch.randn(5, 9, generator=random, dtype=torch.float64)
    other = other @ other.T
    assert frechet_distance(zero, other, zero, a.diag()) == pytest.approx(
        frechet_distance(zero, a.diag(), zero, other), rel=1e-9
    )


def test_frechet_distance_takes_singular_covariances():
    low_rank = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert frechet_distance(torch.zeros(2), low_rank, torch.zeros(2), low_rank) == pytest.approx(
        0, abs=1e-6
    )
    assert frechet_distance(
        torch.zeros(2), low_rank, torch.zeros(2), torch.zeros(2, 2)
    ) == pytest.approx(2)


def test_gaussian_is_the_unbiased_fit():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    mean, covariance = gaussian(features)
    centred = features.double() - features.double().mean(0)
    assert torch.allclose(mean, features.double().mean(0)) and torch.allclose(
        covariance, centred.T @ centred / 49
    )


# ------------------------------------------------------------ the judge


def test_fid_of_the_same_set_is_zero_and_of_another_is_not(judge):
    assert judge.fid(pictures(300)) == pytest.approx(0, abs=1e-6)
    assert judge.fid(pictures(300) * 0.5 + 0.5) > 10 * abs(judge.fid(pictures(300, seed=1)))


def test_no_fid_from_few_pictures(judge):
    assert MIN_IMAGES_FOR_FID == 200
    assert judge.fid(pictures(199)) is None and judge.fid(pictures(200)) is not None


def test_class_accuracy_counts_hits(judge):
    predicted = judge.look(pictures(20))[1]
    assert judge.class_accuracy(pictures(20), predicted) == 1
    wrong = predicted.clone()
    wrong[:5] = (wrong[:5] + 1) % 10
    assert judge.class_accuracy(pictures(20), wrong) == pytest.approx(0.75)


def test_variance_ratio_is_one_for_the_real_set_and_zero_for_collapse(judge):
    labels = torch.arange(300) % 10
    assert judge.variance_ratio(pictures(300), labels) == pytest.approx(1, rel=1e-5)
    collapsed = pictures(300)[:10][labels]  # one picture per class
    assert judge.variance_ratio(collapsed, labels) == pytest.approx(0, abs=1e-6)


def test_all_scores_at_one_look(judge):
    labels, images = torch.arange(300) % 10, pictures(300, 4)
    looks, look = [], judge.network.features
    judge.network.features = lambda part: looks.append(len(part)) or look(part)
    try:
        found = judge.scores(images, labels)
    finally:
        del judge.network.features
    assert looks == [300]
    assert found["fid"] == judge.fid(images)
    assert found["class_accuracy"] == judge.class_accuracy(images, labels)
    assert found["variance_ratio"] == judge.variance_ratio(images, labels)
    assert judge.scores(images[:199], labels[:199])["fid"] is None


def test_a_judge_there_and_back(judge, tmp_path):
    judge.save(tmp_path)
    back = Judge.load(tmp_path)
    assert (
        back.fid(pictures(200, 3)) == pytest.approx(judge.fid(pictures(200, 3)), rel=1e-6)
        and back.reference.n == 300
    )
    assert not any(p.requires_grad for p in back.network.parameters())
    (tmp_path / "reference.safetensors").write_bytes(b"broken")
    with pytest.raises(StudioError, match="Restore the folder"):
        Judge.load(tmp_path)


# ------------------------------------------------------------ pairs


def test_psnr_known_values():
    a = pictures(3)
    assert torch.isinf(psnr(a, a)).all()
    b = torch.zeros(2, 1, 32, 32)
    # 10 log10(4 / 0.04), 4 / 4
    assert psnr(b, b + torch.tensor([0.2, 2.0]).view(2, 1, 1, 1)).tolist() == pytest.approx(
        [20.0, 0.0], abs=1e-5
    )


def test_ssim_identities():
    a, b = pictures(4), pictures(4, seed=9)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 4)
    assert torch.allclose(ssim(a, b), ssim(b, a)) and (ssim(a, b).abs() < 0.2).all()
    assert (ssim(a, -a) < 0).all()  # a picture and its negative are opposites


def test_ssim_of_flat_pictures_is_its_luminance_term():
    # intensities 0.75 and 0.25
    a, b = torch.full((1, 1, 32, 32), 0.5), torch.full((1, 1, 32, 32), -0.5)
    c1 = 0.01**2
    assert ssim(a, b).item() == pytest.approx(
        (2 * 0.75 * 0.25 + c1) / (0.75**2 + 0.25**2 + c1), rel=1e-9
    )


def test_ssim_against_a_direct_window():
    """The one window of an 11 x 11 picture, worked out by hand."""
    a, b = (
        torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        for s in (0, 1)
    )
    w = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)]
    w = torch.tensor(w, dtype=torch.float64)
    w /= w.sum()
    x, y = (a[0, 0] + 1) / 2, (b[0, 0] + 1) / 2
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (
        (w * (x - mx) ** 2).sum(),
        (w * (y - my) ** 2).sum(),
        (w * (x - mx) * (y - my)).sum(),
    )
    c1, c2 = 0.01**2, 0.03**2
    assert ssim(a, b).item() == pytest.approx(
        float((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))),
        rel=1e-9,
    )


def test_colour_pictures_count_each_channel():
    a, b = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    by_channel = torch.stack([ssim(a[:, i : i + 1], b[:, i : i + 1]) for i in range(3)]).mean(0)
    assert torch.allclose(ssim(a, b), by_channel)


def test_latent_mse():
    a = torch.zeros(2, 4, 8, 8)
    assert latent_mse(a, a + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).tolist() == [1.0, 9.0]
