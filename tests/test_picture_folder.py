"""A folder of pictures for calibration: labels, pixels, refusals in one sentence."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.calibration.picture_folder import (
    Picture,
    caption_of,
    class_of,
    list_pictures,
    read_folder,
    read_picture,
    readable,
)
from core.errors import StudioError

NAMES = {"Trouser": 1, "Sneaker": 7}


def paint(
    path: Path,
    colour: object = 100,
    mode: str = "L",
    size: tuple[int, int] = (8, 8),
    **more: object,
) -> Path:
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
    (tmp_path / "labels.csv").write_text(
        "\ufeff"
        + header
        + 'a.png,3\n\n./b.png, Sneaker \nin\\c.png,"a cat, asleep"\nnot-there.png,9\n',
        encoding="utf-8",
    )
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


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "holds no pictures"),
        ({"labels.csv": "a.png,1"}, "holds no pictures"),
        ({"a.png": None}, "Nothing says what a.png shows"),
        ({"a.png": None, "b.png": None, "a.txt": "a cat"}, "Nothing says what b.png shows"),
        ({"a.png": None, "a.txt": " \n"}, "Nothing says what a.png shows"),
        ({"1/a.png": None, "labels.csv": "b.png,1"}, "Nothing says what 1/a.png shows"),
        (
            {"a.png": None, "labels.csv": "a.png,a cat, asleep"},
            "Line 1 of labels.csv has 3 columns",
        ),
        ({"a.png": None, "labels.csv": "file,label\na.png"}, "Line 2 of labels.csv has 1 columns"),
        ({"a.png": None, "labels.json": "{"}, "labels.json cannot be read"),
        ({"a.png": None, "labels.json": '{"a.png": [1]}'}, "must be one object"),
        ({"a.png": None, "labels.json": '{"a.png": true}'}, "must be one object"),
        ({"a.png": None, "labels.json": "{}", "labels.csv": ""}, "keep one of them"),
        ({"a.png": None, "labels.csv": b"a.png,\xff"}, "save it as UTF-8"),
    ],
)
def test_folders_that_cannot_serve(tmp_path, files, match):
    for name, text in files.items():
        if text is None:
            paint(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudioError, match=match):
        list_pictures(tmp_path, 100)


@pytest.mark.parametrize(
    ("shows", "match"),
    [
        ("10", "a.png is labelled class 10; this model's classes are whole numbers from 0 to 9"),
        (-1, "class -1"),
        ("-1", "class -1"),
        ("boot", "'boot', which is neither"),
        ("9" * 5000, "neither a class number"),
        ("²", "neither a class number"),
    ],
)
def test_labels_that_the_model_does_not_know(shows, match):
    with pytest.raises(StudioError, match=match):
        class_of(Picture(Path("a.png"), "a.png", shows), NAMES, 10)


@pytest.mark.parametrize("shows", [3, "3"])
def test_a_number_is_no_caption(shows):
    with pytest.raises(StudioError, match="a.png is labelled 3; this model is asked in words"):
        caption_of(Picture(Path("a.png"), "a.png", shows))


# ------------------------------------------------------------ folders as people have them


def prompts(folder: Path) -> dict[str, str]:
    return {p.name: caption_of(p) for p in list_pictures(folder, 100)}


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def lay(folder: Path, files: dict[str, object]) -> Path:
    """Pictures where there is None, else texts."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            paint(folder / name, format="PNG")
        else:
            (folder / name).write_bytes(text if isinstance(text, bytes) else str(text).encode())
    return folder


