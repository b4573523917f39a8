"""Run networks plain, captured or compiled, with what a run prepares beside them.

`MosaicTransformer` chooses the network by timestep; here is how the one that was chosen runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..graphs import GraphMaker
from .across_stages import watched
from .adaln_table import KeptTable, StepVectors, labels_that_fit, step_vectors
from .compiling import compiled
from .modes import PLAIN, Preparation, Ways, check_runs
from .reuse import reusing
from .slimming import shallow
from .subnetworks import Subnetworks


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

    def tabulate(self, timesteps: Tensor, class_labels: Tensor) -> StepVectors | None:
        """Return the adaLN vectors of a run, one entry per timestep (steps,), or None.

        Each entry is to be given to `network(t)` as its `class_labels`; class_labels here:
        (batch,), on the CPU where nothing shall wait for the device. The entries round like matrix
        products of fixed size (fp32: a few units in the last place off what a step works out). None
        where `no_table` says why. Raises StudioError for what an exported model does not know.
        """
        if self.table is not None:
            return self.table.step_vectors(timesteps, class_labels)
        if self.no_table(len(timesteps), len(class_labels.unique())):
            return None
        return step_vectors(self.stages[0], timesteps, class_labels, self.dtype)

    def no_table(self, steps: int, labels: int) -> str:
        """Return why `tabulate` makes no table for so many steps and different labels, in words.

        The text is empty where `tabulate` makes a table, or has one.
        """
        if self.table is not None:
            return ""
        if self.once is None:
            return (
                "this model has no embedder that its blocks share, so adaLN vectors cannot come"
                " from a table"
            )
        most = labels_that_fit(self.stages[0], steps, self.dtype)
        if labels <= most:
            return ""
        return (
            f"a table of adaLN vectors for {labels} different labels (the null label counts) and"
            f" {steps} steps would be too large, {most} labels fit"
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
        if self.table is not None:
            args, conditions = _from_table(self.table, timestep, args, conditions)
        forward = self._compiled.get(id(network)) or self._way(network)
        return forward(sample, timestep, *args, **conditions, return_dict=False)[0]


def _from_table(
    table: KeptTable, timestep: Tensor, args: tuple[Any, ...], conditions: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace class labels (rows,) by their vectors, which an exported model cannot work out.

    Raises StudioError for timesteps and labels that it was not exported for.
    """
    labels = args[0] if args else conditions.get("class_labels")
    if not torch.is_tensor(labels):  # the vectors are there already
        return args, conditions
    found = table.of_rows(timestep, labels)
    if args:
        return (found, *args[1:]), conditions
    return args, {**conditions, "class_labels": found}
