"""A folder of pictures for calibration: where labels are looked up, what the pixels become, and what is refused in one sentence."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import StudioError
from core.picture_folder import Picture, caption_of, class_of, list_pictures, read_picture

NAMES = {"Trouser": 1, "Sneaker": 7}


def paint(path: Path, colour: object = 100, mode: str = "L", size: tuple[int, int] = (8, 8), **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **more)
    return path


def shown(folder: Path) -> dict[str, object]:
    return {p.name: p.shows for p in list_pictures(folder, 100)}


def picture(path: Path) -> Picture:
    return Picture(path, path.name, "x")


def classes(folder: Path) -> list[int]:
    return [class_of(p, NAMES, 10) for p in list_pictures(folder, 100)]


# ------------------------------------------------------------ what a picture shows


def test_subfolders_are_classes_by_number_or_name(tmp_path):
    for name in ("7/a.png", "7/B.JPG", "trouser/c.webp", "trouser/._c.png", "trouser/notes.md"):
        if name.endswith("md") or "._" in name:
            (tmp_path / name).write_text("not a picture")
        else:
            paint(tmp_path / name)
    assert shown(tmp_path) == {"7/B.JPG": "7", "7/a.png": "7", "trouser/c.webp": "trouser"}
    assert classes(tmp_path) == [7, 7, 1]


@pytest.mark.parametrize("header", ["", "file,label\n"])
def test_csv(tmp_path, header):
    for name in ("a.png", "b.png", "in/c.png"):
        paint(tmp_path / name)
    (tmp_path / "labels.csv").write_text("\ufeff" + header + 'a.png,3\n\n./b.png, Sneaker \nin\\c.png,"a cat, asleep"\nnot-there.png,9\n', encoding="utf-8")
    assert shown(tmp_path) == {"a.png": "3", "b.png": "Sneaker", "in/c.png": "a cat, asleep"}


def test_json_by_path_or_bare_name(tmp_path):
    for name in ("a.png", "in/b.png"):
        paint(tmp_path / name)
    (tmp_path / "labels.json").write_text(json.dumps({"a.png": 3, "b.png": " Sneaker"}))
    assert classes(tmp_path) == [3, 7]


def test_captions_beside_the_pictures(tmp_path):
    for name in ("a", "in/b"):
        paint(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a painting of {name}\n")
    found = list_pictures(tmp_path, 100)
    assert [caption_of(p) for p in found] == ["a painting of a", "a painting of in/b"]


def test_a_part_of_many_is_drawn_by_seed(tmp_path):
    for i in range(20):
        paint(tmp_path / "1" / f"{i:02d}.png")
    first, again, other = (list_pictures(tmp_path, 6, seed) for seed in (0, 0, 1))
    assert first == again and first != other and len({p.name for p in first}) == 6
    assert [p.name for p in first] == sorted(p.name for p in first)


@pytest.mark.parametrize(("files", "match"), [
    ({}, "holds no pictures"),
    ({"labels.csv": "a.png,1"}, "holds no pictures"),
    ({"a.png": None}, "Nothing says what a.png shows"),
    ({"a.png": None, "b.png": None, "a.txt": "a cat"}, "Nothing says what b.png shows"),
    ({"a.png": None, "a.txt": " \n"}, "Nothing says what a.png shows"),
    ({"1/a.png": None, "labels.csv": "b.png,1"}, "Nothing says what 1/a.png shows"),
    ({"a.png": None, "labels.csv": "a.png,a cat, asleep"}, "Line 1 of labels.csv has 3 columns"),
    ({"a.png": None, "labels.csv": "file,label\na.png"}, "Line 2 of labels.csv has 1 columns"),
    ({"a.png": None, "labels.json": "{"}, "labels.json cannot be read"),
    ({"a.png": None, "labels.json": '{"a.png": [1]}'}, "must be one object"),
    ({"a.png": None, "labels.json": '{"a.png": true}'}, "must be one object"),
    ({"a.png": None, "labels.json": "{}", "labels.csv": ""}, "keep one of them"),
    ({"a.png": None, "labels.csv": b"a.png,\xff"}, "save it as UTF-8"),
])  # fmt: skip
def test_folders_that_cannot_serve(tmp_path, files, match):
    for name, text in files.items():
        if text is None:
            paint(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudioError, match=match):
        list_pictures(tmp_path, 100)


@pytest.mark.parametrize(("shows", "match"), [
    ("10", "a.png is labelled class 10; this model's classes are whole numbers from 0 to 9"), (-1, "class -1"), ("-1", "class -1"),
    ("boot", "'boot', which is neither"), ("9" * 5000, "neither a class number"), ("²", "neither a class number"),
])  # fmt: skip
def test_labels_that_the_model_does_not_know(shows, match):
    with pytest.raises(StudioError, match=match):
        class_of(Picture(Path("a.png"), "a.png", shows), NAMES, 10)


@pytest.mark.parametrize("shows", [3, "3"])
def test_a_number_is_no_caption(shows):
    with pytest.raises(StudioError, match="a.png is labelled 3; this model is asked in words"):
        caption_of(Picture(Path("a.png"), "a.png", shows))


# ------------------------------------------------------------ pixels


def test_pixels_of_the_right_size_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_picture(picture(tmp_path / "a.png"), 8, 3)
    assert found.dtype == torch.float32 and torch.equal(found, torch.from_numpy(values).permute(2, 0, 1).float() / 127.5 - 1)
    grey = read_picture(picture(tmp_path / "a.png"), 8, 1)
    assert torch.equal(grey[0], torch.from_numpy(np.array(Image.fromarray(values).convert("L"))).float() / 127.5 - 1)


@pytest.mark.parametrize("wide", [True, False])
def test_the_shorter_side_fits_and_the_centre_is_kept(tmp_path, wide):
    """A picture twice as long as wide, its middle half one colour: nothing but that colour is left."""
    values = np.zeros((40, 80), np.uint8)
    values[:, 20:60] = 200
    Image.fromarray(values if wide else values.T.copy()).save(tmp_path / "a.png")
    found = read_picture(picture(tmp_path / "a.png"), 40, 1)
    assert torch.equal(found, torch.full((1, 40, 40), 200 / 127.5 - 1))
    small = read_picture(picture(tmp_path / "a.png"), 10, 1)[0, 2:-2, 2:-2]
    assert torch.equal(small, torch.full_like(small, 200 / 127.5 - 1))


def test_turned_by_its_exif_data(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[0] = 255  # a white line on top
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    found = read_picture(picture(tmp_path / "a.png"), 8, 1)[0]
    assert (found[:, -1] == 1).all() and (found[:, :-1] == -1).all()


@pytest.mark.parametrize(("mode", "colour", "grey"), [
    ("RGBA", (0, 0, 0, 0), 255), ("RGBA", (10, 10, 10, 255), 10), ("LA", (0, 0), 255), ("I;16", 257 * 90, 90), ("1", 1, 255), ("P", 0, 0),
])  # fmt: skip
def test_modes_become_grey_on_white(tmp_path, mode, colour, grey):
    found = read_picture(picture(paint(tmp_path / "a.png", colour, mode)), 8, 1)
    assert torch.allclose(found, torch.full((1, 8, 8), grey / 127.5 - 1), atol=1e-6)
    assert torch.equal(read_picture(picture(tmp_path / "a.png"), 8, 3), found.expand(3, 8, 8))


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_other_formats(tmp_path, kind):
    found = read_picture(picture(paint(tmp_path / f"a.{kind}", 128, size=(16, 8))), 8, 3)
    assert (found - (128 / 127.5 - 1)).abs().max() <= 2 / 127.5


def test_unreadable_pictures_are_named(tmp_path):
    whole = paint(tmp_path / "a.png", (1, 2, 3), "RGB", (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    paint(tmp_path / "really.gif")
    (tmp_path / "really.gif").rename(tmp_path / "gif.png")
    for name in ("cut.png", "text.jpg", "gif.png", "gone.png"):
        with pytest.raises(StudioError, match=f"The picture {name} cannot be read"):
            read_picture(picture(tmp_path / name), 8, 3)


@pytest.mark.parametrize("side", [8300, 30_000])
def test_a_small_file_that_unpacks_to_too_much(tmp_path, side):
    """Only the header says so; nothing may be unpacked to find out."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    (tmp_path / "bomb.png").write_bytes(data + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat)))
    with pytest.raises(StudioError, match="bomb.png has more than 67 million pixels"):
        read_picture(picture(tmp_path / "bomb.png"), 8, 1)
