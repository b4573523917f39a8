"""Hold the built-in prompts, and say which part of a prompt a text model does not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PROMPTS = (
    "a photograph of a red fox in a snowy forest",
    "an oil painting of a fishing harbour at dawn",
    "a close-up portrait of an old woman with silver hair, natural light",
    "a bowl of ramen with a soft egg, studio food photography",
    "a city street in the rain at night, neon reflections",
    "a pencil sketch of a bicycle leaning against a brick wall",
    "an aerial view of rice terraces under morning mist",
    "a small wooden cabin beside a mountain lake",
    "a watercolour of a bouquet of wild flowers",
    "an astronaut reading a newspaper on a park bench",
    "a marble statue of a lion in a museum hall",
    "a cosy living room with a fireplace and many books",
    "a macro photograph of a dragonfly on a leaf",
    "a steam train crossing a stone viaduct in autumn",
    "an isometric illustration of a tiny bakery",
    "two children flying a kite on a windy beach",
)


def cut_prompts(
    pipeline: Any, prompts: Sequence[str], negative: str = "", what: str = "prompt"
) -> str:
    """Return a sentence on the prompts that are longer than the text encoders read.

    Return "" where no prompt is, and for a model without text encoders.
    """
    different = [p for p in dict.fromkeys(prompts) if p]
    cut: list[tuple[str, str]] = []  # which prompt, how much of it is read
    for i, text in enumerate(different, 1):
        if (read := read_part(pipeline, text)) is not None:
            which = (
                f"{what} {i}, {_short(text)}," if different[1:] else f"the {what} {_short(text)}"
            )
            cut.append((which, read))
    if negative and (read := read_part(pipeline, negative)) is not None:
        cut.append((f"the negative prompt {_short(negative)}", read))
    if not cut:
        return ""
    text = "; ".join(f"of {which} {read}" for which, read in cut[:3])
    more = f"; and {len(cut) - 3} more are cut" if cut[3:] else ""
    return f"{text[0].upper()}{text[1:]}{more}."


def read_part(pipeline: Any, text: str) -> str | None:
    """Return how much of a text the text encoders read; None where they read all of it."""
    parts: dict[str, list[str]] = {}  # what is read -> which encoders read it
    found = {name: getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")}
    tokenizers: list[tuple[str, Any]] = [(k, v) for k, v in found.items() if v is not None]
    convert = getattr(pipeline, "maybe_convert_prompt", lambda text, _: text)  # textual inversion
    for name, tokenizer in tokenizers:
        ids = tokenizer(convert(text, tokenizer), verbose=False).input_ids
        limit = tokenizer.model_max_length
        if len(ids) > limit:
            rest = _short(tokenizer.decode(ids[limit - 1 : -1]).strip(), at_end=True)
            part = f"{limit} of {len(ids)} tokens (marks of start and end included), without {rest}"
            parts.setdefault(part, []).append("first" if name == "tokenizer" else "second")
    if not parts:
        return None
    if len(parts) == 1 and len(next(iter(parts.values()))) == len(tokenizers):
        return f"the text encoders read {next(iter(parts))}"
    return ", ".join(
        f"the {' and the '.join(which)} text encoder reads {part}" for part, which in parts.items()
    )


def _short(text: str, at_end: bool = False) -> str:
    """Return a text in quotes, without its middle where it is long; at_end: without its start."""
    text = " ".join(text.split())
    if len(text) > 60:
        text = f"... {text[-50:]}" if at_end else f"{text[:35]} ... {text[-20:]}"
    return f'"{text}"'
