"""Comparing in another precision than the model was loaded in: copies that share what the models
share, and a model that stays as it is.
"""

from __future__ import annotations

import pytest
import torch

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.mosaic import precision
from core.mosaic.precision import in_precision
from core.mosaic.slimming import unique_bytes
from core.workshop.compare import compare
from core.workshop.comparison import SampleSettings
from mosaic_ui import model_facts
from mosaic_ui.compare import inputs as compare_inputs

PLAN = StagePlan((90, 550), (0.5, 0.25, 0.5))


def test_copies_share_what_the_models_share_and_are_what_a_cast_makes_of_them(workshop):
    models = [workshop.dense, workshop.build(PLAN)]
    before = {name: tensor.clone() for name, tensor in models[1].state_dict().items()}
    copies = in_precision(models, torch.bfloat16)
    assert unique_bytes(copies) == unique_bytes(models) // 2 and not any(
        c is m for c, m in zip(copies, models, strict=True)
    )
    for copied, model in zip(copies, models, strict=True):
        assert (
            copied.dtype == torch.bfloat16
            and model.dtype == torch.float32
            and copied.plan == model.plan
        )
        for name, tensor in copied.state_dict().items():
            assert torch.equal(
                tensor,
                (
                    model.state_dict()[name].to(torch.bfloat16)
                    if tensor.is_floating_point()
                    else tensor
                ),
            )
    assert all(torch.equal(tensor, before[name]) for name, tensor in models[1].state_dict().items())
    x, t, labels = (
        torch.randn(2, 4, 8, 8, device=workshop.device, dtype=torch.bfloat16),
        torch.tensor([50, 50]),
        torch.tensor([1, 2]),
    )
    given = {"class_labels": labels.to(workshop.device)}
    expected = models[1].network(50.0)(x.float(), t.to(workshop.device), **given)
    found = copies[1].network(50.0)(x, t.to(workshop.device), **given)
    assert (
        found.dtype == torch.bfloat16
        and (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    )


def test_a_comparison_in_another_precision_says_so_and_predicts_no_times(workshop):
    settings = SampleSettings(labels=(1, 2), steps=5, repeats=1, dtype="bfloat16")
    found = [*compare(workshop, None, PLAN, settings)][-1]
    usual = [
        *compare(
            workshop, None, PLAN, SampleSettings(labels=(1, 2), steps=5, repeats=1, dtype="float32")
        )
    ][-1]
    assert (
        "ran in bfloat16" in found.notes
        and found.to_json()["dtype"] == "bfloat16"
        and found.a.predicted_seconds is found.b.predicted_seconds is None
    )
    apart = (found.a.latents - usual.a.latents).abs().max() / usual.a.latents.abs().max()
    assert 0 < apart < 0.2 and usual.notes == "" and usual.a.predicted_seconds
    assert found.a.macs == usual.a.macs and workshop.dense.dtype == torch.float32


def test_what_does_not_fit_is_refused_before_it_is_copied(workshop, monkeypatch):
    monkeypatch.setattr(precision, "free_memory", lambda device: 1000)
    with pytest.raises(
        StudioError,
        match="In bfloat16 the networks need 0.0 GB beside the model and 0.0 GB are free",
    ):
        in_precision([workshop.dense], torch.bfloat16)


@pytest.mark.parametrize("wish", ["int8", 3, "torch.float32", ""])
def test_a_precision_is_one_of_the_list(workshop, wish):
    with pytest.raises(StudioError, match="A precision is one of float32, bfloat16, float16"):
        compare_inputs.checked_settings(
            workshop, compare_inputs.Wish([], 2, 0, 5, 1.5, "DDIM", 1, "", None, False, wish)
        )
    asked = [
        compare_inputs.checked_settings(
            workshop, compare_inputs.Wish([], 2, 0, 5, 1.5, "DDIM", 1, dtype=value)
        )
        for _, value in model_facts.precisions(workshop)
    ]
    assert [settings.dtype for settings in asked] == [None, "bfloat16", "float16"]