@pytest.mark.parametrize(
    ("table", "content"),
    [
        (
            "train/metadata.jsonl",
            lines({"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "b, c"}),
        ),
        (
            "metadata.jsonl",
            lines(
                {"file_name": "train/0.png", "text": "a"},
                {"file_name": "./train/1.png", "text": "b, c"},
            ),
        ),
        (
            "metadata.jsonl",
            "\n"
            + lines({"width": 8, "caption": "a", "file_name": "train/0.png"})
            + "\r\n"
            + lines({"width": 8, "caption": "b, c", "file_name": "train\\1.png"}),
        ),
        (
            "metadata.jsonl",
            lines(
                {"file_name": "0.png", "w": 8, "blip": "a"},
                {"file_name": "1.png", "w": 8, "blip": "b, c"},
            ),
        ),
        ("train/metadata.csv", '\ufefffile_name,text\r\n0.png,a\r\n1.png,"b, c"\r\n'),
        ("metadata.csv", 'text,id,file_name\na,1,train/0.png\n"b, c",2,train/1.png\n'),
        (
            "Metadata.JSON",
            json.dumps(
                [
                    {"file_name": "train/0.png", "text": "a"},
                    {"file_name": "train/1.png", "text": "b, c"},
                ]
            ),
        ),
        ("captions.json", json.dumps({"train/0.png": "a", "train/1.png": "b, c"})),
    ],
)
def test_captions_in_the_tables_of_the_field(tmp_path, table, content):
    lay(tmp_path, {"train/0.png": None, "train/1.png": None, table: content})
    assert prompts(tmp_path) == {"train/0.png": "a", "train/1.png": "b, c"}


@pytest.mark.parametrize("ending", ["caption", "txt", "CAPTION", "png.txt"])
def test_captions_beside_pictures_in_a_folder_of_repeats(tmp_path, ending):
    lay(tmp_path, {"10_sks dog/0.png": None, f"10_sks dog/0.{ending}": "\ufeffa dog, asleep\n"})
    assert prompts(tmp_path) == {"10_sks dog/0.png": "a dog, asleep"}


@pytest.mark.parametrize(
    ("folder", "prompt"),
    [
        ("10_sks dog", "sks dog"),
        ("img/3_red fox", "red fox"),
        ("train/cats", "cats"),
        ("cats/train", "cats"),
        ("001.Black_footed_Albatross", "Black_footed_Albatross"),
        ("猫", "猫"),
        ("test kitchen", "test kitchen"),
    ],
)
def test_a_folder_s_name_is_a_prompt_without_its_number(tmp_path, folder, prompt):
    lay(tmp_path, {f"{folder}/0.png": None})
    assert prompts(tmp_path) == {f"{folder}/0.png": prompt}


@pytest.mark.parametrize(
    "folder", ["train", "val2017", "images/part_3", "10_img", "Test Images", "n01440764", "5_"]
)
def test_a_mere_place_is_no_prompt(tmp_path, folder):
    lay(tmp_path, {f"{folder}/0.png": None})
    with pytest.raises(
        StudioError, match="its folder's name is no prompt, so put captions into metadata.jsonl"
    ):
        prompts(tmp_path)


def test_tables_of_captions_and_classes_give_what_is_asked_for(tmp_path):
    rows = [
        {"file_name": "a.png", "text": "a shoe", "label": 7},
        {"file_name": "b.png", "text": "legs", "label": "trouser"},
    ]
    lay(tmp_path, {"a.png": None, "b.png": None, "metadata.jsonl": lines(*rows)})
    by_class, by_words = (read_folder(tmp_path, 9, words=words).pictures for words in (False, True))
    assert [class_of(p, NAMES, 10) for p in by_class] == [7, 1]
    assert [caption_of(p) for p in by_words] == ["a shoe", "legs"]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            {"metadata.jsonl": '{"file_name": "a.png", "text": "x"}\n\n{"file_name":'},
            "Line 3 of metadata.jsonl cannot be read",
        ),
        ({"metadata.jsonl": '["a.png", "x"]'}, "Line 1 of metadata.jsonl must be an object"),
        (
            {"metadata.jsonl": lines({"id": 1, "text": "x"})},
            "has no column file_name, only id, text",
        ),
        (
            {"metadata.jsonl": lines({"file_name": "a.png", "x": "b", "y": "c"})},
            "call it text or label .it has x, y",
        ),
        ({"metadata.jsonl": lines({"file_name": "a.png"})}, "file names only"),
        (
            {"metadata.jsonl": lines({"file_name": "a.png", "text": ["x"]})},
            "Line 1 of metadata.jsonl: what a picture shows",
        ),
        (
            {"metadata.jsonl": lines({"file_name": 3, "text": "x"})},
            "Line 1 of metadata.jsonl names no picture",
        ),
        (
            {"metadata.jsonl": lines({"file_name": "b.png", "text": "x"})},
            "metadata.jsonl names b.png, which is not there",
        ),
        (
            {"metadata.jsonl": lines({"file_name": "A.PNG", "text": "x"})},
            "names A.PNG, which is not the same name",
        ),
        (
            {"metadata.jsonl": lines({"file_name": "a.png", "text": None})},
            "Nothing says what a.png shows",
        ),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": "\\ud800"}'}, "half a letter"),
        ({"metadata.jsonl": ""}, "Nothing says what a.png shows"),
        (
            {"metadata.csv": "file_name,text\na.png,a cat, asleep"},
            "Line 2 of metadata.csv has 3 columns; write 2",
        ),
        ({"metadata.csv": 'file_name,text\na.png,"a cat\n'}, "of metadata.csv cannot be read"),
        (
            {"metadata.csv": "file_name;text\na.png;a cat\n"},
            "has no column file_name, only file_name;text",
        ),
        (
            {"metadata.parquet": b"PAR1"},
            "metadata.parquet is a kind of table that is not read here: save it as metadata.csv",
        ),
        (
            {"metadata.jsonl": "", "metadata.csv": ""},
            "has both metadata.csv and metadata.jsonl; keep one",
        ),
        ({"labels.csv": "a.png,3\n./a.png,4\n"}, "two things of a.png, '3' and '4'"),
        ({"labels.json": '{"a.png": 3, "a.png": 4}'}, "two things of a.png, 3 and 4"),
        (
            {
                "labels.csv": "a.png,x",
                "in/b.png": None,
                "in/metadata.csv": "file_name,text\n../a.png,y",
            },
            "different things of a.png",
        ),
        (
            {
                "in/a.png": None,
                "on/a.png": None,
                "on/b.png": None,
                "labels.csv": "b.png,3\na.png,4",
                "a.png": b"",
            },
            "Nothing says",
        ),
        (
            {"in/b.png": None, "on/b.png": None, "labels.csv": "b.png,3"},
            "may be in/b.png, on/b.png",
        ),
        (
            {"a.txt": "a cat", "a.caption": "a dog"},
            "a.caption and a.txt say different things of a.png",
        ),
        ({"a.caption": "\n"}, "Nothing says what a.png shows"),
        ({"a.caption": "a cat".encode("utf-16")}, "a.caption cannot be read; save it as UTF-8"),
        ({"a.caption": "a cat".encode("utf-16-le")}, "a.caption cannot be read; save it as UTF-8"),
        ({"a.caption": "caf\xe9".encode("latin-1")}, "a.caption cannot be read; save it as UTF-8"),
        ({"b.heic": b"x"}, "b.heic is a picture of a kind not read here"),
    ],
)
def test_more_folders_that_cannot_serve(tmp_path, files, match):
    lay(tmp_path, {"a.png": None} | files)
    with pytest.raises(StudioError, match=match):
        list_pictures(tmp_path, 100)


