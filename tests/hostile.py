"""A name as an attacker would choose it, and whether a page stays harmless with it."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = '<img src=x onerror="alert(1)">\'</p><script>alert(2)</script>'


class Tags(HTMLParser):
    """What a browser would make of a text: its elements and their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def harmless(text: str) -> bool:
    return not any(
        tag == "script" or attrs.get("src") == "x" or any(a.startswith("on") for a in attrs)
        for tag, attrs in Tags(text).found
    )
