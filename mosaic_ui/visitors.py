"""Give every visitor of a public page runs and plans of their own, which nobody else can open.

By default there is one store, of this installation, for everybody who opens the studio. After
`separate` there is one per visitor, in a folder that goes some hours after the visitor's last
request, and with the program. A visitor is known by a cookie that lives as long as the browser is
open; where cookies are refused, by the session of the page, and all goes when that page is left.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import threading
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from gradio.context import LocalContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import paths
from core.errors import StudioError
from core.sweep.kept import SweepShelf
from core.tuner.kept import TuneShelf

COOKIE = "mosaic-visitor"
SECRET = re.compile(r"[A-Za-z0-9_-]{32,64}")
KEEP_HOURS = 3.0  # after a visitor's last request
SWEEP_SECONDS = 60.0  # how often it is looked for visitors who have gone
NOBODY = "The studio cannot tell whose runs are asked for: load the page again."
TOGETHER = (
    "Every comparison is kept, on this machine and for everybody who opens this studio. Tick one to"
    " name it or to open it again, two or more to see what differs."
)
APART = (
    "Your comparisons are kept for you alone: nobody else sees them, and they go"
    f" {KEEP_HOURS:g} hours after your last visit, so download what you want to keep. Tick one to"
    " name it or to open it again, two or more to see what differs."
)


class Visitors:
    """The folders of all visitors within one folder. Thread-safe."""

    def __init__(self, folder: Path, keep_seconds: float = KEEP_HOURS * 3600):
        self.folder, self.keep_seconds = folder, keep_seconds
        self._seen: dict[str, float] = {}  # visitor -> when asked for last, seconds
        self._swept = time.monotonic()
        self._lock = threading.Lock()

    def folder_of(self, visitor: str) -> Path:
        """Return the folder of a visitor, who counts as here now; nothing is made."""
        now = time.monotonic()
        with self._lock:
            self._seen[visitor] = now
            if now - self._swept >= min(SWEEP_SECONDS, self.keep_seconds):
                self._swept = now
                gone = [v for v, at in self._seen.items() if now - at > self.keep_seconds]
            else:
                gone = []
        for one in gone:
            self.forget(one)
        return self.folder / visitor

    def forget(self, visitor: str) -> None:
        """Remove all that is kept of a visitor."""
        with self._lock:
            self._seen.pop(visitor, None)
        shutil.rmtree(self.folder / visitor, ignore_errors=True)


_apart: Visitors | None = None


def separate(folder: Path, keep_seconds: float = KEEP_HOURS * 3600) -> Visitors:
    """Give every visitor a store of their own in `folder` from now on."""
    global _apart
    _apart = Visitors(folder, keep_seconds)
    return _apart


def together() -> None:
    """Let all visitors share the store of this installation, as at first."""
    global _apart
    _apart = None


def separated() -> bool:
    """Say whether visitors have stores of their own."""
    return _apart is not None


def intro() -> str:
    """Say who sees the kept runs, and for how long."""
    return APART if separated() else TOGETHER


def visitor() -> str:
    """Return who asks in this thread, as 32 hex digits; nothing where all share one store.

    Raises StudioError where visitors are apart and nobody asks.
    """
    if _apart is None:
        return ""
    who = _identity(LocalContext.request.get(None))
    if not who:
        raise StudioError(NOBODY)
    return hashlib.sha256(who.encode()).hexdigest()[:32]


def data_folder() -> Path:
    """Return the folder of the runs, plans, tunes and sweeps of who asks. Raises StudioError."""
    return paths.data_folder() if _apart is None else _apart.folder_of(visitor())


def tune_shelf() -> TuneShelf:
    """Return the tunes of who asks. Raises StudioError."""
    return TuneShelf(data_folder() / "tunes")


def sweep_shelf() -> SweepShelf:
    """Return the sweeps of who asks. Raises StudioError."""
    return SweepShelf(data_folder() / "sweeps")


def leave() -> bool:
    """Drop what belongs to a page that was left, and say whether it was dropped.

    A visitor with a cookie may come back, and keeps all until the time is over.
    """
    request = LocalContext.request.get(None)
    if _apart is None or _secret(request) or not _identity(request):
        return False
    _apart.forget(visitor())
    return True


def _identity(request: Any) -> str:
    """Return what tells one visitor from another: the cookie, else the session of the page."""
    secret = _secret(request)
    if secret:
        return f"cookie {secret}"
    session = getattr(request, "session_hash", None)
    if session is None:  # a call of the page's scripts, which names the session in its body
        body = getattr(request, "_json", None)
        session = body.get("session_hash") if isinstance(body, dict) else None
    return f"session {session}" if isinstance(session, str) and session else ""


def _secret(request: Any) -> str:
    cookies = getattr(request, "cookies", None) or {}
    secret = cookies.get(COOKIE, "")
    return secret if SECRET.fullmatch(secret) else ""


class VisitorCookie:
    """Give a browser that opens a page its cookie, where visitors are apart.

    In a frame of another site a cookie is kept only if it is marked so, which needs https.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; only HTML for a browser without the cookie is changed."""
        if not separated() or scope["type"] != "http" or scope["method"] != "GET" or _has(scope):
            await self.app(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_html(message):
                given = (b"set-cookie", new_cookie(_over_https(scope)).encode())
                message = {**message, "headers": [*message["headers"], given]}
            await send(message)

        await self.app(scope, receive, with_cookie)


def new_cookie(https: bool) -> str:
    """Return the header of a new cookie, which ends with the browser and no script can read."""
    where = "Secure; SameSite=None; Partitioned" if https else "SameSite=Lax"
    return f"{COOKIE}={secrets.token_urlsafe(32)}; Path=/; HttpOnly; {where}"


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _has(scope: Scope) -> bool:
    """Say whether a request brings a usable cookie."""
    jar: SimpleCookie = SimpleCookie()
    for header in _headers(scope, b"cookie"):
        try:
            jar.load(header)
        except CookieError:
            continue
    return COOKIE in jar and bool(SECRET.fullmatch(jar[COOKIE].value))


def _over_https(scope: Scope) -> bool:
    """Say whether the browser uses https, as the proxy in front tells."""
    told = _headers(scope, b"x-forwarded-proto") or [scope.get("scheme", "http")]
    return told[0].split(",")[0].strip() == "https"


def _is_html(start: Message) -> bool:
    kinds = [value for key, value in start["headers"] if key.lower() == b"content-type"]
    return any(kind.startswith(b"text/html") for kind in kinds)
