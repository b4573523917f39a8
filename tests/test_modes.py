"""How networks run: captured through the twin of CUDA's graphs, with compiled blocks, or plain."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from mosaics import PLAN, mosaic_of
from running import KINDS, SCHEDULE, answers, denoiser, make_pipelines, same
from tiny_sdxl import TINY_UNET

from core.curves.samplers import make_scheduler
from core.errors import StudioError
from core.graphs import Retracing
from core.models.checkpoints import load_checkpoint
from core.models.devices import full_precision
from core.models.families import SDXL, DiT
from core.mosaic import compiled_blocks, modes
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser
from core.workshop import device_times
from core.workshop.compare import compare
from core.workshop.comparison import SampleSettings


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


def drawn(mosaic, pipeline, guidance=1.5, n=2, tabulate=False, steps=6):
    """Final latents of a run of our own loop."""
    words = hasattr(pipeline, "unet")
    conditions = (
        SDXL.conditions(pipeline, ["a fox"] * n) if words else DiT.conditions(torch.arange(n))
    )
    side = denoiser(pipeline).config.sample_size
    noise = torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(3))
    runner = Denoiser(mosaic, make_scheduler("DDIM"), SCHEDULE, steps, tabulate=tabulate)
    return runner.run(noise, conditions, guidance)[0]


# ------------------------------------------------------------ captured


@pytest.mark.parametrize("kind", KINDS)
def test_captured_runs_have_the_bits_of_plain_ones(pipelines, kind):
    """Across stages, with and without guidance, for two batch sizes, and for the dense model."""
    pipeline = pipelines[kind]
    plain, mosaic = (mosaic_of(denoiser(pipeline)) for _ in range(2))
    mosaic.accelerate("graphs", Retracing())
    wanted = [{}, {"guidance": 1.0}, {"n": 1}, {"steps": 9}, {}]
    for options in wanted:
        assert torch.equal(drawn(mosaic, pipeline, **options), drawn(plain, pipeline, **options))
    # three stages, each for 4, 2 and 2 rows (of two images without guidance, of one with it)
    assert mosaic.preparation.count == 3 * 2 and mosaic.preparation.seconds > 0
    assert same(answers(mosaic, pipeline), answers(plain, pipeline))  # as a stock pipeline calls
    for one in (plain, mosaic):
        one.disable()
    assert torch.equal(drawn(mosaic, pipeline), drawn(plain, pipeline))
    assert not torch.equal(drawn(mosaic, pipeline), drawn(mosaic_of(denoiser(pipeline)), pipeline))


def test_a_table_is_captured_too(pipelines):
    plain, mosaic = (mosaic_of(pipelines["dit"].transformer) for _ in range(2))
    mosaic.accelerate("graphs", Retracing())
    expected = drawn(plain, pipelines["dit"], tabulate=True)
    assert torch.equal(drawn(mosaic, pipelines["dit"], tabulate=True), expected)


def test_what_was_captured_is_dropped_with_the_tensors_it_held(pipelines):
    mosaic = mosaic_of(copy.deepcopy(pipelines["dit"].transformer)).accelerate(
        "graphs", Retracing()
    )
    before = answers(mosaic, pipelines["dit"])
    mosaic.to(torch.float64)
    after = answers(mosaic, pipelines["dit"], torch.float64)
    assert all(x.dtype == torch.float64 for x in after) and mosaic.mode == "graphs"
    for x, y in zip(before, after, strict=True):
        assert (x - y).abs().max() < 1e-4
    twin = copy.deepcopy(mosaic)
    assert twin.mode == "graphs" and twin.preparation.count == 0
    assert same(answers(twin, pipelines["dit"], torch.float64), after)


def test_a_result_stays_when_the_graph_runs_again(pipelines):
    mosaic = mosaic_of(pipelines["dit"].transformer).accelerate("graphs", Retracing())
    first = answers(mosaic, pipelines["dit"])
    kept = [x.clone() for x in first]
    drawn(mosaic, pipelines["dit"])
    answers(mosaic, pipelines["dit"])
    assert same(first, kept)


def test_without_memory_for_a_graph_it_runs_plain_and_says_so(pipelines):
    class Full(Retracing):
        def capture(self, run):
            raise torch.OutOfMemoryError("no room")

    plain, mosaic = (mosaic_of(pipelines["dit"].transformer) for _ in range(2))
    mosaic.accelerate("graphs", Full())
    assert torch.equal(drawn(mosaic, pipelines["dit"]), drawn(plain, pipelines["dit"]))
    (note,) = mosaic.preparation.notes
    assert "did not suffice" in note and mosaic.preparation.count == 0


def test_two_threads_share_a_graph_and_not_their_results(pipelines):
    mosaic = mosaic_of(pipelines["dit"].transformer).accelerate("graphs", Retracing())
    expected = [drawn(mosaic, pipelines["dit"], guidance=g) for g in (1.5, 3.0)]
    found: dict[int, torch.Tensor] = {}

    def work(k, guidance):
        for _ in range(3):
            found[k] = drawn(mosaic, pipelines["dit"], guidance=guidance)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate((1.5, 3.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same([found[0], found[1]], expected)


def test_a_stock_pipeline_runs_captured(model_folder):
    from diffusers import DiTPipeline

    def run(mode):
        pipeline = DiTPipeline.from_pretrained(model_folder)
        pipeline.set_progress_bar_config(disable=True)
        mosaic = mosaic_of(pipeline.transformer)
        pipeline.transformer = mosaic if mode == "plain" else mosaic.accelerate(mode, Retracing())
        random = torch.Generator().manual_seed(0)
        found = [pipeline([1, 2], 4.0, random, 6, output_type="np").images for _ in range(2)]
        return found, mosaic.preparation.count

    (plain, none), (captured, count) = run("plain"), run("graphs")
    assert (none, count) == (0, 3)  # one per stage, for two runs
    for a, b in zip(plain, captured, strict=True):
        assert (a == b).all()


def test_an_offloaded_mosaic_runs_plain_and_says_so(pipelines):
    import accelerate

    mosaic = mosaic_of(copy.deepcopy(pipelines["dit"].transformer))
    expected = answers(mosaic, pipelines["dit"])
    mosaic.accelerate("graphs", Retracing())
    _, hook = accelerate.cpu_offload_with_hook(mosaic, torch.device("cpu"))
    assert same(answers(mosaic, pipelines["dit"]), expected)
    assert mosaic.preparation.count == 0 and "offloaded" in mosaic.preparation.notes[0]
    hook.remove()
    assert same(answers(mosaic, pipelines["dit"]), expected) and mosaic.preparation.count == 3


# ------------------------------------------------------------ compiled


@pytest.fixture
def graphs_made(monkeypatch):
    """Compile with a backend that counts and computes as it stands; the real one has its test."""
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setattr(modes, "_missing", lambda device: "")  # nothing is compiled to C++
    backend, real = CompileCounterWithBackend("eager"), compiled_blocks.compiled
    monkeypatch.setattr(
        compiled_blocks, "compiled", lambda *a, **k: real(*a, **k | {"backend": backend})
    )
    monkeypatch.setattr(compiled_blocks, "_functions", compiled_blocks.Recent())
    torch._dynamo.reset()
    yield backend
    torch._dynamo.reset()


def test_blocks_of_equal_widths_share_one_graph(pipelines, graphs_made):
    """In one network, between networks, and between mosaics."""
    model = pipelines["dit"].transformer
    dense = MosaicTransformer(model, None, [None] * 3)
    for _ in range(2):
        found = drawn(dense.in_mode("compiled"), pipelines["dit"])
    assert graphs_made.frame_count == 1  # two blocks, both of full width
    assert torch.equal(found, drawn(dense, pipelines["dit"]))
    again = MosaicTransformer(model, None, [None] * 3).accelerate("compiled")
    assert torch.equal(drawn(again, pipelines["dit"]), found)
    assert graphs_made.frame_count == 1 and again.preparation.count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_runs_are_near_plain_ones(pipelines, graphs_made, kind):
    pipeline, model = pipelines[kind], denoiser(pipelines[kind])
    if kind == "sdxl":  # every kind of block, once where it repeats itself: tracing takes long
        model = type(model)(**{**TINY_UNET, "transformer_layers_per_block": 1}).eval()
    plain, mosaic = mosaic_of(model), mosaic_of(model).accelerate("compiled")
    for options in ({}, {"guidance": 1.0}, {}):
        expected = drawn(plain, pipeline, **options)
        assert (
            drawn(mosaic, pipeline, **options) - expected
        ).abs().max() < 1e-5 * expected.abs().max()
    count = graphs_made.frame_count
    assert count == mosaic.preparation.count > 0
    answers(mosaic, pipeline)  # as a stock pipeline calls, in inference mode
    drawn(mosaic, pipeline)
    assert graphs_made.frame_count - count <= count


@pytest.mark.skipif(bool(modes.why_not("compiled", torch.device("cpu"))), reason="no C++ compiler")
def test_compiled_for_real(pipelines, monkeypatch):
    """With torch's own compiler, with a table too: equal but for rounding."""
    # here, not in processes that would load torch for two small graphs
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    pipeline = pipelines["dit"]
    dense = MosaicTransformer(pipeline.transformer, None, [None] * 3)
    for tabulate in (False, True):
        expected = drawn(dense, pipeline, tabulate=tabulate)
        found = drawn(dense.in_mode("compiled"), pipeline, tabulate=tabulate)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert dense.mode == "plain"


