"""Saved subnetworks that were damaged or changed are refused in a sentence; saving is done whole or
not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import threading

import pytest
import torch
from mosaics import FACTS, mosaic_of, same
from safetensors.torch import load_file, save_file

import core.files
import core.mosaic.sealed_folder
import core.mosaic.serialization
from core.errors import Stopped, StudioError
from core.models.checkpoints import load_checkpoint
from core.mosaic.manifest import sealed
from core.mosaic.transformer import MosaicTransformer

HEADS, MLP = "transformer_blocks.0.attn1.to_out.0.weight", "transformer_blocks.0.ff.net.2.weight"


@pytest.fixture(scope="module")
def dense(model_folder):
    return load_checkpoint(model_folder, "cpu", dtype=torch.float32).denoiser


@pytest.fixture(scope="module")
def saved(dense, tmp_path_factory):
    """Must not be changed: copy it."""
    folder = tmp_path_factory.mktemp("saved") / "pruned"
    mosaic_of(dense).save_pretrained(folder, FACTS)
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy to break: `damaged(change)` lets `change(manifest, folder)` do so and seals the
    manifest again.
    """
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())

    def change(what=None):
        manifest = json.loads((folder / "manifest.json").read_text())
        if what is not None:
            what(manifest, folder)
            (folder / "manifest.json").write_text(sealed(manifest))
        return folder

    return change


