"""A lean block has the bits of diffusers' own, and gives way where it was changed."""

from __future__ import annotations

import copy

import pytest
import torch
from mosaics import mosaic_of
from running import denoiser, make_pipelines

from core.mosaic import lean_block
from core.mosaic.lean_block import LeanBlock, lean
from core.sampling.timing import forward_call, model_macs, module_forward


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture
def model(pipelines):
    return copy.deepcopy(pipelines["dit"].transformer)


def forward(model, rows=3):
    return forward_call(module_forward(model), model, rows)()


@pytest.fixture
def short_ways(monkeypatch):
    """How many attentions ran the short way since the last look."""
    seen = []
    attend = lean_block._attend  # noqa: SLF001 (what tells the short way from the long one)

    def counted(*args):
        seen.append(1)
        return attend(*args)

    monkeypatch.setattr(lean_block, "_attend", counted)

    def look():
        count = len(seen)
        seen.clear()
        return count

    return look


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.inference_mode()
def test_a_lean_network_has_the_bits_of_the_stock_one(model, dtype, short_ways):
    model = model.to(dtype)
    twin = lean(model)
    assert torch.equal(forward(twin), forward(model)) and short_ways() == 2
    assert all(type(block) is LeanBlock for block in twin.transformer_blocks)
    assert not any(type(block) is LeanBlock for block in model.transformer_blocks)
    before, after = model.state_dict(), twin.state_dict()
    assert before.keys() == after.keys()
    assert all(before[k].data_ptr() == after[k].data_ptr() for k in before)
    assert model_macs(twin) == model_macs(model)


@torch.inference_mode()
def test_dense_and_slim_networks_have_the_same_layout(model, short_ways):
    mosaic = mosaic_of(model)
    for network in mosaic.networks():
        blocks = network.transformer_blocks
        assert all(type(block) is LeanBlock for block in blocks)
    forward(mosaic.full)
    assert short_ways() == 2
    forward(mosaic.stages[0])
    assert short_ways() == 2


def table_forward(network, mosaic):
    """A forward with the adaLN vectors of its rows from a table, two different labels."""
    times, labels = torch.tensor([700]), torch.tensor([1, 0, 1])
    vectors = mosaic.tabulate(times, labels)[0]
    return forward_call(module_forward(network), network, 3, instead={"class_labels": vectors})()


@pytest.fixture
def in_parts(monkeypatch):
    """How many blocks took vectors that were apart since the last look."""
    seen = []
    short = lean_block._from_parts  # noqa: SLF001
    monkeypatch.setattr(lean_block, "_from_parts", lambda *x: seen.append(1) or short(*x))

    def look():
        count = len(seen)
        seen.clear()
        return count

    return look


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_vectors_of_a_table_that_are_taken_apart_give_the_same_bits(
    model, dtype, in_parts, monkeypatch
):
    mosaic, counts = mosaic_of(model.to(dtype)), []
    for network in mosaic.networks():
        found = table_forward(network, mosaic)
        counts.append(in_parts())
        with monkeypatch.context() as patch:
            patch.setattr(LeanBlock, "rows_in_parts", 2)  # fewer than there are
            assert torch.equal(found, table_forward(network, mosaic)) and in_parts() == 0
    # the early stage lost a whole layer of each block, so these run as diffusers wrote them
    assert sorted(counts) == [0, 2, 2, 2]


@torch.inference_mode()
def test_a_hook_on_the_first_norm_is_called_with_a_table_too(model, in_parts):
    mosaic = mosaic_of(model)
    before = table_forward(mosaic.full, mosaic)
    in_parts()
    mosaic.full.transformer_blocks[0].norm1.register_forward_hook(
        lambda layer, given, made: (made[0] * 2, *made[1:])
    )
    assert not torch.equal(table_forward(mosaic.full, mosaic), before) and in_parts() == 1


def break_processor(block):
    stock = type(block.attn1.processor)

    class Doubled(stock):
        def __call__(self, attn, hidden_states, *args, **kwargs):
            return 2 * super().__call__(attn, hidden_states, *args, **kwargs)

    block.attn1.processor = Doubled()


def give_forward(block):
    own = block.attn1.forward
    block.attn1.forward = lambda *args, **kwargs: own(*args, **kwargs) * 2


CHANGES = {
    "a hook on the attention": lambda b: b.attn1.register_forward_hook(lambda *x: x[2] * 2),
    "a hook on the MLP": lambda b: b.ff.register_forward_pre_hook(lambda _, x: (x[0] * 2,)),
    "a hook on its activation": lambda b: b.ff.net[0].register_forward_hook(lambda *x: x[2] * 2),
    "a hook on a dropout": lambda b: b.ff.net[1].register_forward_hook(lambda *x: x[2] * 2),
    "another processor": break_processor,
    "a forward put in its place": give_forward,
    "chunks": lambda b: b.set_chunk_feed_forward(4, 1),
    "an exact activation": lambda b: setattr(b.ff.net[0], "approximate", "none"),
    "a norm of queries": lambda b: setattr(b.attn1, "norm_q", torch.nn.LayerNorm(16)),
    "a scaled output": lambda b: setattr(b.attn1, "rescale_output_factor", 2.0),
    "another weight": lambda b: b.attn1.to_q.weight.data.mul_(3),
    "a hook on a projection": lambda b: b.attn1.to_v.register_forward_hook(lambda *x: x[2] * 2),
    "training": lambda b: b.train(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.inference_mode()
def test_what_is_changed_in_a_block_later_holds(model, change):
    """A twin of the same change on the stock block answers with the same bits."""
    twin = lean(copy.deepcopy(model))
    assert torch.equal(forward(twin), forward(model))
    said = []
    for one in (model, twin):
        torch.manual_seed(0)  # what is drawn for a new part, and for labels while training
        change(one.transformer_blocks[0])
        said.append(forward(one))
    assert torch.equal(*said)


def test_gradients_take_the_long_way(model, short_ways):
    twin = lean(model.requires_grad_())
    forward(twin).sum().backward()
    assert short_ways() == 0
    assert model.transformer_blocks[0].attn1.to_q.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(forward(twin), forward(model)) and short_ways() == 2


@torch.inference_mode()
def test_a_copy_and_another_precision_stay_lean(model, short_ways):
    mosaic = copy.deepcopy(mosaic_of(model)).to(torch.float64)
    expected = forward(copy.deepcopy(model).double())
    assert torch.equal(forward(mosaic.full), expected) and short_ways() == 2


def test_sdxl_blocks_stay_as_they_are(pipelines):
    unet = denoiser(pipelines["sdxl"])
    assert lean(unet) is unet
