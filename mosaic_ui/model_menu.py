"""The menu of models: each has a page of its own, and the plan in hand comes along.

A page is built for one loaded model, at an address of its own; the menu goes there with the plan,
the sampler, the steps and Compare's seed in the address. Only models that were loaded at the start
are listed, so no visitor can open another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.proposals import preset, preset_names
from core.errors import PlanError, StudioError
from core.models.bundled import bundled_name
from core.workshop.workshop import Workshop

from . import tables
from .events import EDIT, NOTHING, QUIET, Views
from .input_checks import plain_errors
from .inputs import read_upload, whole_seed
from .memory import ARRIVED, link_of, read_draft
from .page_state import Shared
from .predictions import Asked, Predictions
from .remedies import page_sentence

PLACES = ("explore", "prune", "compare", "runs", "tune", "sweep")
MOST_DIGITS = 10  # of a number in an address
MOST_DRAFT = 60_000  # characters
GO = "(address) => { if (address) window.location.assign(address); }"


@dataclass(frozen=True)
class Entry:
    """One model of the menu: its name and the address of its page, relative to the first page."""

    title: str
    path: str  # "" is the first page
    folder: Path | None  # None: from a hub

    @property
    def gone(self) -> bool:
        """Say whether the model's folder was removed since the start."""
        return self.folder is not None and not (self.folder / "model_index.json").is_file()


@dataclass(frozen=True)
class Menu:
    """The models that have a page, and which of them a page is for.

    `unavailable`: one sentence for each bundled model that could not be opened.
    """

    entries: tuple[Entry, ...]
    place: int = 0  # of the page's own model
    unavailable: tuple[str, ...] = ()

    @property
    def own(self) -> Entry:
        """Return the entry of the page's own model."""
        return self.entries[self.place]

    @property
    def several(self) -> bool:
        """Say whether there is anything to choose."""
        return len(self.entries) > 1


def menu_of(workshops: Sequence[Workshop], unavailable: Sequence[str] = ()) -> Menu:
    """Return the menu of these models; the first has the page that the studio opens on."""
    entries: list[Entry] = []
    for i, workshop in enumerate(workshops):
        folder = workshop.checkpoint.folder
        path = "" if i == 0 else bundled_name(folder) or f"model-{i}"
        entries.append(Entry(workshop.name, path, folder))
    return Menu(tuple(entries), 0, tuple(unavailable))


@dataclass(frozen=True)
class Carried:
    """What a page takes over from another model's page, and what it has to say about that."""

    asked: Asked
    changes: tuple[str, ...]  # one sentence for everything that could not stay


def carried(predictions: Predictions, shared: Shared, query: dict[str, str]) -> Carried:
    """Fit the plan, sampler and steps of an address to this page's model.

    Raises StudioError where the address holds no plan that can be read.
    """
    plan = replace(read_upload(query["plan"].encode()), stage_steps=None)
    scheduler, steps, changes = _sampler(predictions, shared, query)
    total = len(predictions.workshop.schedule)
    if plan.num_train_timesteps != total:
        before, plan = plan, plan.on_timesteps(total)
        low, high = plan.boundaries
        changes.append(
            f"Boundaries {before.boundaries[0]} and {before.boundaries[1]} of"
            f" {before.num_train_timesteps} timesteps are {low} and {high} of {total} here."
        )
    plan = _named(predictions, plan, scheduler, steps)
    try:
        predictions.predict(plan, scheduler, steps)
    except StudioError as error:
        plan = plan.with_equal_shares()
        predictions.predict(plan, scheduler, steps)
        changes.append(f"Every layer of a stage loses the same share now: {page_sentence(error)}")
    return Carried(Asked(plan, scheduler, steps), tuple(changes))


def _named(predictions: Predictions, plan: StagePlan, scheduler: str, steps: int) -> StagePlan:
    """Return the plan without its name where this model's preset of that name is another plan."""
    schedule = predictions.workshop.schedule
    timesteps = predictions.visited(scheduler, steps)
    if plan.name not in preset_names(len(schedule)):
        return plan
    try:
        own = preset(schedule, plan.name, round(plan.mean_sparsity(timesteps), 3), timesteps)
    except PlanError:  # no such preset here, or none that removes as much
        return replace(plan, name="")
    return plan if own.boundaries == plan.boundaries else replace(plan, name="")


def _sampler(
    predictions: Predictions, shared: Shared, query: dict[str, str]
) -> tuple[str, int, list[str]]:
    """Return scheduler and steps of an address, or the page's own with the reason."""
    own = shared.opening_sampler
    scheduler = query.get("scheduler", own[0])
    try:
        steps = predictions.whole_steps(_number(query.get("steps", str(own[1]))))
        predictions.visited(scheduler, steps)
    except StudioError as error:
        return *own, [f"{own[0]} with {own[1]} steps here: {page_sentence(error)}"]
    return scheduler, steps, []


