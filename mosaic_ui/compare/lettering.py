"""Draw text into pictures, with the font that Pillow brings."""

from __future__ import annotations

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

DRAWN = str.maketrans("×−–“”≥≤", 'x--""><')  # what the font does not have
INK, PAPER, QUIET = (24, 24, 27), (255, 255, 255), (90, 90, 98)


def font(size: int) -> Font:
    """Return the font in a size in pixels."""
    return ImageFont.load_default(size)


def wrapped(text: str, face: Font, width: int, most: int | None = None) -> list[str]:
    """Return a text in lines of at most so many pixels; a longer word is cut.

    most: lines; the last one ends in "..." where there were more.
    """
    lines = [""]
    for word in text.translate(DRAWN).split():
        while face.getlength(word) > width:
            word = word[:-1]
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and face.getlength(f"{last} ...") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last} ..."]