def test_a_block_that_does_not_compile_is_one_sentence(pipelines, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(modes, "_missing", lambda device: "")
    real = compiled_blocks.compiled
    monkeypatch.setattr(compiled_blocks, "_functions", compiled_blocks.Recent())
    monkeypatch.setattr(
        compiled_blocks, "compiled", lambda *a, **k: real(*a, **k | {"backend": broken})
    )
    mosaic = mosaic_of(pipelines["dit"].transformer).accelerate("compiled")
    with pytest.raises(StudioError, match="does not compile here"):
        drawn(mosaic, pipelines["dit"])


# ------------------------------------------------------------ what cannot be


def test_a_mode_that_cannot_be_here_is_refused(pipelines, monkeypatch):
    mosaic = mosaic_of(pipelines["dit"].transformer)
    with pytest.raises(StudioError, match="graphs need CUDA, and this model is on cpu"):
        mosaic.accelerate("graphs")
    with pytest.raises(StudioError, match="one of plain, graphs, compiled"):
        mosaic.accelerate("fast")
    assert mosaic.mode == "plain"
    monkeypatch.setattr(modes.shutil, "which", lambda name: None)
    assert "Compiling needs a C++ compiler" in modes.why_not("compiled", torch.device("cpu"))
    monkeypatch.undo()
    monkeypatch.setattr(modes.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    assert "Python.h" in modes.why_not("compiled", torch.device("cpu"))
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: None)
    assert "Triton" in modes.why_not("compiled", torch.device("cuda"))
    assert not modes.why_not("graphs", torch.device("cuda"))


def test_a_plan_with_reuse_runs_plain_only(pipelines):
    from dataclasses import replace

    plan = replace(PLAN, reuse=(2, 1, 1))
    mosaic = MosaicTransformer(pipelines["dit"].transformer, plan, [None] * 3)
    with pytest.raises(StudioError, match="run plain only"):
        mosaic.accelerate("graphs", Retracing())


# ------------------------------------------------------------ comparisons


def test_a_comparison_names_its_mode_and_predicts_for_it(workshop, graphs_made):
    settings = SampleSettings(labels=(0, 1), steps=4, repeats=2, mode="compiled")
    *previews, found = compare(workshop, None, PLAN, settings)
    assert "preparing both sides to run with compiled blocks" in [p.text for p in previews]
    assert "Both sides ran with compiled blocks; " in found.notes
    assert found.to_json()["mode"] == "compiled" and found.speedup_predicted is not None
    assert workshop.latency(4, mode="compiled") is not None
    assert workshop.dense.mode == "plain"
    # nothing is compiled while it is timed
    before = graphs_made.frame_count
    *_, again = compare(workshop, None, PLAN, settings)
    assert "preparing that took" in found.notes and "was prepared before" in again.notes
    assert graphs_made.frame_count == before and again.latent_mse == found.latent_mse
    with pytest.raises(StudioError, match="need CUDA"):
        list(compare(workshop, None, PLAN, SampleSettings(labels=(0,), mode="graphs")))
    with pytest.raises(StudioError, match="A mode is one of"):
        SampleSettings(labels=(0,), mode="turbo")


def test_compiling_is_in_no_predicted_time(workshop, monkeypatch):
    """The first call of every width compiles; it is not among those that are timed."""
    calls, counted = [], device_times.measure_alternating

    def measured(given, *arguments, **options):
        calls.append(len(given))
        return counted(given, *arguments, **options)

    monkeypatch.setattr(device_times, "measure_alternating", measured)
    device_times.measure_forwards(workshop.dense, workshop.times, 2, tabulated=True)
    assert calls == [4]
    captured = MosaicTransformer(workshop.transformer, None, [None] * 3).accelerate(
        "graphs", Retracing()
    )
    monkeypatch.setattr(MosaicTransformer, "in_mode", lambda self, mode: self)
    device_times.measure_forwards(captured, workshop.times, 2)
    assert calls == [4, 4, 4]


def test_both_sides_of_sparsity_zero_are_the_same_bits_in_every_mode(workshop, graphs_made):
    nothing = PLAN.with_sparsity(0, 0, 0)
    settings = SampleSettings(labels=(0, 1), steps=4, repeats=0, mode="compiled")
    *_, found = compare(workshop, None, nothing, settings, previews=False)
    assert torch.equal(found.a.latents, found.b.latents)


# ------------------------------------------------------------ on a GPU


def test_fp32_means_fp32():
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = True
        full_precision()
        assert [place.allow_tf32 for place in places] == [False, False]
    finally:
        for place, old in zip(places, before, strict=True):
            place.allow_tf32 = old


@pytest.mark.cuda
def test_a_convolution_on_cuda_is_not_rounded_to_tf32(model_folder):
    load_checkpoint(model_folder, "cuda", dtype=torch.float32)
    conv, x = torch.nn.Conv2d(64, 64, 3), torch.randn(4, 64, 32, 32)
    here = conv.double()(x.double())
    there = conv.float().cuda()(x.cuda()).double().cpu()
    assert (here - there).abs().max() < 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["graphs", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_modes_on_cuda(pipelines, kind, mode):
    """Captured: the bits of plain runs. Compiled: near them, in fp32. A second run is the first."""
    model = copy.deepcopy(denoiser(pipelines[kind])).cuda()
    plain, fast = mosaic_of(model), mosaic_of(model).accelerate(mode)
    for options in ({}, {"guidance": 1.0}, {"n": 1}, {}):
        expected, found = drawn(plain, pipelines[kind], **options), None
        for _ in range(2):
            again = drawn(fast, pipelines[kind], **options)
            assert found is None or torch.equal(found, again)
            found = again
        near = 0.0 if mode == "graphs" else 1e-3 * expected.abs().max()
        assert (found - expected).abs().max() <= near, options
    assert fast.preparation.count > 0 and not fast.preparation.notes
    plain.disable()
    fast.disable()
    expected, found = (drawn(m, pipelines[kind]) for m in (plain, fast))
    near = 0.0 if mode == "graphs" else 1e-3 * expected.abs().max()
    assert (found - expected).abs().max() <= near