def test_what_is_passed_over_is_said(tmp_path):
    rows = [
        {"file_name": "a.png", "text": "x", "caption": "y"},
        {"file_name": "gone.png", "text": "z"},
    ]
    lay(tmp_path, {"a.png": None, "a.txt": "x y", "metadata.jsonl": lines(*rows)})
    said = "; ".join(read_folder(tmp_path, 9).remarks)
    for part in (
        "by its column text, not caption",
        "names 1 file not there (gone.png)",
        "texts beside the pictures are not read",
    ):
        assert part in said
    lay(tmp_path / "by class", {"3/a.png": None})
    (tmp_path / "by class" / "7").mkdir()
    assert read_folder(tmp_path / "by class", 9).remarks == ("7 is an empty folder",)


def test_a_text_without_letters_is_no_caption(tmp_path):
    lay(tmp_path, {"a.png": None, "a.txt": "0 0.5 0.5 0.1 0.1"})  # boxes
    with pytest.raises(StudioError, match="asked in words"):
        prompts(tmp_path)


def test_leftovers_are_no_pictures(tmp_path):
    junk = (
        ".ipynb_checkpoints/a.png",
        "__MACOSX/3/a.png",
        "3/@eaDir/a.png",
        "3/._a.png",
        "3/.a.png",
        "3/Thumbs.db",
        "3/.DS_Store",
    )
    lay(
        tmp_path,
        {
            "train/3/A.PNG": None,
            "val/03/b.Jpeg": None,
            "Coat/c.png": None,
            **{name: b"junk" for name in junk},
        },
    )
    assert list(shown(tmp_path)) == ["Coat/c.png", "train/3/A.PNG", "val/03/b.Jpeg"]
    assert [class_of(p, {"Coat": 4}, 10) for p in list_pictures(tmp_path, 9)] == [4, 3, 3]


