"""A small reverse proxy that shows a server below a path, as nginx does: it takes the path off."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"}
METHODS = ["GET", "POST", "HEAD", "OPTIONS"]
FRAME = '<!doctype html><title>frame</title><iframe src="{}" width="1250" height="850"></iframe>'


class Proxy:
    """What the proxy shows, and what was asked for outside its path."""

    def __init__(self, target: str, prefix: str):
        self.target, self.prefix = target.rstrip("/"), prefix
        self.outside: list[str] = []
        self.port = 0
        self.client = httpx.AsyncClient(timeout=120)
        routes = [
            Route("/frame", self.frame),
            Route("/{path:path}", self.answer, methods=METHODS),
        ]
        self.app = Starlette(routes=routes)

    @property
    def url(self) -> str:
        """Return where the page is, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    async def frame(self, _: Request) -> Response:
        """Answer with a page that holds the studio; as localhost it is of another site."""
        return HTMLResponse(FRAME.format(f"{self.url}/"))

    async def answer(self, request: Request) -> Response:
        """Pass a request on without the path; note what is outside of it."""
        path = request.url.path
        if path != self.prefix and not path.startswith(f"{self.prefix}/"):
            self.outside.append(path)
            return Response(status_code=404)
        query = f"?{request.url.query}" if request.url.query else ""
        asked = self.client.build_request(
            request.method,
            f"{self.target}{path.removeprefix(self.prefix) or '/'}{query}",
            headers=[(k, v) for k, v in request.headers.raw if k.decode().lower() not in HOP],
            content=await request.body(),
        )
        told = await self.client.send(asked, stream=True)
        answer = StreamingResponse(
            told.aiter_raw(), told.status_code, background=BackgroundTask(told.aclose)
        )
        answer.raw_headers = [
            (k.lower(), v) for k, v in told.headers.raw if k.decode().lower() not in HOP
        ]
        return answer


@contextmanager
def behind_proxy(target: str, prefix: str) -> Iterator[Proxy]:
    """Serve a proxy in front of an address on a free port."""
    proxy = Proxy(target, prefix)
    config = uvicorn.Config(proxy.app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    proxy.port = server.servers[0].sockets[0].getsockname()[1]
    assert urlsplit(proxy.url).port
    try:
        yield proxy
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
