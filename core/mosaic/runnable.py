"""Run networks plain, captured or compiled, with what a run prepares beside them.

`MosaicTransformer` chooses the network by timestep; here is how the one that was chosen runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self, cast

from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..graphs import GraphMaker
from .across_stages import watched
from .adaln import Modulation, modulations, norms_of
from .compiling import compiled
from .modes import PLAIN, Preparation, Ways, check_runs
from .reuse import reusing
from .slimming import shallow
from .subnetworks import Subnetworks

# of adaLN vectors for one run; 50 steps of DiT-XL/2 in fp16 take 39 MB for one image with guidance
TABLE_BYTES = 256 << 20


class RunnableNetworks(Subnetworks):
    """Subnetworks with the ways in which they run. `MosaicTransformer` routes to them."""

    _compiled: dict[int, Callable[..., Any]]  # id of a network -> its compiled forward
    _ways: Ways
    _twins: dict[str, Any]  # mode -> see `in_mode`
    _reusing: dict[int, nn.Module]  # stage -> its network with reusable parts

    def _prepare_anew(self) -> None:
        """Forget what was captured and compiled: it held the tensors and parts of before."""
        self._ways, self._twins = self._ways.again(), {}

    def compile_stages(
        self,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        dynamic: bool | None = None,
        fullgraph: bool = True,
    ) -> None:
        """Compile every network as a whole with torch.compile, one graph per stage.

        Each network is compiled when it first runs. Arguments as torch.compile takes them. This
        holds for `network(t)`, for a stock pipeline and for the dense model behind `disable()`. It
        is not carried over to deep copies.
        """
        self._check_preparable()
        names = dict(zip(map(id, self.stages), STAGES, strict=True))
        options = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": fullgraph}
        self._compiled = {
            id(n): compiled(n, names.get(id(n), "dense"), **options) for n in self.networks()
        }

    def _check_preparable(self) -> None:
        """Raise StudioError where networks can only run as they stand."""
        if self.plan is not None and self.plan.reuses:
            raise StudioError(
                "Stages that reuse what their steps gave run plain only: leave reuse out of"
                " the plan, or run it plain."
            )
        if watched(self.networks()):
            raise StudioError(
                "Blocks of this model run forwards put in their place by hand; build it anew to "
                "compile its stages."
            )

    @property
    def mode(self) -> str:
        """Return how the networks run: one of `core.mosaic.modes.MODES`."""
        return self._ways.mode

    @property
    def preparation(self) -> Preparation:
        """Return what capturing and compiling took since `accelerate`, and what ran plain."""
        return self._ways.preparation

    def accelerate(self, mode: str, graphs: GraphMaker | None = None) -> Self:
        """Run all networks in a mode from now on; return the mosaic.

        mode: "plain"; "graphs", each forward captured as a CUDA graph for every shape of inputs;
        "compiled", transformer blocks compiled one by one, and on CUDA the whole forward captured.
        The first call with new shapes prepares and takes long. graphs: what captures, where it is
        not CUDA. Raises StudioError for a mode that this device cannot run.
        """
        if graphs is None:
            check_runs(mode, self.device)
        if mode != PLAIN:
            self._check_preparable()
        self._ways = Ways(mode, graphs)
        return self

    def in_mode(self, mode: str) -> Self:
        """Return a twin over the same networks that runs in a mode, or the mosaic where it does.

        Raises StudioError for a mode that this device cannot run.
        """
        if mode == self.mode:
            return self
        if mode not in self._twins:
            twin = shallow(self)
            vars(twin).update(_compiled={}, _twins={})  # its own, not shared
            self._twins[mode] = twin.accelerate(mode)
        return self._twins[mode]

    def reusable(self, stage: int) -> Callable[..., Tensor]:
        """Return the forward of a stage whose attentions and MLPs a `core.mosaic.reuse.Walk` keeps.

        It runs as it stands, not compiled, and returns the bare prediction tensor.
        """
        if stage not in self._reusing:
            self._reusing[stage] = reusing(self.stages[stage], self.layers)
        return partial(self._run, self._reusing[stage])

    def tabulate(self, timesteps: Tensor, class_labels: Tensor) -> list[Modulation] | None:
        """Return the adaLN vectors of a run, one entry per timestep (steps,), or None.

        Each entry is to be given to `network(t)` as its `class_labels`; class_labels here:
        (batch,). The table rounds like one matrix product over all steps (fp32: a few units in the
        last place). None where blocks share no embedder, and where the table would take more than
        TABLE_BYTES: for large batches it hardly pays.
        """
        if self.no_table(len(timesteps), len(class_labels)):
            return None
        return modulations(self.stages[0], timesteps, class_labels, self.dtype)

    def no_table(self, steps: int, rows: int) -> str:
        """Return why `tabulate` makes no table for so many steps and batch rows, in words.

        The text is empty where `tabulate` makes a table.
        """
        if self.once is None:
            return (
                "This model has no embedder that its blocks share, so adaLN vectors cannot come"
                " from a table"
            )
        norms = norms_of(self.stages[0])
        width = cast(nn.Linear, norms[0].linear).out_features
        most = TABLE_BYTES // (steps * len(norms) * width * self.dtype.itemsize)
        if rows <= most:
            return ""
        return (
            f"A table of adaLN vectors for {rows} rows (images, twice with guidance) and {steps}"
            f" steps would be too large; {most} rows fit"
        )

    def _way(self, network: nn.Module) -> Callable[..., Any]:
        """Return the forward of a network in the mosaic's mode; plain where weights come and go."""
        if "_hf_hook" in self.__dict__ and self.mode != PLAIN:
            self.preparation.note("Weights are offloaded between calls, so all steps ran plain.")
            return network
        return self._ways.of(network)

    def _run(
        self, network: nn.Module, sample: Tensor, timestep: Tensor, *args: Any, **conditions: Any
    ) -> Tensor:
        """Run one network in the mosaic's mode and return the bare prediction tensor."""
        forward = self._compiled.get(id(network)) or self._way(network)
        return forward(sample, timestep, *args, **conditions, return_dict=False)[0]
