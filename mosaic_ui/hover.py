"""Explain two words of the trade where they stand in a label: the meaning shows on hover."""

from __future__ import annotations

import re

MEANINGS = {
    "SNR": "Signal-to-noise ratio: how strong the picture is against the noise at a timestep.",
    "latent": "The compressed picture that the model works on; a decoder turns it into pixels.",
}
WORD = re.compile(r"\b(SNR|[Ll]atent)(?=s?\b)")


def explained(text: str) -> str:
    """Return a text, plain or escaped, with the first of each word explained on hover."""
    seen: set[str] = set()

    def mark(found: re.Match[str]) -> str:
        word = found[0]
        key = "SNR" if word == "SNR" else "latent"
        if key in seen:
            return word
        seen.add(key)
        return f'<abbr title="{MEANINGS[key]}">{word}</abbr>'

    return WORD.sub(mark, text)
