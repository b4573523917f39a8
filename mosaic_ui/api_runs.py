"""Answer other programs that run a model: /compare, /sweep and /tune."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from threading import Event
from typing import Any

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.mosaic.found import device_line
from core.output import finite
from core.sweep.axes import check_axes, parse_axis
from core.sweep.cells import Base, grid_of
from core.sweep.engine import Sweep, Swept
from core.tuner.configuration import Configuration
from core.tuner.found import Tuned
from core.tuner.goal import Effort, Goal, checked_fixed
from core.tuner.quality import usual_quality
from core.tuner.report import tune_report
from core.tuner.search import Tune
from core.tuner.space import Space
from core.workshop.comparison import Comparison, side_name
from core.workshop.sample_settings import SampleSettings
from core.workshop.workshop import Workshop

from . import model_facts
from .api_calls import Json, Models, endpoint, turn
from .api_files import Downloads, File, own_folder
from .compare.inputs import Request, Wish, checked_classes, checked_settings
from .compare.sides import checked_plan
from .inputs import number_within, whole_number
from .lent import compared
from .runs.record import Record, store
from .tune.inputs import pictures

MOST_CELLS = 12  # of a sweep
MOST_SWEEP_SECONDS = 600  # after which no further cell begins
MOST_TUNE_SECONDS = 600


class RunCalls:
    """The endpoints that run a model."""

    def __init__(self, models: Models, downloads: Downloads):
        self.models, self.downloads = models, downloads

    @endpoint
    def compare(
        self,
        plan: StagePlan,
        against: StagePlan | None = None,
        classes: list[str] | None = None,
        prompts: str = "",
        negative: str = "",
        images: int | None = None,
        steps: int = 50,
        guidance: float | None = None,
        seed: int = 0,
        scheduler: str = "DDIM",
        repeats: int = 3,
        mode: str = "plain",
        model: str = "",
    ) -> Json:
        """Sample the dense model and a plan from the same noise, and time both in turn.

        The run is kept among the runs of the studio, on a public page among those of the caller.

        Args:
            plan: a plan as JSON, such as `plan` of /curves
            against: another plan as JSON in the place of the dense model
            classes: names of classes, painted in turn; none, all of the model
            prompts: for a model of text, one prompt per line
            negative: for a model of text, what no picture shall show
            images: of each side; none, as many as the page proposes
            steps: sampling steps
            guidance: 1 (off) to 20; none, the model's usual one
            seed: of the noise
            scheduler: sampler, such as DDIM, Euler, UniPC
            repeats: timed runs of each side, 0 to 10; 0, pictures only
            mode: plain, graphs or compiled
            model: name of a model of this studio; empty, the first one
        Returns:
            what `python app.py compare --json` prints, and `run`, the id of the kept run
        """
        predictions = self.models.of(model)
        workshop = predictions.workshop
        asked = _asked(workshop, classes, prompts)
        wish = Wish(asked, images, seed, steps, guidance, scheduler, repeats, negative, mode=mode)
        settings = _settings(workshop, wish)
        sides = (against, plan)
        timesteps = predictions.visited(scheduler, settings.steps)
        for side in sides:
            if side is not None:
                checked_plan(workshop, side, timesteps)
        names = (side_name(against), side_name(plan))
        record = Record(workshop, Request(settings, sides, names))
        with turn("The comparison") as stop:
            _calibrate_for(workshop, sides, stop)
            record.begin()
            try:
                found = _last(compared(workshop, *sides, settings, stop, previews=False))
                assert isinstance(found, Comparison)  # the last one, or it raises
                record.finish(found)
            finally:
                record.end("failed", "It broke off before it was done.")
        about = {"device_found": device_line(workshop.device), "run": record.id or None}
        return finite(found.to_json() | about)

    @endpoint
    def sweep(
        self,
        plan: StagePlan,
        x: str,
        y: str = "",
        classes: list[str] | None = None,
        prompts: str = "",
        images: int | None = None,
        steps: int = 50,
        guidance: float | None = None,
        seed: int = 0,
        scheduler: str = "DDIM",
        repeats: int = 3,
        download: bool = True,
        model: str = "",
    ) -> tuple[Json, File]:
        """Compare the dense model with a plan in every cell of a grid of at most 12 cells.

        No cell begins after 600 seconds. Each cell is kept as a run, as by /compare.

        Args:
            plan: a plan as JSON that all cells start from, such as `plan` of /curves
            x: setting and values across, such as sparsity.early=0.2:0.6:0.1 or steps=10,20
            y: setting and values down; empty, one row
            classes: names of classes, painted in turn; none, all of the model
            prompts: for a model of text, one prompt per line
            images: of each side; none, as many as the page proposes
            steps: sampling steps
            guidance: 1 (off) to 20; none, the model's usual one
            seed: of the noise
            scheduler: sampler, such as DDIM, Euler, UniPC
            repeats: timed runs of each side, 0 to 10; 0, pictures only
            download: offer table, page and pictures as a zip file
            model: name of a model of this studio; empty, the first one
        Returns:
            what `python app.py sweep --json` prints
            the zip file
        """
        workshop = self.models.of(model).workshop
        across, down = parse_axis(x), parse_axis(y) if y else None
        check_axes(across, down)
        cells = len(across.values) * (1 if down is None else len(down.values))
        if cells > MOST_CELLS:
            raise StudioError(
                f"This sweep would have {cells} cells, and {MOST_CELLS} are the most of one call:"
                " take fewer values, or run `python app.py sweep` on the machine itself."
            )
        asked = _asked(workshop, classes, prompts)
        wish = Wish(asked, images, seed, steps, guidance, scheduler, repeats)
        base = Base(plan, _settings(workshop, wish))
        grid = grid_of(workshop, base, across, down)
        file: File = None
        with turn("The sweep") as stop, own_folder() as folder:
            _calibrate_for(workshop, (cell.plan for cell in grid.possible), stop)
            grid = grid_of(workshop, base, across, down)  # more is known of what cannot be
            job = Sweep(workshop, grid, folder, store(), stop, MOST_SWEEP_SECONDS)
            found = _last(job.run())
            assert isinstance(found, Swept)  # a sweep ends with one, or raises
            record = found.record
            if download:
                file, said = self.downloads.offer(folder, "sweep")
                record = record | ({"no_download": said} if said else {})
        return finite(record), file

    @endpoint
    def tune(
        self,
        speedup: float | None = None,
        run_seconds: float | None = None,
        match_dense: bool = False,
        cost: str = "macs",
        seconds: float = 60,
        evaluations: int = 60,
        images: int | None = None,
        held_out: int | None = None,
        steps: int | None = None,
        scheduler: str = "",
        seed: int = 0,
        model: str = "",
    ) -> Json:
        """Search for steps, solver and plan with the best pictures within a budget.

        Ask for one of the first three. A calibration and the timing of the device come first, where
        they are missing, and are not counted in the time.

        Args:
            speedup: so many times faster than the dense reference
            run_seconds: predicted seconds of the denoiser at most
            match_dense: no worse than the dense reference on other noise, as fast as possible
            cost: what a speed-up is counted in, macs or seconds
            seconds: of the search, 1 to 600
            evaluations: configurations at most
            images: of one evaluation; none, as many as the page takes, which is the most
            held_out: images of other noise for the finalists; none, as many as the page takes
            steps: keep these sampling steps; none, they are searched for
            scheduler: keep this sampler; empty, it is searched for
            seed: of the search
            model: name of a model of this studio; empty, the first one
        Returns:
            what `python app.py tune --json` prints: best plan, front, what is measured of the best
        """
        workshop = self.models.of(model).workshop
        goal = Goal(speedup, run_seconds, match_dense, "seconds" if cost == "seconds" else "macs")
        usual, finals = pictures(workshop)
        effort = Effort(
            number_within(seconds, 1, MOST_TUNE_SECONDS, "The seconds of a tune"),
            evaluations,
            whole_number(usual if images is None else images, 1, finals, "The images of a tune"),
            whole_number(
                finals if held_out is None else held_out, 1, finals, "The held-out images"
            ),
            seed,
        )
        checked_fixed(steps, scheduler or None, len(workshop.schedule))
        reference = Configuration(
            None, scheduler or "DDIM", 50 if steps is None else steps, workshop.guidance, "dense"
        )
        reference.timesteps(workshop)  # a solver that cannot do these steps is refused
        quality = usual_quality(workshop, reference)
        space = Space(
            workshop,
            reference,
            goal.counts,
            steps,
            scheduler or None,
            quality.moves,
            workshop.usual_images,
        )
        with turn("The tune") as stop:
            workshop.calibrate(None, stop)
            for halves in (2, 1):
                workshop.measure_latency(workshop.usual_images, halves, stop=stop)
            found = _last(Tune(workshop, goal, space, quality, effort, stop=stop).run())
            assert isinstance(found, Tuned)  # a search ends with one, or raises
        return finite(tune_report(workshop, found, space.batch))


def _asked(workshop: Workshop, classes: Any, prompts: Any) -> Any:
    """Return what pictures shall show: prompts, or names of classes. Raises StudioError."""
    if model_facts.asks_words(workshop):
        if classes:
            raise StudioError(f"{workshop.name} paints from text: give prompts, not classes.")
        return prompts
    if prompts:
        raise StudioError(f"{workshop.name} paints classes: give classes, not prompts.")
    return checked_classes(classes, workshop.class_names)


def _settings(workshop: Workshop, wish: Wish) -> SampleSettings:
    """Return the settings of a run, the model's usual ones for None. Raises StudioError."""
    if wish.images is None:
        wish = wish._replace(images=model_facts.images_offered(workshop)[0])
    if wish.guidance is None:
        wish = wish._replace(guidance=workshop.guidance)
    if model_facts.asks_words(workshop):
        wish = wish._replace(size=next(iter(model_facts.sizes(workshop))))
    settings = checked_settings(workshop, wish)
    workshop.check_settings(settings)
    return settings


def _calibrate_for(workshop: Workshop, plans: Iterable[StagePlan | None], stop: Event) -> None:
    """Calibrate where a plan needs it. Raises StudioError, Stopped."""
    if workshop.calibrated or any(map(workshop.needs_calibration, plans)):
        workshop.calibrate(None, stop)


def _last(items: Iterable[Any]) -> Any:
    """Run to the end; return the last thing, and hold no other."""
    return deque(items, maxlen=1).pop()
