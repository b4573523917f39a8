"""Write what a table sorted in the page needs: headings that sort, and what a cell is sorted by.

`SCRIPT` (sorted_table.js) sorts the rows, `STYLE` draws the headings of a table of class "sorted".
"""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
SCRIPT = (HERE / "sorted_table.js").read_text(encoding="utf-8")
STYLE = f"<style>{(HERE / 'sorted_table.css').read_text(encoding='utf-8')}</style>"
Sortable = str | float | None


def head_cell(
    column: int, title: str, number: bool = False, about: str = "", first: bool = False
) -> str:
    """Write the heading of a column, counted from 0, as a button that sorts.

    number: set to the right; about: shown on hover; first: a first click puts the largest first.
    """
    said = f' title="{escape(about)}"' if about else ""
    return (
        f'<th scope="col" aria-sort="none"{" class=num" if number else ""}{said}>'
        f'<button type="button" data-column="{column}"'
        f' data-first="{-1 if first else 1}">{escape(title)}</button></th>'
    )


def sorted_by(key: Sortable) -> str:
    """Write what a cell is sorted by, a number or a text; nothing where it is not known."""
    if key is None:
        return ""
    return f' data-{"v" if isinstance(key, str) else "n"}="{escape(str(key))}"'
