"""Show the theme switch: light, dark, or as the system, without a reload.

The choice itself and how it is kept are in theme_choice.js, which runs before the page is drawn.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CHOICE = (Path(__file__).parent / "theme_choice.js").read_text(encoding="utf-8")
HEAD = f"<script>{CHOICE}</script>"  # for the head of the page
SIGNS = {  # paths in a square of 16
    "light": (
        "Light",
        '<circle cx="8" cy="8" r="3"/><path d="M8 1v2M8 13v2M1 8h2M13 8h2M3 3l1.4 1.4'
        'M11.6 11.6 13 13M13 3l-1.4 1.4M4.4 11.6 3 13"/>',
    ),
    "dark": ("Dark", '<path d="M13.5 10A6 6 0 0 1 6 2.5a6 6 0 1 0 7.5 7.5z"/>'),
    "system": (
        "As the system",
        '<circle cx="8" cy="8" r="6"/><path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"/>',
    ),
}
SCRIPT = """
const radios = [...element.querySelectorAll('input')];
const show = () => {
  const choice = window.mosaicTheme?.choice ?? 'system';
  radios.forEach(radio => { radio.checked = radio.value === choice; });
};
element.addEventListener('change', event => window.mosaicTheme?.choose(event.target.value));
addEventListener('mosaic-theme', show);
show();
"""


def theme_switch() -> gr.HTML:
    """Return three radios in one line, of which the arrow keys choose as well."""
    return gr.HTML(
        switch_html(), js_on_load=SCRIPT, apply_default_css=False, elem_classes="theme-block"
    )


def switch_html() -> str:
    """Write the radios; each has its words for those who do not see the sign."""
    radios = "".join(
        f'<label title="{words}"><input type="radio" name="page-theme" value="{value}"'
        f' aria-label="{words}"><svg viewBox="0 0 16 16" width="15" height="15" aria-hidden="true"'
        f' fill="none" stroke="currentColor" stroke-width="1.5">{sign}</svg></label>'
        for value, (words, sign) in SIGNS.items()
    )
    return f'<fieldset class="theme-switch"><legend>Theme</legend>{radios}</fieldset>'
