"""Whatever a client calls the page with: one sentence, no traceback of ours, and the page goes on.

JUNK_CALLS in the environment sets the number of calls: 2000 is the whole of it, 300 otherwise.
"""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import NamedTuple

import gradio as gr
import pytest
from junk import JUNK, LIKELY, MARK, PLAN, ROOT, SMALL, Client, Found, junk_calls

from core.curves.plan import StagePlan
from core.curves.plan_checks import short
from core.errors import StudioError
from mosaic_ui import input_checks
from mosaic_ui.studio import build_studio, launch_options

CALLS = int(os.environ.get("JUNK_CALLS", "300"))
VISITOR = SimpleNamespace(session_hash="junk", query_params={})
LONG = {
    "on_measure",
    "on_path",
    "run",
    "on_calibrate",
    "on_prune",
}  # jobs, which the calls of the server come to


@pytest.fixture(scope="module")
def page(workshop):
    return build_studio(workshop)


@pytest.fixture(scope="module")
def url(workshop):
    page = build_studio(workshop)
    options = {
        "server_name": "127.0.0.1",
        "prevent_thread_lock": True,
        "quiet": True,
        "inbrowser": False,
    }
    _, url, _ = page.launch(**options, **launch_options())
    yield url
    page.close(verbose=False)


def test_no_call_of_the_server_ends_in_an_exception_of_ours(url):
    found = junk_calls(url, CALLS, seed=3)
    assert found.ours == [], found.ours[0][-3000:]
    assert (
        sum(found.answers.values()) == CALLS
        and found.answers["refused"] > CALLS // 4
        and found.answers["answer"] > CALLS // 20
    )
    # Gradio's own sentence quotes the whole value
    ours = [words for words in found.sentences if "is not in the list of choices" not in words]
    assert [words for words in ours if len(words) >= 500 or "\n" in words] == []
    client = Client(url, "after")
    functions = {f["api_name"]: f["id"] for f in client.listed()}
    assert (
        client.call(functions["on_entered"], [20, None, "DDIM"])[0] == "answer"
    )  # the page is as it was for who comes next


def test_every_function_that_the_server_lists_is_checked_and_only_the_endpoints_are_named(
    page, url
):
    listed = Client(url, "list")
    assert [f["id"] for f in listed.listed()] == list(page.fns)
    named = listed.http.get("/gradio_api/info").json()["named_endpoints"]
    assert set(named) == {f"/{name}" for name in SMALL}
    assert {name: len(named[f"/{name}"]["parameters"]) for name in SMALL} == {
        name: len(inputs) for name, inputs in SMALL.items()
    }
    endpoints = [f for f in page.fns.values() if f.api_visibility != "private"]
    assert [f.name for f in endpoints] == list(SMALL)
    queue = {(f.concurrency_limit, f.concurrency_id, f.queue) for f in endpoints}
    assert queue == {(1, "model", True)}  # that of the page's own model jobs
    unchecked = [
        f.name
        for f in page.fns.values()
        if f.fn is not None and f.inputs and not getattr(f.fn, "checked", False)
    ]
    assert unchecked == []
    judged_by_gradio = [
        f.name for f in page.fns.values() if f.fn is not None and f.inputs and f.preprocess
    ]
    assert set(judged_by_gradio) == {"on_upload", "upload"}


def test_no_handler_called_with_anything_raises_anything_but_a_notice(page):
    """Also in the places of states, which no client can set."""
    chance, seen = random.Random(5), 0
    handlers = [
        f for f in page.fns.values() if f.fn is not None and f.inputs and f.name not in LONG
    ]
    for i in range(2 * CALLS):
        function = handlers[i] if i < len(handlers) else chance.choice(handlers)
        junk = chance.choice((0.1, 0.3, 1.0))
        given = [chance.choice(JUNK if chance.random() < junk else LIKELY) for _ in function.inputs]
        request = (
            [VISITOR] if "request" in input_checks.inspect.signature(function.fn).parameters else []
        )
        try:
            function.fn(*given, *request)
        except gr.Error as notice:
            seen += 1
            assert (
                notice.print_exception is False
                and "\n" not in notice.message
                and 0 < len(notice.message) < 500
            )
    assert seen > CALLS // 2


def test_an_input_without_a_check_cannot_be_wired():
    with pytest.raises(KeyError):
        input_checks.plain_errors(lambda anything: anything)


def test_a_method_is_checked_too_and_gets_the_plan_parsed():
    class Place:
        @input_checks.plain_errors
        def on_plan(self, plan, snap):
            return self, plan, snap

    place = Place()
    assert place.on_plan(PLAN, True) == (place, StagePlan.from_json(PLAN), True)
    assert place.on_plan.checked
    for given in (("93", True), (PLAN, "yes"), (None, False)):
        with pytest.raises(gr.Error):
            place.on_plan(*given)


class Pair(NamedTuple):
    """Two inputs that are one parameter of a handler."""

    plan: StagePlan
    snap: bool


def test_inputs_that_belong_together_are_one_parameter_and_each_is_checked():
    @input_checks.plain_errors
    def handler(scheduler: str, pair: Pair, request: gr.Request):
        return scheduler, pair, request

    inputs = list(input_checks.inspect.signature(handler).parameters)
    assert inputs == ["scheduler", "plan", "snap", "request"]
    pair = Pair(StagePlan.from_json(PLAN), True)
    assert handler("DDIM", PLAN, True, VISITOR) == ("DDIM", pair, VISITOR)
    # gradio counts one parameter per input and puts the request behind them
    request = gr.Request()
    values, *_ = gr.helpers.special_args(handler, ["DDIM", PLAN, True], request)
    assert values[3] is request and handler(*values) == ("DDIM", pair, request)
    with pytest.raises(gr.Error, match="Snapping"):
        handler("DDIM", PLAN, "yes", VISITOR)


HOSTILE_VALUES = [
    5,
    None,
    [],
    {},
    ["DDIM"],
    {"a": 1},
    float("nan"),
    10**5000,
    "x" * 10_000,
    "\ud800",
    True,
]


@pytest.mark.parametrize("name", ["plan", "scheduler", "view", "beta", "scale", "snap", "kept"])
def test_a_value_of_another_kind_is_one_short_sentence(name):
    what, check = input_checks.CHECKS[name]
    refused = 0
    for value in HOSTILE_VALUES:
        try:
            check(value, what)
        except StudioError as error:
            refused += 1
            assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 300
    assert refused >= len(HOSTILE_VALUES) - 3


def test_a_sentence_can_quote_what_cannot_be_printed():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert short(nested) == short([10**5000]) == "something too deep or too long"
    assert short("x" * 10**7) == "'" + 59 * "x"
    while nested:  # undone level by level, as Python would do it in one deep recursion
        nested = nested.pop()


def test_a_log_is_read_for_whose_exception_it_is():
    found = Found()
    found.read(
        f'{MARK}:\n  File "{ROOT}/mosaic_ui/input_checks.py", line 1\nTypeError\n'
        f'{MARK}:\n  File "/elsewhere/gradio/blocks.py"\nError\n'
    )
    assert (len(found.ours), len(found.theirs)) == (1, 1) and PLAN["boundaries"] == [93, 550]
