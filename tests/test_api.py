"""The named endpoints, called by `gradio_client`: the numbers of core, and refusals."""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import zipfile
from pathlib import Path

import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

import app
from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.mosaic.transformer import MosaicTransformer
from core.runs.store import RunStore
from core.tuner.record import TOLERANCE
from core.workshop.compare import compare, visited
from core.workshop.sample_settings import SampleSettings
from mosaic_ui import api_runs, jobs, visitors
from mosaic_ui.api_calls import turn
from mosaic_ui.api_files import Downloads
from mosaic_ui.studio import build_studio, launch_options

ROOT = Path(__file__).resolve().parents[1]
PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
OWN = PLAN.to_json()
STEPS = 5
LITTLE = {"plan": OWN, "steps": STEPS, "images": 2, "repeats": 0}


@pytest.fixture(scope="module")
def url(workshop):
    page = build_studio(workshop)
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        **launch_options(),
    )
    yield url
    page.close(verbose=False)


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def pruned(client):
    return client.predict(plan=OWN, steps=STEPS, api_name="/prune")


def printed(capsys, *words: str) -> dict:
    """Return what a verb prints with --json."""
    capsys.readouterr()
    assert app.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_description_explains_every_endpoint_argument_and_result(url):
    named = httpx.get(f"{url}gradio_api/info").json()["named_endpoints"]
    assert list(named) == ["/curves", "/predict", "/prune", "/compare", "/sweep", "/tune"]
    for name, endpoint in named.items():
        assert len(endpoint["description"]) > 40, name
        for one in [*endpoint["parameters"], *endpoint["returns"]]:
            assert len(one["label"]) > 8, (name, one)  # Gradio's own are 1st, 2nd
    plan, scheduler = named["/predict"]["parameters"][:2]
    assert (plan["type"]["type"], plan["parameter_has_default"]) == ("object", False)
    assert (scheduler["type"]["type"], scheduler["parameter_default"]) == ("string", "DDIM")


def test_curves_are_those_that_the_command_line_prints(client, model_folder, capsys):
    shared = ["--steps", "7", "--target", "0.4"]
    own = printed(capsys, "curves", "--model", str(model_folder), *shared)
    assert client.predict(steps=7, target=0.4, api_name="/curves") == own
    other = printed(capsys, "curves", "--beta-schedule", "sigmoid", "--preset", "interval", *shared)
    asked = {"beta_schedule": "sigmoid", "preset": "interval", "steps": 7, "target": 0.4}
    assert client.predict(**asked, api_name="/curves") == other != own


def test_a_prediction_is_that_of_core_and_its_seconds_are_called_predicted(client, workshop):
    found = client.predict(plan=OWN, scheduler="UniPC", steps=6, exact=True, api_name="/predict")
    timesteps = visited(workshop, "UniPC", 6)
    own = workshop.predict(PLAN.counted(timesteps), timesteps, batch=found["batch"], exact=True)
    assert (found["macs"], found["macs_dense"], found["error"]) == (
        own.macs,
        own.macs_dense,
        own.error,
    )
    assert [s["error_held_out"] for s in found["stages"]] == [s.error_held_out for s in own.stages]
    assert found["exact"] and not {"seconds", "speedup", "speedup_measured"} & set(found)


def test_pruned_subnetworks_come_as_a_zip_that_gives_the_same_bits(
    pruned, workshop, model_folder, tmp_path
):
    facts, archive = pruned
    with zipfile.ZipFile(archive) as files:
        assert sorted(files.namelist()) == sorted(facts["files"])
        files.extractall(tmp_path / "own")
    base = workshop.checkpoint.pipeline
    loaded = MosaicTransformer.from_pretrained(tmp_path / "own", base)
    timesteps = visited(workshop, "DDIM", STEPS)
    built = workshop.build(PLAN.counted(timesteps))
    device = workshop.device
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.tensor([1, 2], device=device)
    with torch.no_grad():
        for t in (20, 300, 900):
            at = torch.tensor([t, t], device=device)
            own, other, dense = (
                model(x, timestep=at, class_labels=labels).sample
                for model in (built, loaded, workshop.checkpoint.denoiser)
            )
            assert torch.equal(own, other) and not torch.equal(own, dense)


