"""Draw text into pictures, with the font that Pillow brings."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

DRAWN = str.maketrans("−–“”≥≤", '--""><')  # what the font does not have; × is drawn by `write`
FINE = 4  # times larger that a × is drawn, so that its edges are smooth
INK, PAPER, QUIET = (24, 24, 27), (255, 255, 255), (90, 90, 98)


def font(size: int) -> Font:
    """Return the font in a size in pixels."""
    return ImageFont.load_default(size)


def width_of(text: str, face: Font) -> float:
    """Return the pixels that `write` takes for a text; a × is as wide as an x."""
    return face.getlength(text.replace("×", "x"))


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    face: Font,
    ink: tuple[int, int, int],
) -> None:
    """Draw one line of text, top left at a place in pixels; each × is drawn as two strokes."""
    left, top = place
    for k, part in enumerate(text.split("×")):
        if k:
            _times(draw, (left, top), face, ink)
            left += face.getlength("x")
        draw.text((left, top), part, ink, face)
        left += face.getlength(part)


def _times(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    face: Font,
    ink: tuple[int, int, int],
) -> None:
    """Draw a × in the middle of the height of a digit, in the width of an x."""
    _, high, _, low = face.getbbox("0")
    wide, middle = face.getlength("x"), (high + low) / 2
    side = 0.62 * (low - high)  # of the square that holds it
    large = round(FINE * side)
    mask = Image.new("L", (large, large))
    pen = ImageDraw.Draw(mask)
    thick, edge = round(0.16 * large), round(0.06 * large)
    for rise in ((edge, large - edge), (large - edge, edge)):
        pen.line(((edge, rise[0]), (large - edge, rise[1])), 255, thick)
    small = mask.resize((max(1, round(side)),) * 2, Image.Resampling.LANCZOS)
    corner = (round(place[0] + (wide - side) / 2), round(place[1] + middle - side / 2))
    draw.bitmap(corner, small, ink)


def wrapped(text: str, face: Font, width: int, most: int | None = None) -> list[str]:
    """Return a text in lines of at most so many pixels; a longer word is cut.

    most: lines; the last one ends in "..." where there were more.
    """
    lines = [""]
    for word in text.translate(DRAWN).split():
        while width_of(word, face) > width:
            word = word[:-1]
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, face) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and width_of(f"{last} ...", face) > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last} ..."]
