"""Homes, caches, paths, consoles, pipes and proxies as real machines have them.

They are used, or refused in one sentence.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import APP, Forked, completed
from safetensors import SafetensorError

from core.cache import cache_root
from core.errors import StudioError
from core.files import cache_trouble, why_not_written
from core.models.checkpoints import load_checkpoint
from core.output import plain
from core.paths import given_path
from core.pruning.order_checkpoints import OrderedLayer, save_layer
from core.workshop.workshop import Workshop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import app  # noqa: E402


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No variable says where the cache is."""
    for name in ("MOSAIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


def program(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    """`python app.py ...` as a process of its own, with buffered streams as shells start it."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        env=inherited | env,
        timeout=120,
    )


# ------------------------------------------------------------ the cache


def test_the_cache_is_where_the_first_usable_variable_says(bare, tmp_path):
    home = tmp_path / "home" / ".cache" / "mosaicdiff-studio"
    assert cache_root() == home
    for unusable in ("", "  ", "relative/cache"):
        bare.setenv("XDG_CACHE_HOME", unusable)
        assert cache_root() == home
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "mosaicdiff-studio"
    bare.setenv("PLACE", str(tmp_path / "place"))
    for given, found in (
        ("~/own cache", "home/own cache"),
        ("$PLACE/é", "place/é"),
        ("${PLACE}/b/", "place/b"),
        (f"file://{tmp_path}/a%20b", "a b"),
    ):
        bare.setenv("MOSAIC_CACHE", given)
        assert cache_root() == tmp_path / found
    bare.chdir(tmp_path)
    bare.setenv("MOSAIC_CACHE", "here")
    assert cache_root() == tmp_path / "here"
    bare.setenv("MOSAIC_CACHE", "")
    assert cache_root() == tmp_path / "xdg" / "mosaicdiff-studio"


def test_without_a_home_another_place_is_taken_or_asked_for(tmp_path):
    """A user id that is in no passwd file, in a process of its own."""
    code = (
        "import os, sys\nos.environ.pop('HOME', None)\nos.setuid(54321)\nfrom core.paths import"
        " cache_folder\nfrom core.errors import StudioError\ntry: print(cache_folder())\nexcept"
        " StudioError as err: print('refused', err)"
    )
    if os.name != "posix" or os.getuid():
        pytest.skip("only root can become a user that nobody knows")
    env = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "MOSAIC_CACHE", "XDG_CACHE_HOME")
    }
    code = code.replace("os.setuid(54321)\n", "").replace(
        "try:", "os.setuid(54321)\ntry:"
    )  # modules are read before

    def told(**more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=env | more,
            timeout=60,
            check=True,
        ).stdout

    assert told().startswith("refused There is no home folder") and "set MOSAIC_CACHE" in told()
    assert told(XDG_CACHE_HOME="/x/y").strip() == "/x/y/mosaicdiff-studio"
    assert (
        "your home folder is not known" in told(MOSAIC_CACHE="~/cache")
        and told(MOSAIC_CACHE="/c").strip() == "/c"
    )


def test_a_cache_that_cannot_be_written_says_why(workshop, small_settings, model_folder, tmp_path):
    (tmp_path / "file").write_text("")
    shop = Workshop(
        load_checkpoint(model_folder, "cpu", dtype="float32"),
        small_settings,
        tmp_path / "file" / "cache",
    )
    with pytest.raises(
        StudioError, match="a file lies where a folder is needed.*set MOSAIC_CACHE"
    ) as caught:
        shop.calibrate()
    assert "make room" not in str(caught.value)
    layer = OrderedLayer(
        *(
            workshop.orders.order[0],
            0.1,
            workshop.orders.errors[0],
            workshop.orders.energy[0],
            9.0,
            [],
        )
    )
    with pytest.raises(
        StudioError,
        match="order of a layer could not be kept .a file lies where a folder is needed",
    ) as caught:
        save_layer(tmp_path / "file" / "x", 0, "key", layer)
    assert "make room" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
        (
            SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
            "permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError("odd"), "odd"),
    ],
)
def test_only_a_full_disk_is_told_to_make_room(error, why):
    assert why in why_not_written(error) and ("make room" in cache_trouble(error)) == (
        why == "the disk is full"
    )


# ------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("~nobody-of-this-name/x", "there is no user"),
        ("$NO_SUCH_NAME/x", "no variable $NO_SUCH_NAME is set"),
        ("https://host/x", "no path of this machine"),
        ("file://host/x", "no path of this machine"),
        ("a\0b", "zero byte"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(given, said):
    with pytest.raises(StudioError) as caught:
        given_path(given, "--plan")
    assert str(caught.value).startswith("--plan ") and said in str(caught.value)


def test_paths_that_are_there_are_taken_as_they_are(bare, tmp_path):
    bare.chdir(tmp_path)
    for name in ("$HOME", "~", "cost 5$", "ünï cödé"):
        (tmp_path / name).mkdir()
        assert given_path(name, "x") == name
    for name in ("plain", "-", "a/", "org/name", "C:\\models", "price $"):
        assert given_path(name, "x") == name


@pytest.mark.parametrize(
    "option", ["--model", "--plan", "--against", "--out", "--calibration-images", "--revision"]
)
def test_empty_options_are_no_defaults(capsys, option):
    assert app.main(["compare", "--plan", "p.json", option, ""]) == 2
    assert f"{option} is empty" in capsys.readouterr().err


def test_a_model_and_a_plan_in_the_home_folder(bare, model_folder, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "my model").symlink_to(model_folder)
    assert load_checkpoint("~/my model", "cpu").name == "my model"
    assert (
        app.main(["curves", "--model", "~/my model", "--json"]) == 0
        and json.loads(capsys.readouterr().out)["boundaries"]
    )


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_to_write(capsys, tmp_path, place, model_folder):
    (tmp_path / "file").write_text("")
    (tmp_path / "p.json").write_text(
        '{"boundaries": [93, 550], "sparsity": {"late": 0, "middle": 0, "early": 0}}'
    )
    given = [
        "--plan",
        str(tmp_path / "p.json"),
        "--out",
        str(tmp_path / place),
        "--model",
        str(model_folder),
    ]
    for verb in ("prune", "compare"):
        assert app.main([verb, *given]) == 2
        err = capsys.readouterr().err
        assert (
            "not an empty folder"
            if (verb, place) == ("prune", "file")
            else "a file lies where a folder is needed"
        ) in err


# ------------------------------------------------------------ streams


@pytest.mark.parametrize(
    ("encoding", "sees"),
    [
        ("ascii", "x1.25 fewer, a - b, Gro?e?"),
        ("cp437", "x1.25 fewer, a - b, Große?"),
        ("utf-8", None),
    ],
)
def test_what_a_console_cannot_say_is_said_plainly(encoding, sees):
    text = "×1.25 fewer, a – b, Große\udc80"
    if sees is None:
        text = text[:-1]
    assert text.encode(encoding, "mosaic-plain").decode(encoding) == (sees or text)
    assert plain(UnicodeEncodeError("ascii", "é", 0, 1, "")) == ("e", 1)


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1251:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_refusals_and_results_reach_every_console(env):
    # refused before anything heavy is loaded
    done = program("curves", "--model", "~no-×/x", **env)
    assert (
        done.returncode == 2 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1
    )
    assert done.stderr.startswith(b"app.py: --model ") and b"there is no user" in done.stderr
    code = (
        "from core.output import prepare_streams, say\nprepare_streams()\nsay('\\xd72.00 faster')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        env=dict(os.environ) | env,
        timeout=60,
    )
    assert said.returncode == 0 and said.stdout.strip() == b"x2.00 faster"


@pytest.mark.parametrize(
    "arguments", [("curves", "--json"), ("curves",), ("--help",), ("prune", "--help")]
)
def test_a_pipe_that_nobody_reads_ends_quietly(arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        done = completed(Forked(APP, *arguments, out=write))
    finally:
        os.close(write)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("curves", "--json"), ("--help",)])
def test_a_full_disk_behind_standard_output_is_said(arguments):
    with open("/dev/full", "wb") as full:
        done = completed(Forked(APP, *arguments, out=full.fileno()))
    assert done.returncode == 2 and "No space left" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_streams():
    run = f'"{sys.executable}" app.py curves --json'
    closed = subprocess.run(["sh", "-c", f"{run} >&-"], cwd=ROOT, capture_output=True, timeout=120)
    assert (
        closed.returncode == 2
        and closed.stderr.startswith(b"app.py: Standard output is closed")
        and closed.stderr.count(b"\n") == 1
    )
    silent = subprocess.run(["sh", "-c", f"{run} 2>&-"], cwd=ROOT, capture_output=True, timeout=120)
    assert silent.returncode == 0 and json.loads(silent.stdout)["boundaries"] == [93, 550]


# ------------------------------------------------------------ proxies and Gradio's variables


def test_the_page_is_asked_without_a_proxy(monkeypatch):
    import httpx

    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.com")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(ValueError, match="scheme"):
        httpx.Client(verify=False)
    app.ask_itself_directly("127.0.0.1", share=False)
    httpx.Client().close()
    assert "SSL_CERT_FILE" not in os.environ
    monkeypatch.setenv("no_proxy", "example.com")
    app.ask_itself_directly("10.0.0.5", share=True)
    assert (
        os.environ["no_proxy"]
        == os.environ["NO_PROXY"]
        == "example.com,127.0.0.1,localhost,::1,10.0.0.5"
    )
    assert "set no_proxy=127.0.0.1,localhost" in app.why_no_page(
        ValueError("When localhost is not accessible")
    )


def test_a_page_whose_first_answer_is_late_is_opened_all_the_same(monkeypatch):
    import gradio as gr
    import httpx

    from mosaic_ui.studio import launch_options

    with gr.Blocks() as page:
        gr.Markdown("here")
    monkeypatch.setattr(gr.networking, "url_ok", lambda url: False)  # as after its 3 seconds
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        **launch_options(),
    )
    try:
        assert httpx.get(url, timeout=60).status_code == 200
    finally:
        page.close(verbose=False)


def test_gradios_numbers_are_read_or_refused(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    monkeypatch.setenv("GRADIO_NUM_PORTS", "")
    assert app.environment_port() == 7999 and "GRADIO_NUM_PORTS" not in os.environ
    for value in ("many", "-1", "7.5"):
        monkeypatch.setenv("GRADIO_NUM_WORKERS", value)
        with pytest.raises(StudioError, match="GRADIO_NUM_WORKERS"):
            app.environment_port()