def test_the_facts_of_a_pruning_are_those_that_the_command_line_prints(
    pruned, model_folder, workshop, small_settings, capsys, tmp_path, monkeypatch
):
    from core.cli import prune_verb, settings

    monkeypatch.setattr(settings, "get_workshop", lambda *_, **__: workshop)
    words = ["prune", "--model", str(model_folder), "--plan", json.dumps(OWN)]
    own = printed(capsys, *words, "--steps", str(STEPS), "--out", str(tmp_path / "out"))
    assert prune_verb and small_settings
    facts = dict(pruned[0])
    for one in (own, facts):
        del one["seconds"], one["device_found"]  # that of each build, and free memory
    del own["out"]
    assert facts == own
    assert str(Path(tempfile.gettempdir())) not in json.dumps(facts)


def test_compare_gives_the_numbers_of_core_and_keeps_the_run(client, workshop):
    found = client.predict(**LITTLE | {"repeats": 1}, seed=3, api_name="/compare")
    settings = SampleSettings(
        labels=(0, 1), steps=STEPS, seed=3, guidance=workshop.guidance, repeats=1
    )
    *_, own = compare(workshop, None, PLAN, settings, previews=False)
    expected = json.loads(json.dumps(own.to_json()))
    for name in ("psnr", "ssim", "latent_mse", "n", "speedup_macs", "timed_runs"):
        assert found[name] == expected[name], name
    assert found["mosaic"]["plan"] == OWN and found["mosaic"]["macs"] == own.b.macs
    kept = RunStore().get(found["run"])
    assert (kept.psnr, kept.status) == (found["psnr"], "finished")


def test_two_plans_can_be_compared_and_an_empty_cut_has_no_distance(client, workshop):
    name = workshop.class_names[3]
    none = OWN | {"sparsity": {"late": 0.0, "middle": 0.0, "early": 0.0}}
    found = client.predict(**LITTLE, against=none, classes=[name], api_name="/compare")
    assert found["dense"]["plan"]["sparsity"]["late"] == 0.0 and found["latent_mse"] > 0
    same = client.predict(**LITTLE | {"plan": none}, api_name="/compare")
    assert same["latent_mse"] == 0.0 and same["psnr"] is None


def test_every_cell_of_a_sweep_is_a_kept_run_with_the_numbers_of_compare(client):
    record, archive = client.predict(**LITTLE, x="sparsity.early=0.25,0.5", api_name="/sweep")
    assert [cell["state"] for cell in record["cells"]] == ["done", "done"]
    alone = client.predict(**LITTLE, api_name="/compare")
    last = record["cells"][1]
    assert last["numbers"]["psnr"] == alone["psnr"]
    assert RunStore().get(last["run"]).psnr == alone["psnr"]
    with zipfile.ZipFile(archive) as files:
        assert {"sweep.csv", "sweep.html", last["picture"]} <= set(files.namelist())


def test_a_tune_keeps_its_budget(client):
    found = client.predict(
        speedup=2,
        seconds=20,
        evaluations=2,
        images=4,
        held_out=4,
        steps=STEPS,
        scheduler="DDIM",
        api_name="/tune",
    )
    assert (found["best"]["steps"], found["best"]["scheduler"]) == (STEPS, "DDIM")
    assert found["best"]["macs"] <= TOLERANCE * found["reference"]["macs"] / 2
    assert found["best"]["label"] != "dense" and found["quality_n"] == 4