def _number(typed: str) -> int | str:
    """Return the whole number that an address has in words, or the words where it is none."""
    return int(typed) if typed.isdecimal() and len(typed) <= MOST_DIGITS else typed


class ModelMenu:
    """The menu in the head of one model's page, and what arrives in the page's address."""

    def __init__(self, menu: Menu):
        self.entries, self.own = menu.entries, menu.own
        self.menu = gr.Dropdown(
            [(e.title.removesuffix(" (bundled)"), e.path) for e in menu.entries],
            value=menu.own.path,
            label="Model",
            filterable=False,
            elem_classes="model-menu",
            visible=menu.several,
            min_width=220,
            scale=0,
        )
        self.unavailable = tables.notes(list(menu.unavailable))
        self.address = gr.Textbox(visible="hidden", render=False)
        self.draft = gr.Textbox(visible="hidden", render=False)  # its value comes from the browser
        self.said = gr.HTML(self.unavailable, elem_id="model-said", render=False)

    def wire(self, shared: Shared, tabs: gr.Tabs) -> None:
        """Connect the menu, and what the address or a draft brings when the page opens."""
        self.shared, self.tabs = shared, tabs
        sampler = shared.sampler
        self.menu.input(
            self.on_choose,
            [self.menu, shared.plan, *sampler, shared.seed],
            [self.menu, self.address, self.said],
            queue=False,
            **QUIET,
        ).then(None, self.address, None, js=GO, **QUIET)
        shared.page.load(
            self.on_open,
            self.draft,
            [shared.plan, shared.edited, *sampler, shared.steps_box, shared.seed, self.said, tabs],
            js=read_draft(shared),
            **EDIT,
        ).then(None, None, None, js=ARRIVED, **QUIET)

    @plain_errors
    def on_choose(
        self, chosen: Any, plan: StagePlan, scheduler: str, steps: Any, seed: Any
    ) -> Views:
        """Go to the chosen model's page with the plan, or say why it cannot be opened."""
        entry = next((e for e in self.entries if e.path == chosen), None)
        if entry is None:
            raise StudioError("The menu does not list this model: choose one that it lists.")
        if entry.gone:
            said = f"The folder of {entry.title} is gone: restore it, then start the studio again."
            return {self.menu: self.own.path, self.address: "", self.said: tables.notes([said])}
        asked = Asked(plan, scheduler, self.shared.predictions.whole_steps(steps))
        origin = urlencode({"from": self.own.path or "first"})
        address = f"./{entry.path}?{link_of(asked, seed)}&{origin}"
        return {self.menu: self.own.path, self.address: address}

    @plain_errors
    def on_open(self, draft: str | None, request: gr.Request) -> Views:
        """Take over what the address brings, or where it has no plan the visitor's draft."""
        query = dict(request.query_params or {})
        views = self._place(query)
        if "plan" in query:
            views |= self._take(query, request, "The plan in the address")
        elif draft and len(draft) <= MOST_DRAFT:
            drafted = dict(parse_qsl(draft))
            views |= self._take(drafted, request, "The draft of your last visit")
            query = drafted | query
        if "seed" in query:
            views |= self._seed(query["seed"], views.get(self.said, self.unavailable))
        return views or NOTHING

    def _place(self, query: dict[str, str]) -> Views:
        """Open the place that an address asks for."""
        if "tab" not in query:
            return {}
        if query["tab"] in PLACES:
            return {self.tabs: gr.Tabs(selected=query["tab"])}
        said = "The link asks for a place that is not here: the page opens on Explore."
        return {self.said: self.unavailable + tables.notes([said])}

    def _seed(self, typed: str, said: str) -> Views:
        """Set the seed of Compare, or say behind what is said already why not."""
        box = self.shared.seed
        try:
            return {box: whole_seed(_number(typed))}
        except StudioError as error:
            why = f"The seed in the address was not taken over, so it is {box.value}: {error}"
            return {self.said: said + tables.notes([why])}

    def _take(self, query: dict[str, str], request: gr.Request, what: str) -> Views:
        """Take a plan with its sampler in hand, or say why not. Nothing is run."""
        shared = self.shared
        try:
            if "plan" not in query:
                raise StudioError("It has no plan.")
            found = carried(shared.predictions, shared, query)
        except StudioError as error:
            said = f"{what} was not taken over: {page_sentence(error)}"
            return {self.said: self.unavailable + tables.notes([said])}
        words = list(found.changes)
        if "from" in query:  # another model's page: what came along is said, and what could not
            low, high = found.asked.plan.boundaries
            words.insert(0, f"The plan came along: boundaries {low} and {high}.")
        views = shared.in_hand_with_sampler(found.asked, request)
        if words:
            views[self.said] = self.unavailable + tables.notes(words)
        return views
