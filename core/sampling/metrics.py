"""Measure how far a picture is from the dense model's, and how good a set of pictures is.

Distance to dense: PSNR, SSIM (Wang et al. 2004) and latent MSE, per image pair. Quality of a set:
the Frechet distance (Heusel et al. 2017) between Gaussians fitted to features, and class accuracy,
both on a small feature network that ships with the model instead of Inception. Its numbers compare
configurations of *this* model; they are not comparable with FIDs measured on Inception features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import StudioError

MIN_IMAGES_FOR_FID = 200  # below this the 64 x 64 covariance is mostly noise, so no figure is shown


class FeatureNetwork(nn.Module):
    """A small CNN on square pictures in [-1, 1]: 64 features and class logits.

    channels, size: of the pictures it was trained on (1 x 32 x 32 or 3 x 64 x 64 in the bundled
    models); every stage of convolutions halves the size, down to 4 x 4.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 32,
        features: int = 64,
        channels: int = 1,
        size: int = 32,
    ):
        super().__init__()
        widths = [width, 2 * width] + [4 * width] * (size.bit_length() - 5)
        layers: list[nn.Module] = []
        previous = channels
        for wide in widths:
            layers += [
                nn.Conv2d(previous, wide, 3, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            previous = wide
        # (n, channels, size, size) -> (n, 64 * width)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.neck = nn.Linear(64 * width, features)
        self.head = nn.Linear(features, classes)
        self.channels, self.size = channels, size
        self.config = {
            "classes": classes,
            "width": width,
            "features": features,
            "channels": channels,
            "size": size,
        }

    def features(self, images: Tensor) -> Tensor:
        """Return features (n, 64) of pictures (n, channels, size, size) in [-1, 1]."""
        return self.neck(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (n, classes) of pictures (n, channels, size, size) in [-1, 1]."""
        return self.head(F.relu(self.features(images)))


@dataclass(frozen=True)
class ReferenceStatistics:
    """The feature statistics of real pictures, which every FID compares with."""

    mean: Tensor  # (features,)
    covariance: Tensor  # (features, features)
    class_variance: Tensor  # (classes,) mean feature variance inside each class
    n: int


@dataclass(frozen=True)
class Judge:
    """A feature network with the statistics of the real pictures it is compared with."""

    network: FeatureNetwork
    reference: ReferenceStatistics

    @classmethod
    def load(cls, folder: Path | str) -> Judge:
        """Read `feature_network.safetensors` and `reference.safetensors` from `folder`.

        Raises StudioError when a file is missing or does not fit.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text())
            network = FeatureNetwork(**config["network"])
            network.load_state_dict(load_file(folder / "feature_network.safetensors"))
            stats = load_file(folder / "reference.safetensors")
            reference = ReferenceStatistics(
                stats["mean"], stats["covariance"], stats["class_variance"], int(stats["n"])
            )
        except Exception as err:  # safetensors, json and torch each raise their own kind
            raise StudioError(
                f"The feature network in {folder.name}/ cannot be read ({type(err).__name__})."
                " Restore the folder from the repository."
            ) from err
        return cls(network.eval().requires_grad_(False), reference)

    def save(self, folder: Path | str) -> None:
        """Write the network and its reference statistics as safetensors plus a readable config."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous() for k, v in self.network.state_dict().items()},
            folder / "feature_network.safetensors",
        )
        r = self.reference
        save_file(
            {
                "mean": r.mean,
                "covariance": r.covariance,
                "class_variance": r.class_variance,
                "n": torch.tensor(r.n),
            },
            folder / "reference.safetensors",
        )
        (folder / "config.json").write_text(
            json.dumps({"network": self.network.config}, indent=2) + "\n"
        )

    @torch.inference_mode()
    def look(self, images: Tensor, batch: int = 500) -> tuple[Tensor, Tensor]:
        """Return features (n, 64) and predicted classes (n,) of pictures in [-1, 1]."""
        feats = torch.cat(
            [self.network.features(part) for part in images.float().cpu().split(batch)]
        )
        return feats, self.network.head(F.relu(feats)).argmax(1)

    def knows(self, images: Tensor) -> bool:
        """Say whether pictures (n, c, h, w) are of the kind that the network was trained on."""
        return tuple(images.shape[1:]) == (
            self.network.channels,
            self.network.size,
            self.network.size,
        )

    def fid(self, images: Tensor) -> float | None:
        """Return the Frechet distance of `images` to the reference, None for fewer than 200."""
        if len(images) < MIN_IMAGES_FOR_FID:
            return None
        return self._distance(self.look(images)[0])

    def class_accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of pictures that the feature network puts into their own class."""
        return _share_right(self.look(images)[1], labels)

    def variance_ratio(self, images: Tensor, labels: Tensor) -> float:
        """Return the mean over classes of feature variance of pictures / of real pictures.

        1 is ideal; 0 is a collapse of every class to one picture.
        """
        return self._variance_ratio(self.look(images)[0], labels)

    def scores(self, images: Tensor, labels: Tensor) -> dict[str, float | None]:
        """Return `fid`, `class_accuracy` and `variance_ratio` of pictures, looked at once."""
        features, found = self.look(images)
        return {
            "fid": None if len(images) < MIN_IMAGES_FOR_FID else self._distance(features),
            "class_accuracy": _share_right(found, labels),
            "variance_ratio": self._variance_ratio(features, labels),
        }

    def _distance(self, features: Tensor) -> float:
        """Return the Frechet distance of features (n, 64) to the reference."""
        mean, covariance = gaussian(features)
        return frechet_distance(mean, covariance, self.reference.mean, self.reference.covariance)

    def _variance_ratio(self, features: Tensor, labels: Tensor) -> float:
        """Return `variance_ratio` from features (n, 64)."""
        mine = class_variance(features, labels.cpu(), len(self.reference.class_variance))
        return float((mine / self.reference.class_variance).mean())


def _share_right(found: Tensor, labels: Tensor) -> float:
    """Return the share of classes (n,) that are the ones asked for."""
    return float((found == labels.cpu()).float().mean())


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d), fp64, of features (n, d)."""
    features = features.double()
    return features.mean(0), torch.cov(features.T)


def class_variance(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the feature variance inside each class, averaged over dimensions: (classes,)."""
    return torch.stack([features[labels == c].double().var(0).mean() for c in range(classes)])


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return ||mu_a - mu_b||^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) in fp64, the symmetric form.

    Heusel et al. 2017, eq. 6.
    """
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    return float(
        (mean_a.double() - mean_b.double()).square().sum()
        + cov_a.double().trace()
        + cov_b.double().trace()
        - 2 * cross
    )


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal to noise ratio (n,) in dB of picture pairs (n, c, h, w) in [-1, 1].

    The peak is 2, from -1 to 1; equal pictures have inf.
    """
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (n,) of picture pairs (n, c, h, w) in [-1, 1].

    Wang et al. 2004: 11 x 11 Gaussian, sigma 1.5, K 0.01/0.03. On intensities from 0 to 1: its
    luminance term compares means that must not be negative (a picture would resemble its own
    negative).
    """
    _n, c = a.shape[:2]
    x = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-x.square() / (2 * 1.5**2))
    column = (g / g.sum()).view(1, 1, 11, 1).expand(c, 1, 11, 1)
    row = column.transpose(2, 3)

    def smooth(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, column, groups=c), row, groups=c)

    a, b = (a.double().cpu() + 1) / 2, (b.double().cpu() + 1) / 2
    mu_a, mu_b = smooth(a), smooth(b)
    var_a = smooth(a * a) - mu_a**2
    var_b = smooth(b * b) - mu_b**2
    cov = smooth(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
    below = (mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)
    return (above / below).flatten(1).mean(1)


def latent_mse(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference (n,) of final latents (n, c, h, w).

    Latents have unit variance, so 2 means unrelated.
    """
    return (a.double() - b.double()).square().flatten(1).mean(1)
