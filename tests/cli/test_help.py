"""`nextvec --help` answers at once: nothing heavy is imported before a verb's work starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from nextvec.cli.main import VERBS
from nextvec.corpus.store import Store
from nextvec.version import __version__

HEAVY = ("torch", "numpy", "pydantic", "pyarrow", "safetensors", "transformers", "sentence_transformers")


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nextvec", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "nextvec.cli.main" in imported
    assert not {name for name in imported if name.partition(".")[0] in HEAVY}
    for verb, summary in VERBS.items():
        assert f" {verb} " in done.stdout
        assert summary.split()[0] in done.stdout


def test_no_verbs_help_imports_anything_heavy() -> None:
    program = f"""
import sys
from nextvec.cli.main import run
for verb in {list(VERBS)}:
    try:
        run([verb, "--help"])
    except SystemExit as left:
        assert not left.code
loaded = {{name.partition(".")[0] for name in sys.modules}} & set({HEAVY})
sys.exit(", ".join(sorted(loaded)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    for verb in VERBS:
        assert f"Usage: nextvec {verb}" in done.stdout


def test_verbs_about_stores_import_no_torch(world: Store, tmp_path: Path) -> None:
    """Each takes a fraction of the time that importing torch does; and to read a store takes no pandas."""
    shutil.copytree(world.path, tmp_path / "store")
    np.save(tmp_path / "v.npy", world.vectors[:])
    pq.write_table(world.chunks, tmp_path / "c.parquet")
    given = ["--vectors", tmp_path / "v.npy", "--chunks", tmp_path / "c.parquet", "--out", tmp_path / "made"]
    reading = [["info", tmp_path / "store"], ["doctor", tmp_path / "store"], ["metrics"]]
    writing = [
        ["export-npz", tmp_path / "store", tmp_path / "windows.npz", "--quiet"],
        ["ingest", *given, "--quiet"],
        ["delete", tmp_path / "store", world.documents[0].doc_id],
        ["compact", tmp_path / "store"],
        ["diagnose", "data", tmp_path / "made"],
    ]
    program = f"""
import sys
from nextvec.cli.main import run
def loaded(arguments, *names):
    try:
        run(arguments)
    except SystemExit as left:
        assert not left.code, arguments
    assert not set(names) & set(sys.modules), arguments
for arguments in {[[str(a) for a in verb] for verb in reading]}:
    loaded(arguments, "torch", "pandas")
for arguments in {[[str(a) for a in verb] for verb in writing]}:
    loaded(arguments, "torch")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_of_a_verb_is_explained(cli, verb: str) -> None:
    output = cli(verb, "--help")
    assert (output.code, output.err) == (0, "")
    options = [line.lstrip("│* ") for line in output.out.splitlines() if line.lstrip("│* ").startswith("--")]
    for line in options:
        assert len(line.split()) > 1, line


@pytest.mark.parametrize("verb", ["train", "sweep", "matrix"])
def test_what_can_be_named_is_listed(cli, verb: str) -> None:
    from nextvec.models.heads import HeadName
    from nextvec.models.residual import ResidualName
    from nextvec.training.config import layer_names, recipe_names

    output = " ".join(cli(verb, "--help").out.replace("│", " ").split())
    for flag, known in (
        ("--recipe", recipe_names()),
        ("--objective", layer_names("objectives")),
        ("--task", layer_names("tasks")),
        ("--residual", get_args(ResidualName)),
        ("--head", get_args(HeadName)),
    ):
        explained = output.partition(f" {flag} ")[2].partition(" --")[0]
        for name in known:
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", explained), (flag, name)


def test_the_version(cli) -> None:
    assert cli("--version").out.strip() == __version__


def test_an_output_that_lacks_a_character_shows_another() -> None:
    program = "from nextvec.cli.main import run; print('before'); run(['models', 'caf\\u00e9'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        timeout=900,
    )
    assert done.returncode == 2
    assert b"caf?" in done.stderr
    assert b"Traceback" not in done.stderr
