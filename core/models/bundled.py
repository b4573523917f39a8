"""Find the models that come with the studio, by their names."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def assets_folder(package: Path = PACKAGE) -> Path:
    """Return the folder of the bundled models: inside an installed package, else beside it."""
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


ASSETS = assets_folder()
# name on the command line -> name on the page; the studio opens on the first
BUNDLED_MODELS = {"character-dit": "Character DiT", "fashion-dit": "Fashion DiT"}
BUNDLED = ASSETS / next(iter(BUNDLED_MODELS))
FASHION = ASSETS / "fashion-dit"  # grey and small: the model of the older studies and of the tests


def bundled_folder(model: str | Path) -> Path | None:
    """Return the folder of a bundled model named by `model`, None for anything else.

    A name comes before a folder of the same name where the studio is started.
    """
    return ASSETS / model if isinstance(model, str) and model in BUNDLED_MODELS else None


def bundled_name(folder: Path | None) -> str | None:
    """Return the name of the bundled model that lies in `folder`, None for other folders."""
    if folder is None:
        return None
    here = folder.resolve()
    return next((name for name in BUNDLED_MODELS if here == (ASSETS / name).resolve()), None)
