"""`nextvec diagnose model` as a user runs it, on a tiny trained run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.evaluation.baselines import BASELINES

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def elsewhere(make_world: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other documents in vectors of the same encoder."""
    path = tmp_path_factory.mktemp("other") / "store"
    return make_world(path, documents=12, seed=9, prefix="other").path


def test_the_diagnosis_reads_from_the_headline_down(
    cli: Cli, trained: Path, world: Store, tmp_path: Path
) -> None:
    output = cli(
        "diagnose", "model", trained, "--store", world.path, "--json", tmp_path / "d.json", "--quiet"
    )
    assert output.code == 0, output.err
    lines = output.out.splitlines()
    assert lines[0].startswith("small-lstm is ")
    assert "the best baseline (" in lines[0]
    titles = [above for above, below in itertools.pairwise(lines) if below and set(below) == {"="}]
    assert titles == [
        "Standing", "Collapse and the mean vector", "Moments per dimension", "What is used of the context",
        "Forward margin", "Offset profile (k = 0 is the target)", "Rollout", "Train, validation, test",
        "Sources, in and out of domain", "Where the error is", "Gains and losses against the best baseline",
        "Failures: target not in the top 20", "Calibration of cosine", "The brief's criteria", "Windows",
    ]  # fmt: skip
    assert lines.index("Verdicts") < lines.index("Standing")
    content = json.loads((tmp_path / "d.json").read_text())
    assert (content["model"], content["split"]) == ("small-lstm", "test")
    assert {s["name"] for s in content["gap"]["splits"]} == {"train", "validation", "test"}
    assert content["sources"]["trained"] == {"books": True, "web": True}
    assert len(content["examples"]["random"]) == 10
    assert content["dropped"] == 0
    timed = next(c for c in content["checklist"] if c["criterion"] == "real time")
    assert timed["status"] in ("met", "not met")
    assert content["headline"] in " ".join(output.out.split())


def test_on_another_store_nothing_is_called_in_sample(cli: Cli, trained: Path, elsewhere: Path) -> None:
    output = cli(
        "diagnose", "model", trained, "--store", elsewhere, "--split", "all", "--no-speed", "--json", "-"
    )
    assert output.code == 0, output.err
    content = output.json
    assert [s["name"] for s in content["gap"]["splits"]] == ["all"]
    assert content["collapse"]["mean"] is None
    assert set(content["sources"]["trained"].values()) == {None}
    without_parameters = {name for name, kind in BASELINES.items() if not kind.needs_training}
    assert set(content["standing"]["rows"]) == without_parameters | {"small-lstm"}
    assert [f["name"] for f in content["factors"]["factors"]] == [
        "chunks of the document",
        "position of the target",
    ]
    timed = next(c for c in content["checklist"] if c["criterion"] == "real time")
    assert timed["status"] == "not measurable here"


def test_a_source_that_was_not_trained_on_is_out_of_domain(
    cli: Cli, world: Store, make_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    from nextvec.training.loop import train

    train(world, make_tiny("lstm", 'data.sources=["web"]', "optim.epochs=1"), tmp_path / "run", quiet=True)
    output = cli(
        "diagnose", "model", tmp_path / "run", "--store", world.path, "--sources", "books", "--json", "-"
    )
    assert output.code == 0, output.err
    assert output.json["sources"]["trained"] == {"books": False}
    gap = {s["name"]: s for s in output.json["gap"]["splits"]}
    assert gap["train"]["in_sample"]
    assert gap["train"]["documents"] == len(set(_trained_documents(tmp_path / "run")))


def _trained_documents(run: Path) -> list[int]:
    from nextvec.data.trained import TRAINED_ON, TrainedOn

    return TrainedOn.load(run / TRAINED_ON).ids.tolist()


def test_the_train_split_is_labelled(cli: Cli, trained: Path, world: Store) -> None:
    output = cli(
        "diagnose", "model", trained, "--store", world.path, "--split", "train", "--no-speed", "--quiet"
    )
    assert output.code == 0, output.err
    assert "Split train (in-sample)" in output.out
    assert "train (in-sample)" in output.out


def test_strict_follows_the_verdicts(cli: Cli, trained: Path, world: Store) -> None:
    flags = ("--no-speed", "--strict", "--json", "-", "--quiet")
    output = cli("diagnose", "model", trained, "--store", world.path, *flags)
    red = any(v["level"] == "red" for v in output.json["verdicts"])
    assert output.code == int(red)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "tests"), "there is no split 'tests'"),
        (("--sources", "radio"), "no document of source 'radio'"),
        (("--context", "40"), "no window of 40 chunks"),
        (("--split-file", "absent.json"), "absent.json"),
    ],
)
def test_bad_flags_are_one_line(
    cli: Cli, trained: Path, world: Store, flags: tuple[str, ...], message: str
) -> None:
    output = cli("diagnose", "model", trained, "--store", world.path, *flags)
    assert (output.code, output.out) == (2, "")
    assert message in output.err
    assert len(output.err.splitlines()) == 1


def test_another_encoder_is_refused(
    cli: Cli, trained: Path, make_world: Callable[..., Store], tmp_path: Path
) -> None:
    other = make_world(tmp_path / "store", encoder="another", prefix="x")
    output = cli("diagnose", "model", trained, "--store", other.path, "--split", "all")
    assert output.code == 2
    assert "another encoder" in output.err


def test_training_documents_under_another_split_are_refused(
    cli: Cli, trained: Path, world: Store, tmp_path: Path
) -> None:
    ids = [d.doc_id for d in world.documents]
    (tmp_path / "s.json").write_text(json.dumps({"train": ids[30:], "validation": [], "test": ids[:30]}))
    output = cli("diagnose", "model", trained, "--store", world.path, "--split-file", tmp_path / "s.json")
    assert output.code == 2
    assert "stand in training" in output.err


def test_evaluate_and_diagnose_say_the_same_of_one_run(cli: Cli, trained: Path, world: Store) -> None:
    flags = (trained, "--store", world.path, "--no-speed", "--quiet", "--json", "-")
    output = " ".join(cli("evaluate", *flags).json["notes"])
    how = re.search(
        r"small-lstm is (better than|worse than|not distinguishable from) the best baseline by", output
    )
    assert how is not None
    assert how.group(1) in ("better than", "worse than", "not distinguishable from")
    headline = cli("diagnose", "model", *flags).json["headline"]
    assert headline.startswith(f"small-lstm is {how.group(1)} the best baseline (")
