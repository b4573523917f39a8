"""Call every function of a running studio with anything, as a hostile client may.

    python tests/junk.py --calls 2000 --seed 0

starts the studio on a tiny random model, makes the calls and says what the server's log has of
them. A refusal in one sentence is right; a traceback through our own code is not. What fails inside
Gradio before our code runs is counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
OURS = tuple(f'File "{ROOT / name}' for name in ("core", "mosaic_ui", "app.py"))
MARK = "Traceback (most recent call last)"
SECONDS = 120  # for one answer; a job on a busy machine takes its time
SESSIONS = 4
PLAN = {"boundaries": [93, 550], "sparsity": {"late": 0.5, "middle": 0.25, "early": 0.5}}
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


def deep(levels: int) -> list:
    """Nest a list in itself."""
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    7,
    1.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    10**30,
    -(10**300),
    1e308,
    "",
    " ",
    "93",
    "x" * 100_000,
    "\ud800",
    "<img src=x onerror=alert(1)>",
    "../../etc/passwd",
    "null",
    [],
    [None],
    [1, 2, 3],
    ["DDIM"],
    [[93, 550]],
    [93, 550],
    [93, "550"],
    [float("nan"), 550],
    [{}],
    deep(150),
    {},
    {"a": 1},
    {"value": 5, "__type__": "update"},
    {"path": None},
    FILE,
    [FILE],
    {"boundaries": [93, 550]},
    {"boundaries": None, "sparsity": None},
    PLAN | {"num_train_timesteps": 500},
    PLAN | {"extra": []},
    PLAN | {"sparsity": {"late": float("nan"), "middle": 10**30, "early": "0"}},
    PLAN | {"boundaries": [10**30, {}]},
    PLAN | {"allocation": [], "scope": {}, "multiple": [16]},
    PLAN | {"stage_steps": [1, 2, 3]},
]
LIKELY: list[Any] = [
    PLAN,
    PLAN | {"allocation": "lagrangian", "scope": "run"},
    "DDIM",
    "Euler",
    "linear",
    "sigmoid",
    "EDM",
    "MSE",
    "Score",
    "log",
    "Formula",
    "Uniform",
    "Your own",
    "Dense",
    "Current plan",
    "Uploaded plan",
    "uniform",
    "dynamic",
    "macs",
    "latency",
    [93, 550],
    ["class 1"],
    5,
    20,
    2,
    0.3,
    0.55,
    0,
    16,
    True,
    False,
    "as loaded",
    "own",
]
SMALL: dict[str, list[Any]] = {  # inputs of the named endpoints that ask for little, in order
    "curves": ["DDIM", 10, 0.33, "", 1.0, "formula", ""],
    "predict": [PLAN, "DDIM", 10, False, ""],
    "prune": [PLAN, "", 10, True, ""],
    "compare": [PLAN, None, None, "", "", 2, 3, None, 0, "DDIM", 0, "plain", ""],
    "sweep": [PLAN, "steps=2,3", "", None, "", 2, 3, None, 0, "DDIM", 0, True, ""],
    "tune": [2, None, False, "macs", 1, 1, 4, 4, 5, "DDIM", 0, ""],
}
BROKEN: list[Any] = [None, "text", 5, {"a": []}, [], deep(80)]  # instead of a list of inputs


@dataclass
class Found:
    """What came of the calls."""

    answers: Counter = field(default_factory=Counter)
    ours: list[str] = field(default_factory=list)  # tracebacks through our own code
    theirs: list[str] = field(default_factory=list)  # of Gradio alone
    sentences: Counter = field(default_factory=Counter)

    def read(self, log: str) -> None:
        """Sort the tracebacks of a server's log."""
        for text in log.split(MARK)[1:]:
            (self.ours if any(place in text for place in OURS) else self.theirs).append(text)


class Client:
    """A session that calls functions by their numbers, as the page does."""

    def __init__(self, url: str, session: str):
        self.http, self.session = httpx.Client(base_url=url.rstrip("/"), timeout=SECONDS), session

    def listed(self) -> list[dict[str, Any]]:
        """All functions that the server lists."""
        return self.http.get("/config").json()["dependencies"]

    def post(self, path: str, body: Any) -> httpx.Response:
        """Send JSON as a client may write it, NaN and half characters included."""
        return self.http.post(
            f"/gradio_api{path}",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )

    def upload(self, content: bytes, name: str = "plan.json") -> Any:
        """Upload a file -> what a call names it by."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        return (
            {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}
            if answer.status_code == 200
            else None
        )

    def call(self, number: Any, data: Any) -> tuple[str, str]:
        """Make one call through the queue -> (kind, words) of its end.

        A closed connection is an end too.
        """
        try:
            return self._call(number, data)
        except httpx.TransportError as error:
            return type(error).__name__, ""

    def _call(self, number: Any, data: Any) -> tuple[str, str]:
        body = {
            "data": data,
            "fn_index": number,
            "session_hash": self.session,
            "trigger_id": None,
            "event_data": None,
        }
        joined = self.post("/queue/join", body)
        if joined.status_code != 200:
            return f"HTTP {joined.status_code}", ""
        event = joined.json()["event_id"]
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as stream:
            for line in stream.iter_lines():
                said = json.loads(line[5:]) if line.startswith("data:") else {}
                if said.get("event_id") == event and said.get("msg") == "process_completed":
                    output = said["output"] or {}
                    return (
                        ("answer", "") if said["success"] else ("refused", str(output.get("error")))
                    )
        return "no end", ""

    def direct(self, name: str, number: Any, data: Any) -> tuple[str, str]:
        """Make one call past the queue, by a function's name and number."""
        body = {"data": data, "fn_index": number, "session_hash": self.session}
        try:
            return f"HTTP {self.post(f'/run/{name}', body).status_code}", ""
        except httpx.TransportError as error:
            return type(error).__name__, ""