def test_links_are_what_they_lead_to(tmp_path):
    store = lay(tmp_path / "store", {"3/a.png": None, "3/b.png": None, "c.png": None})
    folder = lay(tmp_path / "p", {"5/a.png": None})
    (folder / "3").symlink_to(store / "3", target_is_directory=True)
    (folder / "5" / "c.png").symlink_to(store / "c.png")
    (folder / "5" / "up").symlink_to("..", target_is_directory=True)  # a circle
    (folder / "5" / "own").symlink_to(".", target_is_directory=True)
    assert list(shown(folder)) == ["3/a.png", "3/b.png", "5/a.png", "5/c.png"]
    (tmp_path / "way").symlink_to(folder, target_is_directory=True)
    assert classes(tmp_path / "way") == [3, 3, 5, 5]


def test_two_ways_to_a_folder_are_one_set_of_pictures(tmp_path):
    lay(tmp_path, {"v1/3/a.png": None, "v1/3/b.png": None})
    (tmp_path / "latest").symlink_to("v1", target_is_directory=True)
    assert list(shown(tmp_path)) == ["v1/3/a.png", "v1/3/b.png"]
    (tmp_path / "v1" / "5").symlink_to("3", target_is_directory=True)  # another class is meant
    assert list(shown(tmp_path))[-2:] == ["v1/5/a.png", "v1/5/b.png"]


@pytest.mark.parametrize("link", ["3/b.png", "5"])
def test_links_to_nothing_are_named(tmp_path, link):
    lay(tmp_path, {"3/a.png": None})
    for target in ("nowhere", Path(link).name):  # the second leads to itself
        (tmp_path / link).symlink_to(target)
        with pytest.raises(StudioError, match=f"{link} is a link to something that is not there"):
            list_pictures(tmp_path, 9)
        (tmp_path / link).unlink()


def test_class_folders_within_and_around_places(tmp_path):
    lay(tmp_path, {"train/Sneaker/images/a.png": None, "7/val/b.png": None, "Train/c.png": None})
    # where the model knows "train"
    assert [class_of(p, NAMES | {"train": 2}, 10) for p in list_pictures(tmp_path, 9)] == [7, 2, 7]
    with pytest.raises(StudioError, match="'Train', which is neither"):
        classes(tmp_path)
    (tmp_path / "Train" / "c.png").unlink()
    assert sorted(classes(tmp_path)) == [7, 7]


