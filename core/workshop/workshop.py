"""Load one model and keep everything known about it: calibration, predictions, subnetworks.

After one calibration any plan is arithmetic on Grams: `predict` answers from per-bin curves in
milliseconds, or exactly from the stage's own Grams; `build` turns a plan into slim networks without
running the model. There is one removal order per layer (all bins pooled), and one compensation per
stage.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..allocation.alignment import gives_equal_shares
from ..cache import cache_root, fingerprint
from ..calibration.bank import GramBank
from ..calibration.data import CalibrationData, DataOptions
from ..calibration.row_weights import check_weighting
from ..calibration.settings import CalibrationSettings, gram_key, schedule_tables, token_warning
from ..curves.betas import BETA_SCHEDULES
from ..curves.dynamics import SampledCurves
from ..curves.noise import NoiseSchedule
from ..curves.plan import StagePlan
from ..errors import StudioError
from ..lru_cache import Recent
from ..models.bundled import BUNDLED
from ..models.checkpoints import Checkpoint, load_checkpoint, local_folder
from ..models.devices import device_text
from ..models.families import Conditions, family_of, first_parameter
from ..models.layers import PrunableLayer, find_layers
from ..models.weight_hashes import remembered_key
from ..mosaic.modes import PLAIN
from ..mosaic.network_cache import NetworkCache
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.layer_cuts import LayerPruner
from ..pruning.orders import RemovalOrders
from ..sampling.layer_times import LayerTimes
from ..sampling.metrics import Judge
from ..sampling.timing import LatencyTable
from .build import NetworkBuilder
from .calibration import Calibration, CalibrationFiles, calibration_sentence
from .comparison import Comparison, SampleSettings
from .data_sources import choose_source
from .device_times import DeviceTimes
from .measuring import measure_calibration
from .model_macs import ModelMacs, Shape
from .plan_answers import PlanAnswers
from .predict import PlanPredictor
from .study import Finding, findings, load_study


@dataclass(frozen=True)
class _Known:
    """What follows from one calibration. The next calibration replaces all of it at once."""

    calibration: Calibration
    predictor: PlanPredictor
    builder: NetworkBuilder


class Workshop(PlanAnswers):
    """One loaded model with everything known about it. Thread-safe.

    Keep one per model: `get_workshop`.

    cache: folder of the calibrations; None: `core.cache.cache_root`.
    data: where calibration latents come from; None: shipped ones, else the model's own samples.
    networks: an empty cache for built networks; None: one with the usual bounds.
    Raises StudioError for models and options that cannot be used.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: CalibrationSettings | None = None,
        cache: Path | None = None,
        data: DataOptions | None = None,
        networks: NetworkCache | None = None,
    ):
        self.checkpoint, self.transformer = checkpoint, checkpoint.denoiser
        self.name, self.class_names = checkpoint.name, checkpoint.class_names
        self.latents, self.labels = checkpoint.latents, checkpoint.labels
        self.vae = checkpoint.pipeline.vae
        self.scheduler = checkpoint.pipeline.scheduler
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.prediction_type: str = getattr(self.scheduler.config, "prediction_type", "epsilon")
        own_betas = self.scheduler.config.get("beta_schedule", "linear")
        self.beta_schedule: str = own_betas if own_betas in BETA_SCHEDULES else "linear"

        self.family = family_of(self.transformer)
        self.latent_shape: Shape = self.family.latent_shape(self.transformer)
        parameter = first_parameter(self.transformer)
        self.device, self.dtype = parameter.device, parameter.dtype
        self.device_text = device_text(self.device)
        self.layers: list[PrunableLayer] = find_layers(self.transformer)
        self.blocks = len({layer.block for layer in self.layers})
        self.settings = self._settings_for(settings or CalibrationSettings())

        self.data_options = data or DataOptions()
        # refusals that cost nothing come before `choose_source`, which may hash many pictures
        self._check_model()
        self.source = choose_source(
            checkpoint,
            self.family,
            self.settings.images + self.settings.held_out,
            self.data_options,
            weighs=self.settings.weighting == "guidance",
        )
        self.cache = Path(cache) if cache else cache_root()

        self.lock = threading.Lock()  # held for a moment, while `_known_now` is replaced
        self._building = threading.Lock()  # one build at a time: the cache is bounded while it runs
        # one calibration at a time; a second caller waits and finds it done
        self._calibrating = threading.Lock()
        self.dense = MosaicTransformer(self.transformer, None, [None] * 3, layers=self.layers)
        self.paths_walked: dict[tuple, SampledCurves] = {}  # see core.workshop.compare.sample_path
        # (scheduler, steps) -> timesteps, see core.workshop.compare.visited
        self.timesteps_visited: Recent[tuple[str, int], tuple[float, ...]] = Recent()
        self.macs = ModelMacs(self.transformer, self.dense.full, self.layers, self.latent_shape)
        self.times = DeviceTimes(self.folder, self.macs, self.device, self.device_text, self.dtype)
        bank = GramBank(self.folder, self.layers, self.settings)
        self._files = CalibrationFiles(self, checkpoint.folder)
        nothing = Calibration(bank, LayerPruner(self.transformer, self.layers, bank, None))
        networks = NetworkCache(self.transformer) if networks is None else networks
        self._known_now = self._known_from(nothing, networks)

    def _settings_for(self, settings: CalibrationSettings) -> CalibrationSettings:
        """Return calibration settings on the model's own schedule, with its guidance."""
        own = settings.on(len(self.schedule))
        return own if own.guidance is not None else replace(own, guidance=self.guidance)

    def _check_model(self) -> None:
        """Raise StudioError for a model that cannot be pruned, as far as that costs nothing."""
        config = self.scheduler.config
        if self.schedule.kind != "vp" or config.get("timestep_type") == "continuous":
            raise StudioError(
                f"{self.name} comes with {type(self.scheduler).__name__}, for flow-matching or"
                " sigma-space models; only models trained with betas can be pruned so far."
            )
        if self.prediction_type != "epsilon":
            raise StudioError(
                f"{self.name} predicts {self.prediction_type}; only epsilon prediction is supported"
                " so far."
            )
        self.family.check(self.transformer, self.checkpoint.pipeline)
        check_weighting(self.transformer, self.layers, self.settings.weighting)

    # ------------------------------------------------------------ what is known

    @cached_property
    def network(self) -> str:
        """Return the hash of the denoiser: its class, configuration and weights."""
        return remembered_key(self.transformer, self.checkpoint.files, self.cache)

    @cached_property
    def key(self) -> str:
        """Return the hash of everything that a Gram depends on, the name of the cache folder.

        It is known before any data are made.
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
        """Return the hash of denoiser and noise schedule, the same in every precision.

        A model folder may ship removal orders for the model of this hash.
        """
        files = self.checkpoint.files
        network = remembered_key(self.transformer, files, self.cache, rounded=True)
        return fingerprint(network, schedule_tables(self.schedule), self.prediction_type)

    @cached_property
    def folder(self) -> Path:
        """Return the folder of this model's calibration in the cache."""
        return self.cache / self.key

    @cached_property
    def judge(self) -> Judge | None:
        """Return the feature network shipped beside the model, if any."""
        folder = self.checkpoint.folder and self.checkpoint.folder / "features"
        return Judge.load(folder) if folder and folder.exists() else None

    def example(self) -> Comparison | None:
        """Return the finished comparison that ships with the model, or None."""
        folder = self.checkpoint.folder and self.checkpoint.folder / "example"
        return Comparison.load(folder) if folder and folder.exists() else None

    def study(self) -> list[Finding]:
        """Return what the study of this model found, if the model ships with one, else nothing.

        `python -m core.bench quality` makes a study.
        """
        path = self.checkpoint.folder and self.checkpoint.folder / "study.json"
        return findings(load_study(path)) if path and path.exists() else []

    def check_shipped(self) -> None:
        """Read all that ships beside the model. Raises StudioError for a damaged file."""
        _ = self.judge
        self.example()
        self.study()

    # ------------------------------------------------------------ what is sampled

    @property
    def guidance(self) -> float:
        """Return the guidance that this model is sampled with where none is asked for."""
        return self.checkpoint.guidance

    def check_settings(self, settings: SampleSettings) -> None:
        """Raise StudioError for what this model cannot sample."""
        self.family.check_request(self.name, self.transformer, settings)

    def shape_for(self, settings: SampleSettings) -> tuple[int, int, int]:
        """Return the latent shape (c, h, w) of one image."""
        if settings.size is None:
            return self.latent_shape
        return (
            self.latent_shape[0],
            *(x // self.checkpoint.pipeline.vae_scale_factor for x in settings.size),
        )

    def conditions(self, settings: SampleSettings) -> Conditions:
        """Return the conditions of the images of these settings."""
        return self.family.requested_conditions(self.checkpoint.pipeline, settings)

    def some_conditions(self, n: int) -> Conditions:
        """Return conditions for n images: classes in turn, or the built-in prompts in turn."""
        return self.family.some_conditions(self.checkpoint.pipeline, self.class_names, n)

    # ------------------------------------------------------------ calibration

    @property
    def bank(self) -> GramBank:
        """Return the Grams of the calibration; bins may be missing."""
        return self._known_now.calibration.bank

    @property
    def pruner(self) -> LayerPruner:
        """Return what cuts single layers by the present calibration."""
        return self._known().calibration.pruner

    @property
    def orders(self) -> RemovalOrders:
        """Return removal orders and per-bin curves: this machine's, else the shipped ones.

        Raises NotCalibrated where there are none, StudioError for a damaged file.
        """
        return self._known().calibration.orders

    @property
    def calibrated(self) -> bool:
        """Say whether all bins and the removal orders are on this machine."""
        return self._known_now.calibration.complete

    @property
    def bins_kept(self) -> int:
        """Return how many calibration bins are measured already."""
        return self.settings.bins - len(self.bank.missing())

    @property
    def calibration_text(self) -> str:
        """Return one sentence on the calibration: how much was measured, on what and when."""
        if not self.calibrated:
            return "not calibrated on this machine yet"
        return calibration_sentence(
            self.orders, self.settings, self.source.text, self.calibration_warnings
        )

    @property
    def calibration_warnings(self) -> list[str]:
        """Return what is scarce in this machine's calibration; nothing before there is one."""
        if not self.calibrated:
            return []
        warnings = (self.source.warning, token_warning(self.orders.tokens_per_column))
        return [warning for warning in warnings if warning]

    def _known(self) -> _Known:
        """Return what is known now; read the disk again where it may hold better orders."""
        with self.lock:
            present = self._known_now.calibration
            if present.outdated:
                read = self._files.read(present.bank)
                if not read.answers_as(present):
                    self._known_now = self._known_from(read, self._known_now.builder.cache.empty())
            return self._known_now

    def _known_from(self, calibration: Calibration, networks: NetworkCache) -> _Known:
        """Return what follows from a calibration, with an empty cache for its networks."""
        predictor = PlanPredictor(self.name, len(self.schedule), self.macs, calibration, self.times)
        builder = NetworkBuilder(self.transformer, predictor, networks)
        return _Known(calibration, predictor, builder)

    def data(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> CalibrationData:
        """Return the latents to calibrate on; make them first where none are shipped.

        Resumes. Raises Stopped, StudioError.
        """
        return self.source.load(self, progress, stop)

    def calibrate(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> None:
        """Measure what is missing, and replace what is known.

        Resumes: finished bins are kept. Predictions and builds go on meanwhile, from what was known
        before. Raises Stopped, StudioError.
        """
        with self._calibrating:
            self.bank.check()
            if self.calibrated and self._files.readable():
                return
            start = time.perf_counter()
            bank, orders = measure_calibration(self, self.bank, start, progress, stop)
            self._files.save(orders)
            with self.lock:
                networks = self._known_now.builder.cache.empty()
                self._known_now = self._known_from(self._files.read(bank), networks)

    # ------------------------------------------------------------ plans

    def snap(self, plan: StagePlan) -> StagePlan:
        """Return the plan with its boundaries moved to the nearest bin edges.

        Free boundaries cut a bin in proportion.
        """
        return plan.on_edges(self.settings.edges)

    def needs_calibration(self, plan: StagePlan | None, errors: bool = False) -> bool:
        """Say whether this plan's networks wait for a calibration; None is the dense model.

        errors: exact errors of what is removed are needed too; a cut by magnitude has errors as
        well.
        """
        if plan is None or self.calibrated or not any(plan.sparsity):
            return False
        if not gives_equal_shares(self.built(plan)):
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
        """Return the subnetworks of a plan, ready to sample. Raises Stopped, StudioError.

        Calibrates first where that was never done, and times layers where the plan counts in time.

        masked: keep the full width and set to zero what is removed (the slow reference).
        measured: compute every layer's exact error too, which `predict(exact=True)` then finds
            done: one factorisation for both.
        """
        self.predictor.check(plan)
        plan = self.built(plan)
        if self.needs_calibration(plan):
            self.calibrate(progress, stop)
        if not gives_equal_shares(plan) and plan.costs == "latency" and any(plan.sparsity):
            self.measure_layers(progress, stop)
        builder = self._known().builder
        builder.predictor.widths(plan)  # a plan that cannot be met is refused before the wait
        with self._building:
            return builder.build(plan, progress, stop, masked, measured)

    @property
    def networks(self) -> NetworkCache:
        """Return the networks that are kept now."""
        return self._known().builder.cache

    # ------------------------------------------------------------ predictions

    @property
    def predictor(self) -> PlanPredictor:
        """Return what answers questions about plans, by the present calibration."""
        return self._known().predictor

    @property
    def forward_macs(self) -> tuple[int, int]:
        """Return (linear and convolution, attention) MACs of a dense forward of one image."""
        return self.macs.forward()

    def removed(self, sparsity: float) -> list[int]:
        """Return the groups that each layer loses at one sparsity for all."""
        return self.macs.removed(sparsity)

    def row_macs(self, removed: list[int] | float, shape: Shape | None = None) -> float:
        """Return `ModelMacs.row`: MACs of one forward of one row of a cut network."""
        return self.macs.row(removed, shape)

    # ------------------------------------------------------------ this device

    @property
    def usual_images(self) -> int:
        """Return the images that this model's times are for by default."""
        return self.times.usual_images

    def latency(
        self,
        rows: int,
        shape: Shape | None = None,
        mode: str = PLAIN,
        tabulated: bool = True,
    ) -> LatencyTable | None:
        """Return `DeviceTimes.latency`: seconds of forwards of `rows` rows, if measured."""
        return self.times.latency(rows, shape, mode, tabulated)

    def measure_latency(
        self,
        batch: int = 16,
        halves: int = 2,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        shape: Shape | None = None,
        mode: str = PLAIN,
        tabulated: bool = True,
    ) -> LatencyTable:
        """Time forwards of four widths, once per device, batch, shape and mode. Raises Stopped.

        tabulated: with adaLN vectors from a table, where the model can have one.
        """
        dense, rows = self.dense.in_mode(mode), batch * halves
        return self.times.measure_latency(dense, rows, shape, progress, stop, tabulated)

    @property
    def layer_times(self) -> LayerTimes | None:
        """Return the times of single layers on this device, if they were measured."""
        return self.times.layers

    def measure_layers(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> LayerTimes:
        """Time single layers at the usual batch with guidance, once per device. Raises Stopped."""
        return self.times.measure_layers(progress, stop)


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
    """Return the one workshop of a model in this process. Raises StudioError.

    There is one per model, precision, calibration settings and calibration data. A name such as
    "fashion-dit" and the folder that it stands for are one model.
    """
    folder = local_folder(model)
    key = (
        str(folder.resolve() if folder else model),
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
