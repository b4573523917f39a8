"""One loaded model with everything known about it: calibration, predictions, subnetworks.

After one calibration any plan is arithmetic on Grams: `predict` answers from per-bin curves in
milliseconds, or exactly from the stage's own Grams; `build` turns a plan into slim networks without
running the model. One removal order a layer (all bins pooled), compensation per stage.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from ..cache import cache_root, fingerprint, network_key
from ..calibration.bank import GramBank
from ..calibration.data import CalibrationData, DataOptions
from ..calibration.measure import calibrate
from ..calibration.preflight import check_memory, check_room, check_writable, ordering_memory
from ..calibration.row_weights import RowWeights
from ..calibration.settings import CalibrationSettings, gram_key, token_warning
from ..curves.dynamics import SampledCurves
from ..curves.noise import BETA_SCHEDULES, NoiseSchedule
from ..curves.plan import STAGES, StagePlan
from ..errors import Stopped, StudioError
from ..models.checkpoints import BUNDLED, Checkpoint, load_checkpoint
from ..models.devices import device_text
from ..models.families import Conditions, family_of, first_parameter
from ..models.layers import PrunableLayer, find_layers
from ..mosaic.network_cache import Built, expected_bytes
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.cuts import Cut
from ..pruning.layer_cuts import Surgeon
from ..pruning.orders import RemovalOrders, find_orders, orders_file
from ..sampling.metrics import Judge
from .comparison import Comparison, SampleSettings
from .data_sources import choose_source
from .predict import Pricing
from .study import Finding, findings, load_study


class Workshop(Pricing):
    """A checkpoint and what was measured of it. Thread-safe;
    keep one per model (`get_workshop`).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: CalibrationSettings | None = None,
        cache: Path | None = None,
        data: DataOptions | None = None,
    ):
        scheduler = checkpoint.pipeline.scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.scheduler = scheduler
        self.checkpoint, self.transformer, self.vae = (
            checkpoint,
            checkpoint.denoiser,
            checkpoint.pipeline.vae,
        )
        self.family = family_of(self.transformer)
        self.settings = (settings or CalibrationSettings()).on(len(self.schedule))
        if self.settings.guidance is None:
            self.settings = replace(self.settings, guidance=self.family.guidance)
        self.device, self.dtype = (
            first_parameter(self.transformer).device,
            first_parameter(self.transformer).dtype,
        )
        self.latent_shape = self.family.latent_shape(self.transformer)  # (c, h, w)
        self.name, self.class_names = checkpoint.name, checkpoint.class_names
        self.latents, self.labels = checkpoint.latents, checkpoint.labels
        needed, weighs = (
            self.settings.images + self.settings.held_out,
            self.settings.weighting == "guidance",
        )
        self.source = choose_source(checkpoint, self.family, needed, data or DataOptions(), weighs)
        self.device_text = device_text(self.device)
        self.layers: list[PrunableLayer] = find_layers(self.transformer)
        self.family.check(self.transformer, checkpoint.pipeline)
        self.blocks = len({layer.block for layer in self.layers})
        # refuses gates where there are none, before any work
        RowWeights(self.transformer, self.layers, self.settings.weighting, self.settings.guidance)
        if self.schedule.kind != "vp" or scheduler.config.get("timestep_type") == "continuous":
            kind = f"{self.name} comes with {type(scheduler).__name__}"
            raise StudioError(
                f"{kind}, for flow-matching or sigma-space models; only models trained with betas"
                " can be pruned so far."
            )
        self.prediction_type = getattr(scheduler.config, "prediction_type", "epsilon")
        if self.prediction_type != "epsilon":
            raise StudioError(
                f"{self.name} predicts {self.prediction_type}; only epsilon prediction is supported"
                " so far."
            )
        own = scheduler.config.get("beta_schedule", "linear")
        self.beta_schedule = own if own in BETA_SCHEDULES else "linear"
        self.cache = Path(cache) if cache else cache_root()
        self.lock = threading.RLock()
        self._building = threading.Lock()
        # one calibration at a time; a second caller waits and finds it done
        self._calibrating = threading.Lock()
        self.dense = MosaicTransformer(self.transformer, None, [None] * 3, layers=self.layers)
        self._bank = GramBank(self.folder, self.layers, self.settings)
        self._orders: RemovalOrders | None = None
        self.surgeon = Surgeon(
            self.transformer, self.layers, lambda: self._bank, lambda: self.orders
        )
        self._built = Built(self.transformer)
        self._latency, self._priced, self._shared, self._layer_times = {}, {}, {}, None
        self.paths_walked: dict[tuple, SampledCurves] = {}  # see core.sampling.sample_path

    # ------------------------------------------------------------ what is known

    @cached_property
    def network(self) -> str:
        """Hash of the denoiser: its class, configuration and weights."""
        return network_key(self.transformer)

    @cached_property
    def key(self) -> str:
        """Hash of everything that a Gram depends on: names the folder in the cache before any data
        are made.
        """
        return gram_key(
            self.network,
            self.schedule,
            self.prediction_type,
            self.source.identity,
            self.settings,
            str(self.dtype),
        )

    @cached_property
    def model_key(self) -> str:
        """Hash of denoiser and noise schedule, in any precision: whose removal orders a model
        folder may ship.
        """
        tables = {"a": torch.tensor(self.schedule.a), "s": torch.tensor(self.schedule.s)}
        return fingerprint(
            network_key(self.transformer, rounded=True), tables, self.prediction_type
        )

    @cached_property
    def folder(self) -> Path:
        return self.cache / self.key

    @cached_property
    def judge(self) -> Judge | None:
        """The feature network shipped beside the model, if any."""
        folder = self.checkpoint.folder and self.checkpoint.folder / "features"
        return Judge.load(folder) if folder and folder.exists() else None

    def example(self) -> Comparison | None:
        """The finished comparison that ships with the model (a
        `core.workshop.comparison.Comparison`), or None.
        """
        folder = self.checkpoint.folder and self.checkpoint.folder / "example"
        return Comparison.load(folder) if folder and folder.exists() else None

    def study(self) -> list[Finding]:
        """What `core.bench.studies quality` found on this model (`core.workshop.study.Finding`s),
        if the model ships with it; else an empty list.
        """
        path = self.checkpoint.folder and self.checkpoint.folder / "study.json"
        return findings(load_study(path)) if path and path.exists() else []

    @property
    def calibrated(self) -> bool:
        return self._bank.complete and RemovalOrders.exists(self.folder, orders_file(self.settings))

    @property
    def bins_kept(self) -> int:
        """Calibration bins that are measured already."""
        return self.settings.bins - len(self._bank.missing())

    @property
    def calibration_text(self) -> str:
        if not self.calibrated:
            return "not calibrated on this machine yet"
        o, s = self.orders, self.settings
        warnings = self.calibration_warnings
        warning = f" ({'; '.join(warnings)})" if warnings else ""
        weighed = {"even": "", "guidance": f", rows weighed by guidance {s.guidance:g}"}.get(
            s.weighting, f", rows weighed by {s.weighting}"
        )
        return (
            f"{s.images + s.held_out} images in each of {s.bins} timestep bins ({s.held_out} of"
            f" them held out){weighed}, at least"
            f" {o.tokens_per_column:.{int(o.tokens_per_column < 10)}f} tokens per column and bin,"
            f" from {self.source.text}{warning}, measured {o.when} on {o.device}"
        )

    @property
    def calibration_warnings(self) -> list[str]:
        """What is scarce in this machine's calibration, in words; nothing before there is one."""
        if not self.calibrated:
            return []
        return [w for w in (self.source.warning, token_warning(self.orders.tokens_per_column)) if w]

    @property
    def orders(self) -> RemovalOrders:
        """Removal orders and per-bin curves: this machine's, else the shipped ones. StudioError
        when there are none.
        """
        with self.lock:
            if self._orders is None or (self._orders.shipped and self.calibrated):
                name = orders_file(self.settings)
                local = RemovalOrders.exists(self.folder, name)
                shipped = self.checkpoint.folder and self.checkpoint.folder / "calibration"
                if local:
                    found = RemovalOrders.load(self.folder, self.layers, name=name)
                elif shipped and RemovalOrders.exists(shipped):
                    found = RemovalOrders.load(shipped, self.layers, shipped=True)
                else:
                    found = None
                if found is None or (found.shipped and found.model not in (None, self.model_key)):
                    raise StudioError("This model has not been calibrated yet: press Calibrate.")
                self._orders = found
            return self._orders

    # ------------------------------------------------------------ what is sampled

    def check_settings(self, settings: SampleSettings) -> None:
        """Raise StudioError for what this model cannot sample."""
        self.family.check_request(self.name, self.transformer, settings)

    def shape_for(self, settings: SampleSettings) -> tuple[int, int, int]:
        """Latents (c, h, w) of one image."""
        if settings.size is None:
            return self.latent_shape
        return (
            self.latent_shape[0],
            *(x // self.checkpoint.pipeline.vae_scale_factor for x in settings.size),
        )

    def conditions(self, settings: SampleSettings) -> Conditions:
        """What the images of these settings are conditioned on."""
        return self.family.requested_conditions(self.checkpoint.pipeline, settings)

    def some_conditions(self, n: int) -> Conditions:
        """Conditions for n images that nobody asked for in particular: classes in turn, or the
        built-in prompts in turn.
        """
        return self.family.some_conditions(self.checkpoint.pipeline, self.class_names, n)

    # ------------------------------------------------------------ calibration

    def data(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> CalibrationData:
        """The latents to calibrate on; made first where they are not shipped. Resumes; raises
        Stopped or StudioError.
        """
        return self.source.load(self, progress, stop)

    def calibrate(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> None:
        """Measure what is missing. Resumes; raises Stopped or StudioError,
        finished bins are kept.
        """
        with self._calibrating:  # not `lock`: predictions go on meanwhile
            self._bank.check()
            if self.calibrated and self._orders_readable():
                return
            start = time.perf_counter()
            # making the data may take hours: what cannot be done is refused, and what will be
            # written is said, before that
            if self._bank.missing():
                _, need = check_room(
                    self._bank,
                    self.device,
                    4 * self.source.made * torch.Size(self.latent_shape).numel(),
                )
                if progress is not None:
                    progress(0, 1, f"calibration {need}")
                data = self.data(progress, stop)
                self._bank = calibrate(
                    self.transformer,
                    self.layers,
                    self.schedule,
                    data.latents,
                    data.conditions,
                    self.folder,
                    self.settings,
                    progress,
                    stop,
                    ids=data.ids,
                )
            else:
                check_memory(ordering_memory(self.layers), self.device)
                check_writable(self.folder)
            orders = find_orders(
                self.transformer,
                self.layers,
                self._bank,
                self.device_text,
                progress,
                stop,
                start,
                self.settings.damping,
            )
            replace(orders, model=self.model_key).save(self.folder, orders_file(self.settings))
            # in this order, as `build` takes them: no subnetwork of the old orders is put away
            # after this
            with self._building, self.lock:
                self._orders = None
                self.surgeon.forget()
                self._built.clear()
                self._shared.clear()

    def _orders_readable(self) -> bool:
        """Whether this machine's orders can be read; a damaged file is dropped, so that it is
        worked out again from the bins.
        """
        try:
            RemovalOrders.load(self.folder, self.layers, name=orders_file(self.settings))
        except StudioError:
            RemovalOrders.drop(self.folder, orders_file(self.settings))
            return False
        return True

    def snap(self, plan: StagePlan) -> StagePlan:
        """The plan with its boundaries moved to the nearest bin edges (free boundaries cut a bin in
        proportion).
        """
        inner = self.settings.edges[1:-1]
        if len(inner) < 2:
            return plan  # two boundaries need two edges
        # the last edge is left for the high boundary
        low = min(inner[:-1], key=lambda e: abs(e - plan.boundaries[0]))
        high = min((e for e in inner if e > low), key=lambda e: abs(e - plan.boundaries[1]))
        return plan.with_boundaries(low, high)

    # ------------------------------------------------------------ subnetworks

    def needs_calibration(self, plan: StagePlan | None, errors: bool = False) -> bool:
        """Tell whether this plan's networks wait for a calibration; None is the dense model.

        errors: exact errors of what is removed are asked for too; a cut by magnitude has them as
        well.
        """
        if plan is None or self.calibrated or not any(plan.sparsity):
            return False
        if not plan.plain:
            return True  # how layers share the cut is read off its curves
        return (errors or plan.method == "obs") and any(map(any, self.widths(plan)))

    def build(
        self,
        plan: StagePlan,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        masked: bool = False,
        measured: bool = False,
    ) -> MosaicTransformer:
        """The subnetworks of a plan, ready to sample. Calibrates first if that was never done.
        Raises Stopped.

        `measured` works out every layer's exact error on the way, which `predict(exact=True)` then
        finds done: one factorisation for both.
        """
        self._check(plan)
        if self.needs_calibration(plan):
            self.calibrate(progress, stop)
        if not plan.plain and plan.costs == "latency" and any(plan.sparsity):
            self.measure_layers(progress, stop)
        widths = self.widths(plan)
        with self._building:  # not `lock`: predictions go on meanwhile
            if (found := self._built.find(plan, masked)) is not None:
                return found
            places = [(*self._range(plan, stage), tuple(widths[stage])) for stage in range(3)]
            self._built.make_room(
                expected_bytes(
                    self.layers, [removed for *_, removed in set(places)], self.dtype.itemsize
                )
            )
            shared: dict[tuple, list[Cut] | None] = {}
            cuts = []
            for stage, where in enumerate(places):
                if where not in shared:
                    shared[where] = self._cuts(plan, stage, widths[stage], progress, stop, measured)
                cuts.append(shared[where])
            built = MosaicTransformer(self.transformer, plan, cuts, masked, self.layers)
            self._built.keep(built, masked)
        return built

    def _cuts(
        self,
        plan: StagePlan,
        stage: int,
        removed: list[int],
        progress: Progress | None,
        stop: threading.Event | None,
        measured: bool = False,
    ) -> list[Cut] | None:
        low, high = self._range(plan, stage)
        if not any(removed):
            return None
        cuts = []
        for i, (layer, gone) in enumerate(zip(self.layers, removed, strict=True)):
            if stop is not None and stop.is_set():
                raise Stopped(
                    "Stopped while pruning; the model and the calibration are as they were."
                )
            if progress is not None:
                progress(
                    stage * len(removed) + i,
                    3 * len(removed),
                    f"pruning the {STAGES[stage]} stage, {layer.name}",
                )
            if measured:
                self.surgeon.errors(i, low, high, gone, plan.method)
            cuts.append(self.surgeon.cut(i, low, high, gone, plan.method))
        return cuts


_WORKSHOPS: dict[tuple, Workshop] = {}
_WORKSHOPS_LOCK = threading.Lock()


def get_workshop(
    model: str | Path = BUNDLED,
    device: str = "auto",
    revision: str | None = None,
    dtype: str | None = None,
    settings: CalibrationSettings | None = None,
    data: DataOptions | None = None,
) -> Workshop:
    """The one workshop of this model, precision, calibration settings and calibration data in this
    process. Raises StudioError.
    """
    key = (
        str(model),
        device,
        revision,
        dtype or "auto",
        settings or CalibrationSettings(),
        data or DataOptions(),
    )
    with _WORKSHOPS_LOCK:
        if key not in _WORKSHOPS:
            _WORKSHOPS[key] = Workshop(
                load_checkpoint(model, device, revision, dtype), settings, data=data
            )
        return _WORKSHOPS[key]
