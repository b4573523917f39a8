"""A headless Chromium on a running studio, for the browser tests and the drag benchmark."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

from playwright.sync_api import (
    Browser,
    BrowserContext,
    CDPSession,
    FloatRect,
    Locator,
    Page,
    Response,
    ViewportSize,
    expect,
    sync_playwright,
)

FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
FIRST_SIZE: ViewportSize = {"width": 1280, "height": 900}
SLOW = 60_000  # ms; a machine that runs other things must not fail a test
expect.set_options(timeout=SLOW)
# the shell draws no window round the page: a quarter less work per page
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CUT_OFF = re.compile("AbortError|Connection errored out|Failed to fetch")

_port = 0  # of this process, once it has one
_left: list[BrowserContext] = []  # as new, but for the files of the page


class Watch:
    """What a page asked for and complained about."""

    def __init__(self, page: Page):
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        page.on(
            "request",
            lambda r: (
                self.hosts.add(urlparse(r.url).hostname or "") if r.url.startswith("http") else None
            ),
        )
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("response", self._look)
        page.on("pageerror", lambda e: self.errors.append(str(e)))

    def complaints(self) -> list[str]:
        """Return the errors without those of calls that a reload or another address cut off."""
        return [words for words in self.errors if not CUT_OFF.search(words)]

    def _look(self, response: Response) -> None:
        """Note what a failed call asked for: the console only says that one failed."""
        if response.status >= 500:
            request = response.request
            self.errors.append(f"{response.status} {request.url} {(request.post_data or '')[:300]}")


def usual_port() -> int | None:
    """Return the port of this process where it is free: a browser keeps files by address."""
    global _port
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", _port))
        except OSError:
            return None
        _port = tried.getsockname()[1]
    return _port


@contextmanager
def serve(workshop, others=(), root: str = "") -> Iterator[str]:
    """Serve the studio of one workshop on a free port; yield its address.

    others: workshops with a page beside it. root: the path at which a proxy shows it.
    """
    from mosaic_ui.studio import build_studio, launch_options

    page = build_studio(workshop, others=others)
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=usual_port(),
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        root_path=root,
        **launch_options(root),
    )
    try:
        yield url
    finally:
        page.close(verbose=False)


@contextmanager
def chromium() -> Iterator:
    """Debian's Chromium through playwright; no browser of playwright's own is downloaded."""
    path = next((p for p in map(shutil.which, NAMES) if p), None)
    if path is None:
        raise RuntimeError(
            "No Chromium on the PATH: run `sh tests/find_browser.sh`, or install Debian's package"
            " chromium."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def visitor(browser: Browser, url: str, **options) -> tuple[Page, Watch]:
    """One visitor more, in a context of their own with `options`, with the first screen open."""
    left = [] if options else [context for context in _left if context.browser == browser]
    if left:
        _left.remove(left[0])
        page = left[0].new_page()
        forget(page, url)
    else:
        page = browser.new_context(viewport=FIRST_SIZE, **options).new_page()
    page.set_default_timeout(SLOW)
    watch = Watch(page)
    page.goto(url)
    expect(page.get_by_role("slider", name="Stage boundary 1")).to_be_visible(timeout=SLOW)
    return page, watch


def forget(page: Page, url: str) -> None:
    """Empty what a visitor before left: all but the files of the page."""
    page.context.clear_cookies()
    page.context.clear_permissions()
    session = page.context.new_cdp_session(page)
    place = urlparse(url)
    session.send(
        "Storage.clearDataForOrigin",
        {"origin": f"{place.scheme}://{place.netloc}", "storageTypes": "all"},
    )
    session.detach()


def leave(page: Page) -> None:
    """End a visit of `visitor` without options; the next visitor finds the page's files loaded.

    Not where a test put a script or a route into the context.
    """
    context = page.context
    for opened in context.pages:
        opened.close()
    _left.append(context)


def close_all(browser: Browser) -> None:
    """Close every visit that was not left."""
    for context in browser.contexts:
        if context not in _left:
            context.close()


def boundaries(page: Page) -> list[int]:
    """Return the boundaries that the stage table is about."""
    return [
        int(b)
        for b in page.locator("#stage-table table").get_attribute("data-boundaries").split(",")
    ]


def settled(page: Page) -> list[int]:
    """Wait until the table answers for where the two handles are, and return that."""
    now = [
        page.get_by_role("slider", name=f"Stage boundary {i}").get_attribute("aria-valuenow")
        for i in (1, 2)
    ]
    expect(page.locator("#stage-table table")).to_have_attribute(
        "data-boundaries", ",".join(now), timeout=SLOW
    )
    return [int(b) for b in now]


def back_to_suggestion(page: Page) -> None:
    """Go to the first screen at its first size, and take the suggested plan again."""
    page.set_viewport_size(FIRST_SIZE)
    page.get_by_role("tab", name="1 Explore").click()
    page.get_by_role("button", name="Reset to the suggestion").click()
    expect(page.locator('#stage-table table[data-boundaries="93,550"]')).to_be_visible(timeout=SLOW)
    expect(page.get_by_role("slider", name="Stage boundary 1")).to_have_attribute(
        "aria-valuenow", "93", timeout=SLOW
    )
    expect(page.locator('#stage-table table[data-exact="true"]')).to_have_count(1, timeout=SLOW)
    page.evaluate("scrollTo(0, 0)")


def touch(session: CDPSession, kind: str, *place: float) -> None:
    """Send one touch of one finger, or its end."""
    points = [dict(zip("xy", place, strict=True))] if place else []
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def steady(handle: Locator) -> FloatRect:
    """Return where a handle is once it stays there: after a change of size the chart is redrawn."""
    box = handle.bounding_box()
    for _ in range(100):
        handle.page.wait_for_timeout(100)
        before, box = box, handle.bounding_box()
        if box == before:
            break
    return box


def drag(page: Page, name: str, pixels: int, steps: int = 6) -> None:
    """Drag a boundary handle sideways with the mouse."""
    handle = page.get_by_role("slider", name=name)
    handle.scroll_into_view_if_needed()
    box = steady(handle)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y + 25, steps=steps)  # upwards or downwards must not matter
    page.mouse.up()


@contextmanager
def alone(browser, workshop):
    """Open a page on a workshop of its own, for what the shared one cannot show."""
    with serve(workshop) as url:
        page, _ = visitor(browser, url)
        yield page
        leave(page)