def test_names_in_two_unicode_forms(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    lay(tmp_path / "one", {f"{apart}.png": None, "labels.csv": f"{composed}.png,3\n"})
    assert classes(tmp_path / "one") == [3]
    lay(tmp_path / "text", {f"{apart}.png": None, f"{composed}.txt": "a cup"})
    assert list(prompts(tmp_path / "text").values()) == ["a cup"]
    lay(tmp_path / "class", {f"{apart}/a.png": None})
    assert [class_of(p, {composed: 4}, 10) for p in list_pictures(tmp_path / "class", 9)] == [4]
    both = lay(
        tmp_path / "both",
        {f"{apart}.png": None, f"{composed}.png": None, "labels.csv": f"{composed}.png,3\n"},
    )
    with pytest.raises(
        StudioError,
        match=r"cafe\[U\+0301\].png and caf\[U\+00E9\].png, which differ only in how letters",
    ):
        list_pictures(both, 9)


def test_a_name_that_is_no_text(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        paint(tmp_path / name)
    except OSError:
        pytest.skip("this disk has UTF-8 names only")
    with pytest.raises(StudioError, match="is not UTF-8 text: rename it") as refusal:
        list_pictures(tmp_path, 9)
    assert str(refusal.value).encode()


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("jfif", "JPEG"),
        ("JPE", "JPEG"),
        ("bmp", "BMP"),
        ("tif", "TIFF"),
        ("gif", "GIF"),
        ("jp2", "JPEG2000"),
        ("pgm", "PPM"),
        ("tga", "TGA"),
        ("avif", "AVIF"),
    ],
)
def test_other_kinds_are_listed_and_read(tmp_path, ending, kind):
    if f".{ending.lower()}" not in readable():
        pytest.skip(f"this Pillow does not read {kind}")
    (tmp_path / "3").mkdir()
    Image.new("RGB", (16, 8), (200, 200, 200)).save(tmp_path / "3" / f"a.{ending}", format=kind)
    (found,) = list_pictures(tmp_path, 9)
    assert (read_picture(found, 8, 3) - (200 / 127.5 - 1)).abs().max() <= 3 / 127.5


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((8, 8), 0.5, np.float32), "a.tif holds fractions"),
        (np.full((8, 8), 2**20, np.int32), "more than 16 bits"),
    ],
)
def test_numbers_without_a_white_are_refused(tmp_path, values, match):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(StudioError, match=match):
        read_picture(picture(tmp_path / "a.tif"), 8, 1)


# ------------------------------------------------------------ pixels


def test_pixels_of_the_right_size_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_picture(picture(tmp_path / "a.png"), 8, 3)
    assert found.dtype == torch.float32 and torch.equal(
        found, torch.from_numpy(values).permute(2, 0, 1).float() / 127.5 - 1
    )
    grey = read_picture(picture(tmp_path / "a.png"), 8, 1)
    assert torch.equal(
        grey[0],
        torch.from_numpy(np.array(Image.fromarray(values).convert("L"))).float() / 127.5 - 1,
    )


@pytest.mark.parametrize("wide", [True, False])
def test_the_shorter_side_fits_and_the_centre_is_kept(tmp_path, wide):
    """Of a picture twice as long as wide, only the middle half is left.

    That half has one colour.
    """
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


@pytest.mark.parametrize(
    ("mode", "colour", "grey"),
    [
        ("RGBA", (0, 0, 0, 0), 255),
        ("RGBA", (10, 10, 10, 255), 10),
        ("LA", (0, 0), 255),
        ("I;16", 257 * 90, 90),
        ("1", 1, 255),
        ("P", 0, 0),
    ],
)
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
    data = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
    )
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    (tmp_path / "bomb.png").write_bytes(
        data + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    )
    with pytest.raises(StudioError, match="bomb.png has more than 67 million pixels"):
        read_picture(picture(tmp_path / "bomb.png"), 8, 1)