REFUSED = [
    ("/curves", {"steps": "x"}, "Sampling steps"),
    ("/curves", {"beta_schedule": "none such"}, "beta schedule"),
    ("/curves", {"preset": "best"}, "preset"),
    ("/curves", {"target": 3}, "target"),
    ("/curves", {"variance": -1}, "variance"),
    ("/curves", {"scheduler": "none"}, "scheduler"),
    ("/predict", {"plan": "93"}, "plan"),
    ("/predict", {"plan": OWN, "model": "../../etc"}, "no model"),
    ("/predict", {"plan": OWN, "exact": 1}, "on or off"),
    ("/prune", {"plan": OWN, "scheduler": "none"}, "scheduler"),
    ("/prune", {"plan": OWN | {"num_train_timesteps": 600}}, "timesteps"),
    ("/compare", LITTLE | {"images": 10**6}, "Images"),
    ("/compare", LITTLE | {"classes": ["no such"]}, "classes"),
    ("/compare", LITTLE | {"prompts": "a horse"}, "classes"),
    ("/compare", LITTLE | {"against": 5}, "compare against"),
    ("/compare", LITTLE | {"mode": "fast"}, "mode"),
    ("/sweep", LITTLE | {"x": "steps=2:100:1"}, "12 are the most"),
    ("/sweep", LITTLE | {"x": "steps=2,3", "y": "steps=4,5"}, "same thing"),
    ("/sweep", LITTLE | {"x": "/etc/passwd"}, "An axis"),
    ("/tune", {}, "one thing"),
    ("/tune", {"speedup": 2, "seconds": 10**6}, "seconds"),
    ("/tune", {"speedup": 2, "images": 10**6}, "images"),
    ("/tune", {"speedup": 2, "cost": "money"}, "cost"),
]


@pytest.mark.parametrize(("endpoint", "given", "words"), REFUSED)
def test_bad_input_is_one_sentence(client, endpoint, given, words):
    with pytest.raises(AppError) as refused:
        client.predict(**given, api_name=endpoint)
    said = str(refused.value)
    assert words in said and said.endswith(".") and "\n" not in said and len(said) < 300


def test_a_file_of_the_server_is_no_plan(client):
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="plan"):
        client.predict(plan=file, api_name="/predict")


def test_no_call_goes_past_the_queue(url):
    for name in ("curves", "compare"):
        assert httpx.post(f"{url}gradio_api/run/{name}", json={"data": []}).status_code == 404


def test_on_a_public_page_the_runs_belong_to_the_caller(url, tmp_path):
    before = len(RunStore().runs())
    visitors.separate(tmp_path / "visitors")
    try:
        ids = [
            Client(url, verbose=False).predict(**LITTLE, api_name="/compare")["run"]
            for _ in range(2)
        ]
        stores = [RunStore(folder) for folder in sorted((tmp_path / "visitors").iterdir())]
        assert [len(store.runs()) for store in stores] == [1, 1]
        assert {store.runs()[0].id for store in stores} == set(ids)
    finally:
        visitors.together()
    assert len(RunStore().runs()) == before


def test_the_example_calls_every_endpoint(url, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api_runs, "pictures", lambda _: (4, 4))  # a tune that judges four pictures
    script = ROOT / "examples" / "api_client.py"
    words = [str(script), url, "--out", str(tmp_path), "--seconds", "20"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    for words in ("plan: ", "predicted: ", "pruned: ", "compared: ", "target 0.4: done", "tuned: "):
        assert words in said
    assert (tmp_path / "subnetworks" / "manifest.json").is_file()


def test_downloads_are_few_small_and_not_to_be_guessed(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.bin").write_bytes(b"0123456789")
    downloads = Downloads(max_bytes=10, kept=2)
    files = [downloads.offer(tmp_path, "one") for _ in range(3)]
    paths = [Path(file["path"]) for file, _ in files]
    assert [path.exists() for path in paths] == [False, True, True]
    assert len({path.parent.name for path in paths}) == 3 and len(paths[0].parent.name) == 32
    with zipfile.ZipFile(paths[2]) as archive:
        assert archive.read("pictures/a.bin") == b"0123456789"
    (tmp_path / "b.bin").write_bytes(b"0")
    file, said = downloads.offer(tmp_path, "one")
    assert file is None and "at most" in said and said.endswith(".")


def test_a_call_is_stopped_when_its_caller_leaves():
    with pytest.raises(StudioError, match=r"Stopped after step 3\."):
        with turn("The comparison") as stop:
            assert not stop.is_set()
            jobs.forget(None)
            assert stop.is_set()
            raise Stopped("Stopped after step 3.")


def test_what_nobody_foresaw_is_one_sentence_without_a_path(caplog):
    with pytest.raises(StudioError) as failed:
        with turn("The sweep"):
            raise FileNotFoundError(2, "No such file", "/secret/place")
    assert str(failed.value) == "The sweep failed: No such file." and "secret" in caplog.text
