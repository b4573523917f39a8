"""Put the theme choice into the head of the page itself, so that it holds from the first paint.

What `launch` takes as `head` is put there by Gradio's own script, after the page has been painted
in the colour of the system.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD, PAGE = b"<head>", b"<gradio-app"
BASE = b'<base href="%s/" />'
MANIFEST = (b'<link rel="manifest" href="/', b'<link rel="manifest" href="./')
# the colours are Gradio's own for the body before its script runs
STYLE = (
    "<style>html[data-theme=light] body { background: var(--bg); color: var(--col); }"
    " html[data-theme=dark] body { background: var(--bg-dark); color: var(--col-dark);"
    " color-scheme: dark; }</style>"
)


class FirstPaint:
    """Write a script, the colours of the body and the base into the head of the studio's pages.

    root: the path or the address at which a reverse proxy shows the page, "" without one.
    """

    def __init__(self, app: ASGIApp, script: str, root: str = ""):
        self.app, self.head = app, (slash_script(root) + STYLE + script).encode()
        self.base = BASE % root.encode() if root else BASE % b"."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; everything but the studio's own pages passes as it is."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        begun: Message | None = None  # the start of a page, held back until its length is known
        body = b""

        async def pass_on(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start" and _is_page(message):
                begun = message
            elif begun is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    whole = self._with_head(body)
                    await send(_of_length(begun, len(whole)))
                    await send({**message, "body": whole})

        await self.app(scope, receive, pass_on)

    def _with_head(self, body: bytes) -> bytes:
        if PAGE not in body:
            return body
        # Gradio's own base is the folder of the address, which is the wrong one where the proxy
        # shows /studio without a slash at its end; its manifest is looked for outside the prefix
        body = body.replace(BASE % b".", self.base, 1).replace(*MANIFEST, 1)
        return body.replace(HEAD, HEAD + self.head, 1)


def slash_script(root: str) -> str:
    """Write what puts a slash behind the address where the proxy shows /studio without one.

    Gradio looks for the scripts of components beside the address.
    """
    path = urlsplit(root).path
    if not path:
        return ""
    return (
        f"<script>if (location.pathname === {json.dumps(path)}) history.replaceState(history.state,"
        " '', `${location.pathname}/${location.search}${location.hash}`);</script>"
    )


def _is_page(start: Message) -> bool:
    """Say whether an answer is HTML that is not compressed."""
    names = {name.lower(): value for name, value in start["headers"]}
    kind = names.get(b"content-type", b"")
    return kind.startswith(b"text/html") and b"content-encoding" not in names


def _of_length(start: Message, length: int) -> Message:
    """Return the start of an answer with another length."""
    kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
    return {**start, "headers": [*kept, (b"content-length", str(length).encode())]}
