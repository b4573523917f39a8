"""Write what a sweep found: a table, one picture with labels, and one page."""

from __future__ import annotations

import csv
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .axes import label_of
from .cells import Grid
from .page import page_of
from .record import CellRecord, SweepRecord

TABLE, PICTURE, PAGE = "sweep.csv", "sweep.png", "sweep.html"
COLUMNS = (
    "macs_saved",
    "speedup_macs",
    "speedup_predicted",
    "speedup_measured",
    "speedup_spread",
    "timed_runs",
    "seconds_dense",
    "seconds",
    "psnr",
    "ssim",
    "latent_mse",
    "fid",
    "fid_dense",
    "class_accuracy",
    "n",
    "seed",
    "device",
)
IN_UNITS = {"psnr": "psnr_db"}  # column -> its heading with the unit, where a word is not enough
GAP, MARGIN, TYPE = 6, 10, 15  # pixels of the picture
LEAST, MOST = 96, 192  # pixels of a cell of the picture, longest side
GROUND, INK, BLANK = (255, 255, 255), (32, 32, 32), (236, 236, 236)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that a spreadsheet would work out


def write_results(record: SweepRecord, grid: Grid) -> tuple[str, ...]:
    """Write table, picture and page into the folder of a sweep; return the names of the files.

    Raises StudioError.
    """
    record.write_file(TABLE, table_of(record, grid).encode("utf-8", "replace"))
    buffer = io.BytesIO()
    picture_of(record, grid).save(buffer, format="PNG")
    record.write_file(PICTURE, buffer.getvalue())
    record.write_file(PAGE, page_of(record, grid).encode("utf-8", "replace"))
    return TABLE, PICTURE, PAGE


# ------------------------------------------------------------ table


def table_of(record: SweepRecord, grid: Grid) -> str:
    """Return the table of a sweep as CSV, one row per cell, empty where nothing is known."""
    axes = [grid.x.name] if grid.y is None else [grid.x.name, grid.y.name]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        [*axes, "status", *(IN_UNITS.get(name, name) for name in COLUMNS), "run_id", "sentence"]
    )
    for cell in record.cells:
        values = [label_of(cell.x)] if grid.y is None else [label_of(cell.x), label_of(cell.y)]
        rows.writerow(
            [
                *values,
                cell.state,
                *(_entry(cell.numbers.get(name)) for name in COLUMNS),
                cell.run if cell.state == "done" else "",
                _entry(cell.sentence),
            ]
        )
    return text.getvalue()


def _entry(value: object) -> object:
    """Return an entry of the table; no text of it is a formula in a spreadsheet."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


# ------------------------------------------------------------ picture


def picture_of(record: SweepRecord, grid: Grid) -> Image.Image:
    """Return one picture of all cells with the labels of both axes; rows are y, columns x."""
    sheets = [_sheet(record, cell) for cell in record.cells]
    size = max((max(sheet.size) for sheet in sheets if sheet is not None), default=LEAST)
    size = min(max(size, LEAST), MOST)
    font = ImageFont.load_default(TYPE)
    rows = [""] if grid.y is None else grid.y.labels
    across = f"across: {grid.x.name}"
    down = "" if grid.y is None else f"down: {grid.y.name}"
    columns = _shown(grid.x.labels, size, font)
    left = MARGIN + max(int(font.getlength(word)) for word in (*rows, down)) + GAP
    top = MARGIN + 2 * (TYPE + GAP)
    foot = _foot(record)
    width = left + grid.columns * (size + GAP) + MARGIN
    width = max(width, int(font.getlength(foot)) + 2 * MARGIN)
    height = top + grid.rows * (size + GAP) + TYPE + MARGIN
    whole = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(whole)
    pen.text((left, MARGIN), across, INK, font)
    pen.text((MARGIN, MARGIN + TYPE + GAP), down, INK, font)
    for column, word in enumerate(columns):
        pen.text((left + column * (size + GAP), MARGIN + TYPE + GAP), word, INK, font)
    for row, word in enumerate(rows):
        pen.text((MARGIN, top + row * (size + GAP) + size // 2), word, INK, font)
    for cell, one, sheet in zip(grid.cells, record.cells, sheets, strict=True):
        place = (left + cell.column * (size + GAP), top + cell.row * (size + GAP))
        if sheet is None:
            pen.rectangle((*place, place[0] + size - 1, place[1] + size - 1), BLANK)
            pen.text((place[0] + GAP, place[1] + GAP), one.state, INK, font)
        else:
            whole.paste(_fitted(sheet, size), place)
    pen.text((MARGIN, height - TYPE - MARGIN // 2), foot, INK, font)
    return whole


def _foot(record: SweepRecord) -> str:
    """Return the line below the picture: what it shows, n, seed and device."""
    facts = record.facts
    return f"{facts['model']}, n = {facts['n']}, seed {facts['seed']}, {facts['device']}"


def _shown(
    words: list[str], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """Return words cut to a width in pixels."""
    shown = []
    for word in words:
        while len(word) > 1 and font.getlength(word) > width:
            word = word[:-1]
        shown.append(word)
    return shown


def _sheet(record: SweepRecord, cell: CellRecord) -> Image.Image | None:
    """Return the pictures of a cell, or None where there are none that can be read."""
    data = record.picture(cell.picture)
    if data is None:
        return None
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError):  # damaged by another program
        return None


def _fitted(sheet: Image.Image, size: int) -> Image.Image:
    """Return a picture in the middle of a square of `size` pixels, scaled by a whole number."""
    longest = max(sheet.size)
    times = max(1, size // longest)
    if longest <= size:
        scaled = sheet.resize((sheet.width * times, sheet.height * times), Image.Resampling.NEAREST)
    else:
        scaled = sheet.copy()
        scaled.thumbnail((size, size))
    square = Image.fromarray(np.full((size, size, 3), 255, np.uint8))
    square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    return square