def retensor(manifest, folder, change, file="late.safetensors"):
    """Change the tensors of a file and make the manifest fit them."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    data = (folder / file).read_bytes()
    manifest["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# ------------------------------------------------------------ damage


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m, f: m["plan"]["boundaries"].reverse(), "boundaries must satisfy"),
        (lambda m, f: m.pop("stages"), "does not hold what it must"),
        (lambda m, f: m.update(enabled=1), "does not hold what it must"),
        (lambda m, f: m.update(dtype="int8"), "does not hold what it must"),
        (lambda m, f: m.update(files=[]), "does not hold what it must"),
        (lambda m, f: m["stages"].update(late=None), "does not hold what it must"),
        (lambda m, f: m["base"].update(hash={}), "does not hold what it must"),
        (
            lambda m, f: m["stages"]["late"]["kept"].pop("block 1 heads"),
            "does not hold what it must",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 9 heads": "all"}),
            "does not hold what it must",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 1 heads": "0-9"}),
            "does not hold what it must",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 1 heads": [0, 1]}),
            "does not hold what it must",
        ),
        (lambda m, f: m["stages"]["late"].update(file=None), "does not hold what it must"),
        (
            lambda m, f: m["stages"]["early"].update(file="late.safetensors"),
            "does not hold what it must",
        ),
        (
            lambda m, f: (
                m["stages"]["late"].update(file="../late.safetensors"),
                m["files"].update({"../late.safetensors": m["files"].pop("late.safetensors")}),
            ),
            "the files are not those",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 1 heads": "all"}),
            "other tensors than its manifest",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 1 heads": "none"}),
            "other tensors than its manifest",
        ),
        (
            lambda m, f: m["stages"]["late"]["kept"].update({"block 1 heads": "0"}),
            r"should be floating \[64, 16\]",
        ),
        (lambda m, f: retensor(m, f, lambda t: t.pop(MLP)), "other tensors than its manifest"),
        (
            lambda m, f: retensor(m, f, lambda t: t.update(more=torch.zeros(1))),
            "other tensors than its manifest",
        ),
        (
            lambda m, f: retensor(m, f, lambda t: t.update({HEADS: t[HEADS].T.contiguous()})),
            "should be floating",
        ),
        (
            lambda m, f: retensor(m, f, lambda t: t.update({HEADS: t[HEADS].long()})),
            "should be floating",
        ),
        (lambda m, f: retensor(m, f, lambda t: t[HEADS][0].fill_(float("nan"))), "NaN or infinity"),
        (
            lambda m, f: retensor(m, f, lambda t: t[MLP][1, 1].fill_(float("inf"))),
            "NaN or infinity",
        ),
        (lambda m, f: m["layers"][0].update(groups=8), "other layers than the base"),
        (lambda m, f: m.update(version=2), "has format version 2, this program reads version 1"),
        (lambda m, f: m.update(format="else"), "does not belong to subnetworks"),
    ],
)
def test_a_manifest_that_is_sealed_but_wrong_is_refused(dense, damaged, change, match):
    with pytest.raises(StudioError, match=match) as caught:
        MosaicTransformer.from_pretrained(damaged(change), dense)
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"late": 0.5', '"late": 0.6'),
        ("0.01", "0.1"),
        ("0123456789abcdef", "0123456789abcdee"),
        ('"Mine"', '"Yours"'),
    ],
)
def test_a_changed_manifest_is_refused(dense, damaged, old, new):
    path = damaged() / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StudioError, match=r"manifest.json in copy/ was changed after it was saved"):
        MosaicTransformer.from_pretrained(path.parent, dense)


def test_another_layout_of_the_manifest_is_no_change(dense, damaged):
    path = damaged() / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert same(mosaic_of(dense), MosaicTransformer.from_pretrained(path.parent, dense))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": NaN}', b"[" * 100_000, b"{}"]
)
def test_a_manifest_that_is_none_is_refused(dense, damaged, data):
    path = damaged() / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(StudioError, match="is damaged|does not belong"):
        MosaicTransformer.from_pretrained(path.parent, dense)


def test_files_cut_off_flipped_or_missing_are_refused(dense, damaged, tmp_path):
    path = damaged() / "middle.safetensors"
    data = path.read_bytes()
    for cut in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(
            StudioError,
            match=f"middle.safetensors in copy/ has {cut} bytes and should have {len(data)}",
        ):
            MosaicTransformer.from_pretrained(path.parent, dense)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StudioError, match="middle.safetensors in copy/ is damaged"):
        MosaicTransformer.from_pretrained(path.parent, dense)
    path.unlink()
    with pytest.raises(StudioError, match="middle.safetensors in copy/ is missing"):
        MosaicTransformer.from_pretrained(path.parent, dense)
    for nothing in (tmp_path, tmp_path / "none", path.parent / "late.safetensors"):
        with pytest.raises(StudioError, match="has no manifest.json"):
            MosaicTransformer.from_pretrained(nothing, dense)


def test_a_file_that_is_no_safetensors_is_refused_whatever_its_seal_says(dense, damaged):
    def change(manifest, folder):
        data = b"\x80\x04not a tensor"
        (folder / "late.safetensors").write_bytes(data)
        manifest["files"]["late.safetensors"] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    with pytest.raises(StudioError, match="late.safetensors in copy/ cannot be used"):
        MosaicTransformer.from_pretrained(damaged(change), dense)


# ------------------------------------------------------------ whole or not at all


def fails_with(err):
    def fail(*_, **__):
        raise err

    return fail


@pytest.mark.parametrize(
    ("where", "err"),
    [
        ("save_file", OSError(errno.ENOSPC, "No space left on device")),
        (
            "save_file",
            core.mosaic.serialization.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
        ),
        ("flush", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_full_disk_leaves_nothing(dense, tmp_path, monkeypatch, where, err):
    module = core.files if where == "flush" else core.mosaic.sealed_folder
    monkeypatch.setattr(module, where, fails_with(err))
    with pytest.raises(
        StudioError,
        match=(
            r"could not be written to out/ \(the disk is full; make room and save again\); nothing"
            r" was left there"
        ),
    ):
        mosaic_of(dense).save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_stopped_or_interrupted_leaves_nothing(dense, tmp_path, monkeypatch):
    stop, seen = threading.Event(), []

    def progress(done, total, text):
        seen.append((done, total))
        if done == 4:
            stop.set()

    with pytest.raises(Stopped):
        mosaic_of(dense).save_pretrained(tmp_path / "out", progress=progress, stop=stop)
    assert seen == [(i, 6) for i in range(5)]
    monkeypatch.setattr(core.mosaic.sealed_folder, "save_file", fails_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        mosaic_of(dense).save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_used_and_a_full_one_never(dense, saved, tmp_path):
    (tmp_path / "out").mkdir()
    mosaic = mosaic_of(dense)
    mosaic.save_pretrained(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    for taken in (tmp_path / "out", tmp_path / "out" / "manifest.json"):
        with pytest.raises(StudioError, match="is not an empty folder"):
            mosaic.save_pretrained(taken)
    with pytest.raises(StudioError, match=r"could not be written to x/ \(Not a directory\)"):
        mosaic.save_pretrained(tmp_path / "out" / "manifest.json" / "x")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} and [
        p.name for p in tmp_path.iterdir()
    ] == ["out"]


def test_what_cannot_be_given_back_is_not_saved(dense, tmp_path):
    mosaic = mosaic_of(dense)
    with pytest.raises(StudioError, match="not colour"):
        mosaic.save_pretrained(tmp_path / "out", {"colour": "red"})
    for bad in (float("nan"), torch.zeros(1)):
        with pytest.raises(StudioError, match="plain JSON data"):
            mosaic.save_pretrained(tmp_path / "out", {"report": bad})
    trained = mosaic_of(dense)
    # rows that would be sliced from the base
    trained.stages[1].transformer_blocks[0].attn1.to_q.weight.data[0, 0] += 1
    with pytest.raises(
        StudioError, match="block 1 heads of the middle stage was changed after it was cut"
    ):
        trained.save_pretrained(tmp_path / "out")
    broken = mosaic_of(dense)
    broken.stages[0].transformer_blocks[1].ff.net[2].weight.data[0, 0] = float("nan")
    with pytest.raises(
        StudioError, match="late stage has NaN or infinity in the weights of block 2 neurons"
    ):
        broken.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_trained_where_they_are_stored_are_saved(dense, tmp_path):
    mosaic = mosaic_of(dense)
    mosaic.stages[1].transformer_blocks[0].attn1.to_out[0].weight.data += 0.01
    mosaic.save_pretrained(tmp_path / "out")
    assert same(mosaic, MosaicTransformer.from_pretrained(tmp_path / "out", dense))
