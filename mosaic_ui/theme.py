"""Colours, fonts and page rules, the same in every tab.

The stage colours are three of Okabe and Ito's (2008) colour-blind-safe set, and they mean the same
everywhere: blue is the late stage, green the middle, vermillion the early one. The rest of the page
stays neutral grey, so that colour always says "stage" and never merely "button".
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STAGE_COLOURS = {"late": "#0072B2", "middle": "#009E73", "early": "#D55E00"}
STAGE_INK = {"late": "#ffffff", "middle": "#18181b", "early": "#18181b"}  # letters on it, 4.5 : 1
STAGE_MEANING = {
    "late": "almost clean, fine detail",
    "middle": "learned fastest, content",
    "early": "mostly noise, layout",
}
DENSE_COLOUR = "#7A7F87"  # the unpruned model, wherever it stands beside a stage
GRID_COLOUR = "rgba(128,128,128,.22)"  # one value that is quiet on white and on black alike

CSS = (Path(__file__).parent / "studio.css").read_text(encoding="utf-8")
KEYS = (Path(__file__).parent / "keys.js").read_text(encoding="utf-8")  # arrow keys


def make_theme() -> gr.themes.Base:
    """Return the page's theme, with system fonts only.

    A web font would be a request to another host, or a flash of other letters.
    """
    ink, paper = "#18181b", "#fafafa"
    return gr.themes.Base(
        primary_hue=gr.themes.colors.zinc,
        secondary_hue=gr.themes.colors.zinc,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        font=(
            "ui-sans-serif",
            "system-ui",
            "-apple-system",
            "Segoe UI",
            "Roboto",
            "DejaVu Sans",
            "sans-serif",
        ),
        font_mono=(
            "ui-monospace",
            "SFMono-Regular",
            "Menlo",
            "Consolas",
            "DejaVu Sans Mono",
            "monospace",
        ),
    ).set(
        body_text_color_subdued="#63636b",
        body_text_color_subdued_dark="#a1a1aa",
        body_background_fill="#f6f6f7",
        body_background_fill_dark="#0e0e10",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#18181b",
        block_background_fill="#ffffff",
        block_background_fill_dark="#18181b",
        block_border_color="#e4e4e7",
        block_border_color_dark="#2e2e33",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_color="#63636b",  # the theme's own is too pale on the page's grey
        block_label_text_color="#63636b",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        block_info_text_size="12px",  # the theme's own would be 10 px
        input_border_width="1px",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_large_text_size="*text_md",
        button_large_text_weight="600",
        button_large_padding="8px 18px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#111113",
        input_border_color="#d4d4d8",
        input_border_color_dark="#3f3f46",
        input_border_color_focus="#71717a",
        input_border_color_focus_dark="#a1a1aa",
        button_primary_background_fill=ink,
        button_primary_background_fill_dark=paper,
        button_primary_background_fill_hover="#3f3f46",
        button_primary_background_fill_hover_dark="#d4d4d8",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark=ink,
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#232327",
        button_secondary_border_color="#d4d4d8",
        button_secondary_border_color_dark="#3f3f46",
        button_secondary_background_fill_hover="#f4f4f5",
        button_secondary_background_fill_hover_dark="#2e2e33",
        slider_color="#52525b",
        slider_color_dark="#d4d4d8",
        checkbox_background_color_selected="#27272a",
        checkbox_background_color_selected_dark="#e4e4e7",
        checkbox_border_color_selected="#27272a",
        checkbox_border_color_selected_dark="#e4e4e7",
        color_accent="#3f3f46",
        color_accent_soft="#f4f4f5",
        color_accent_soft_dark="#27272a",
    )
