"""Define the tables of the database, one step per version.

A step is never changed once it was released: a new version adds a step. `Database` runs the steps
that a file lacks, in one transaction, and writes their number into PRAGMA user_version.
"""

from __future__ import annotations

_SIDE = """
    {0}_name TEXT NOT NULL DEFAULT '',
    {0}_plan_json TEXT,             -- NULL: dense
    {0}_seconds REAL,               -- median over the timed runs, denoiser, all images
    {0}_seconds_spread REAL,        -- NULL for one timed run
    {0}_macs INTEGER,               -- denoiser, whole run, all images
    {0}_predicted_seconds REAL,
    {0}_calls INTEGER,              -- of the denoiser, per image
    {0}_fid REAL,
    {0}_class_accuracy REAL,        -- 0 to 1
"""

_RUNS = f"""
CREATE TABLE runs (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,        -- also the name of the folder
    status TEXT NOT NULL,           -- running, finished, stopped, failed
    sentence TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT '',
    notes TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,          -- seconds since 1970
    updated REAL NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    said TEXT NOT NULL DEFAULT '',
    process TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL,
    model_key TEXT NOT NULL,
    device TEXT NOT NULL,
    "when" TEXT NOT NULL,           -- local time, for people
    steps INTEGER NOT NULL,
    scheduler TEXT NOT NULL,
    guidance REAL NOT NULL,
    seed INTEGER NOT NULL,
    repeats INTEGER NOT NULL,       -- timed runs that were asked for
    n INTEGER NOT NULL,             -- images of each side
    dtype TEXT,                     -- NULL: as the model was loaded
    tabulate INTEGER NOT NULL DEFAULT 0,
    height INTEGER,                 -- pixels; NULL: the model's own
    width INTEGER,
    images TEXT NOT NULL,           -- classes or prompts in words
    images_key TEXT NOT NULL,       -- hash of classes, prompts and negative prompt
    timed_runs INTEGER,
    speedup REAL,                   -- measured: seconds of A / seconds of B
    speedup_spread REAL,
    speedup_predicted REAL,
    speedup_macs REAL,
    psnr REAL,                      -- dB; NULL when all images are equal
    ssim REAL,
    latent_mse REAL,
    verdict TEXT NOT NULL DEFAULT '',
    remarks TEXT NOT NULL DEFAULT '',
    mosaicdiff TEXT,
    torch TEXT,
    diffusers TEXT,
    gradio TEXT,
    {_SIDE.format("a").strip()}
    {_SIDE.format("b").strip()}
    deleted REAL,                   -- seconds since 1970
    settings TEXT NOT NULL          -- JSON of SampleSettings; last, because it can be long
)
"""

_PLANS = """
CREATE TABLE plans (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    plan_json TEXT NOT NULL,
    model_key TEXT NOT NULL,
    model TEXT NOT NULL,
    created REAL NOT NULL,
    deleted REAL
)
"""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        _RUNS,
        "CREATE INDEX runs_by_time ON runs (created)",
        _PLANS,
        "CREATE UNIQUE INDEX plan_names ON plans (name) WHERE deleted IS NULL",
    ),
    # how networks ran, one of core.mosaic.modes.MODES
    ("ALTER TABLE runs ADD COLUMN mode TEXT NOT NULL DEFAULT 'plain'",),
)
