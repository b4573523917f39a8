"""Answer other programs about curves and plans: /curves, /predict and /prune."""

from __future__ import annotations

from typing import Any

from core.curves.betas import BETA_SCHEDULES
from core.curves.noise import NoiseSchedule
from core.curves.plan import StagePlan
from core.curves.plan_checks import short
from core.curves.report import CurvesAsked, curves_report, proposal_for
from core.curves.samplers import make_scheduler, sampling_timesteps
from core.errors import StudioError
from core.output import finite
from core.workshop.compare import sampler
from core.workshop.prune_report import prune_for, subnetwork_facts
from core.workshop.workshop import Workshop

from .api_calls import Json, Models, endpoint, turn
from .api_files import Downloads, File, own_folder
from .compare.sides import checked_plan
from .inputs import MOST_ASKED, number_within


class PlanCalls:
    """The endpoints about curves and plans."""

    def __init__(self, models: Models, downloads: Downloads):
        self.models, self.downloads = models, downloads

    @endpoint
    def curves(
        self,
        scheduler: str = "DDIM",
        steps: int = 50,
        target: float = 0.33,
        beta_schedule: str = "",
        variance: float = 1.0,
        preset: str = "formula",
        model: str = "",
    ) -> Json:
        """Return the curves of a noise schedule, and the plan that the paper's rule proposes.

        Args:
            scheduler: sampler whose steps are counted, such as DDIM, Euler, UniPC
            steps: sampling steps
            target: mean sparsity over the sampling steps, 0 to 0.9
            beta_schedule: linear, scaled_linear, squaredcos_cap_v2 or sigmoid; empty, the model's
            variance: mean square of a latent value
            preset: formula (the paper's rule) or interval (guidance in an interval, all kept)
            model: name of a model of this studio; empty, the first one
        Returns:
            what `python app.py curves --json` prints: curves per timestep, plan, rule
        """
        predictions = self.models.of(model)
        asked = CurvesAsked(
            scheduler,
            predictions.whole_steps(steps),
            number_within(target, 0, MOST_ASKED, "The target"),
            number_within(variance, 1e-6, 1e6, "The variance"),
            preset,
        )
        schedule, name, run = _schedule(predictions.workshop, scheduler, beta_schedule)
        timesteps = sampling_timesteps(run, asked.steps)
        proposal = proposal_for(schedule, timesteps, asked)
        return finite(curves_report(schedule, name, timesteps, asked, proposal))

    @endpoint
    def predict(
        self,
        plan: StagePlan,
        scheduler: str = "DDIM",
        steps: int = 50,
        exact: bool = False,
        model: str = "",
    ) -> Json:
        """Predict what a plan costs and loses, before anything runs; nothing in it is measured.

        Args:
            plan: a plan as JSON, such as `plan` of /curves
            scheduler: sampler of the run
            steps: sampling steps
            exact: layer errors of the stages themselves, which needs a calibration and takes longer
            model: name of a model of this studio; empty, the first one
        Returns:
            MACs, predicted seconds and layer errors of the run and of each stage, with units
        """
        predictions = self.models.of(model)
        with turn("The prediction"):
            found = predictions.predict(plan, scheduler, steps, exact)
        workshop = predictions.workshop
        facts = {
            "plan": found.plan.to_json(),
            "scheduler": scheduler,
            "steps": found.asked,
            "model": workshop.name,
            "device": workshop.device_text,
        }
        return finite(facts | found.prediction.to_json())

    @endpoint
    def prune(
        self,
        plan: StagePlan,
        scheduler: str = "",
        steps: int = 50,
        download: bool = True,
        model: str = "",
    ) -> tuple[Json, File]:
        """Build the three subnetworks of a plan, calibrating first where that was never done.

        Args:
            plan: a plan as JSON, such as `plan` of /curves
            scheduler: sampler of the run that MACs are counted for; empty, the model's own
            steps: sampling steps of that run
            download: offer the subnetworks as a zip of safetensors files, at most 1 GB
            model: name of a model of this studio; empty, the first one
        Returns:
            what `python app.py prune --json` prints, without `out`
            the zip file; unpacked, MosaicTransformer.from_pretrained opens it
        """
        predictions = self.models.of(model)
        workshop, count = predictions.workshop, predictions.whole_steps(steps)
        own = workshop.checkpoint.pipeline.scheduler
        run = sampler(workshop, scheduler) if scheduler else own
        timesteps = sampling_timesteps(run, count)
        checked_plan(workshop, plan, timesteps)
        with turn("Pruning") as stop:
            wanted = workshop.built(plan.counted(timesteps))
            if workshop.calibrated or workshop.needs_calibration(wanted, errors=True):
                workshop.calibrate(None, stop)
            done = prune_for(workshop, wanted, timesteps, count, stop=stop)
            report, file = done.report, None
            if download:
                facts = finite(subnetwork_facts(workshop, done.mosaic, report))
                with own_folder() as folder:
                    files = done.mosaic.save_pretrained(folder, facts, stop=stop)
                    file, said = self.downloads.offer(folder, "subnetworks")
                report = report | ({"no_download": said} if said else {"files": files})
        return finite(report), file


def _schedule(workshop: Workshop, scheduler: str, name: str) -> tuple[NoiseSchedule, str, Any]:
    """Return a noise schedule, its name and the sampler on it. Raises StudioError.

    name: of other betas than the model's own; empty for these.
    """
    if not name:
        own = workshop.schedule
        return own, own.beta_schedule or own.name, sampler(workshop, scheduler)
    if name not in BETA_SCHEDULES:
        raise StudioError(
            f"A beta schedule is one of {', '.join(BETA_SCHEDULES)}, not {short(name)}."
        )
    return NoiseSchedule.from_betas(name), name, make_scheduler(scheduler, name)