def inputs_for(
    chance: random.Random, function: dict[str, Any], files: list[Any], ui: dict[int, str]
) -> Any:
    """Make up the inputs of one call: junk, likely values, sometimes too few, too many or none."""
    n = len(function["inputs"])
    if function["api_visibility"] == "public" and chance.random() < 0.7:
        data = list(SMALL[function["api_name"]])  # all but one as they should be
        data[chance.randrange(n)] = chance.choice(JUNK)
        return data
    if chance.random() < 0.05:
        return chance.choice(BROKEN)
    if chance.random() < 0.1:
        n = max(0, n + chance.choice((-2, -1, 1, 3)))
    junk = chance.choice((0.1, 0.3, 1.0))
    data = [chance.choice(JUNK if chance.random() < junk else LIKELY) for _ in range(n)]
    for i, component in enumerate(function["inputs"][:n]):
        if ui.get(component) == "uploadbutton" and chance.random() < 0.7:
            data[i] = chance.choice(files)
    return data


def make_calls(url: str, calls: int, seed: int) -> Found:
    """Call what the server lists, each function in turn and then at random."""
    chance, found = random.Random(seed), Found()
    clients = [Client(url, f"junk{i}") for i in range(SESSIONS)]
    config = clients[0].http.get("/config").json()
    functions = [f for f in config["dependencies"] if f["backend_fn"]]
    ui = {c["id"]: c["type"] for c in config["components"]}
    contents = [
        b"",
        b"{",
        b"\xff\xfe",
        json.dumps(PLAN).encode(),
        b"[" * 50_000,
        b"1" * 9000,
        json.dumps(PLAN | {"num_train_timesteps": 500}).encode(),
    ]
    files = [f for f in map(clients[0].upload, contents) if f] + [FILE, None]
    for i in range(calls):
        function = functions[i % len(functions)] if i < len(functions) else chance.choice(functions)
        client, data = chance.choice(clients), inputs_for(chance, function, files, ui)
        way = chance.random()
        if way < 0.85:
            kind, words = client.call(function["id"], data)
        elif way < 0.95:
            kind, words = client.direct(
                chance.choice(("predict", str(function.get("api_name")), "on_drop")),
                function["id"],
                data,
            )
        else:
            kind, words = client.call(chance.choice((-1, 10**9, None, "0", [], 1.5)), data)
        found.answers[kind] += 1
        if kind == "refused":
            found.sentences[words] += 1
    return found


@contextlib.contextmanager
def logged() -> Any:
    """Collect what the server prints and logs."""
    log, handler = io.StringIO(), None
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(log):
            yield log
    finally:
        logging.getLogger().removeHandler(handler)


def junk_calls(url: str, calls: int, seed: int) -> Found:
    """`make_calls` on a server of this process, with its log read."""
    with logged() as log:
        found = make_calls(url, calls, seed)
    found.read(log.getvalue())
    return found


def main() -> int:
    """Start the studio on a tiny model, make the calls, say what came of them."""
    import tempfile

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import torch
    from browser import serve
    from conftest import make_pipeline

    from core.calibration.settings import CalibrationSettings
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = CalibrationSettings(edges=(0, 100, 300, 600, 1000), images=32, held_out=16)
        checkpoint = load_checkpoint(
            make_pipeline(Path(folder) / "model"), "cpu", dtype=torch.float32
        )
        workshop = Workshop(checkpoint, settings, Path(folder) / "cache")
        workshop.calibrate()
        with serve(workshop) as url:
            found = junk_calls(url, args.calls, args.seed)
    print(
        dict(found.answers),
        f"{len(found.ours)} tracebacks through our code, {len(found.theirs)} of Gradio alone",
    )
    for text, count in found.sentences.most_common(12):
        print(f"{count:5d} {text[:120]}")
    for text in found.ours[:5]:
        print(text[-1500:])
    for last, count in Counter(
        text.strip().splitlines()[-1][:150] for text in found.theirs
    ).most_common(12):
        print(f"Gradio: {count:5d} {last}")
    return 1 if found.ours else 0


if __name__ == "__main__":
    sys.exit(main())
