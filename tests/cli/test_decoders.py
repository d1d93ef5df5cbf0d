"""`nextvec decoder evaluate` and `nextvec diagnose decoder`, on a real encoder and chunks that are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store

FEW = ("--splits", "test,validation", "--quiet")


@pytest.fixture(scope="module")
def split_file(text_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By subject, since documents of one subject have sentences in common, which the leak guard finds."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for document in text_store.documents:
        name = {"railway": "test", "bakery": "validation"}.get(document.doc_id.partition("-")[0], "train")
        parts[name].append(document.doc_id)
    path = tmp_path_factory.mktemp("split") / "split.json"
    path.write_text(json.dumps(parts))
    return path


@pytest.fixture(scope="module")
def run(
    text_store: Store,
    split_file: Path,
    make_tiny: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A small GRU, trained on the train documents."""
    from nextvec.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "small-gru"
    config = make_tiny(
        "gru", "optim.epochs=1", "model.options.residual=mean", f"data.split.file={split_file}"
    )
    train(text_store, config, folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def inverter(text_store: Store, split_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that was hardly trained, on the train documents."""
    from nextvec.config import from_dict
    from nextvec.decoding.inverter import InverterConfig, train_inverter

    folder = tmp_path_factory.mktemp("decoders") / "inverter"
    tiny = {
        "network": {"width": 16, "layers": 1, "heads": 2, "ffn": 16, "prefix": 2},
        "tokens": {"vocabulary": 300, "length": 24},
        "data": {"split": {"file": str(split_file)}},
        "optim": {"epochs": 1, "topic_updates": 1},
        "runtime": {"device": "cpu", "precision": "float32", "threads": 1},
    }
    train_inverter(text_store, from_dict(InverterConfig, tiny, where="tests"), folder, quiet=True)
    return folder


def test_evaluate_prints_the_table_with_its_controls(cli, text_store: Store, split_file: Path) -> None:
    done = cli("decoder", "evaluate", "nearest", "--store", text_store.path, "--split-file", split_file, *FEW)
    assert (done.code, done.err) == (0, "")
    assert "12 chunks of as many documents (6 test and 6 validation)" in done.out
    assert "nearest, shuffled" in done.out
    assert "Verdicts\n  ok      nearest: texts are nearer to the truth" in done.out


def test_evaluate_behind_a_run_in_json(cli, text_store: Store, run: Path, tmp_path: Path) -> None:
    arguments = ("decoder", "evaluate", "nearest", "--store", text_store.path, "--run", run, *FEW)
    done = cli(*arguments, "--json", "-")
    assert done.code == 0
    found = done.json
    assert [row["name"] for row in found["decoded"]] == ["the true text", "nearest", "nearest, shuffled"]
    assert found["decoded"][0]["cosine"]["value"] == pytest.approx(1, abs=1e-4)
    assert [row["how"] for row in found["pipeline"]] == ["retrieved", "shuffled"]
    assert found["run"] == "small-gru"
    assert sum(found["heading"]["documents"].values()) == len(found_documents(cli, arguments))


def found_documents(cli, arguments: tuple[object, ...]) -> set[str]:
    """The documents that --examples shows, each with its truth and both texts."""
    out = cli(*arguments, "--examples", 100).out
    blocks = [b.splitlines() for b in out.split("\n\n") if b.splitlines()[1:2] and "  truth" in b]
    for block in blocks:
        assert [line.split("  ")[1] for line in block[1:]] == ["truth", "nearest", "small-gru > nearest"]
    return {block[0] for block in blocks}


def test_examples_are_not_in_the_json(cli, text_store: Store, split_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    done = cli(
        *("decoder", "evaluate", "nearest", "--store", text_store.path, "--split-file", split_file),
        *(*FEW, "--examples", 1, "--json", target),
    )
    assert done.code == 0
    shown = next(line for line in done.out.splitlines() if line.startswith("  truth"))
    assert shown.removeprefix("  truth").strip() not in target.read_text()


def test_diagnose_says_where_it_breaks(cli, text_store: Store, run: Path) -> None:
    arguments = ("diagnose", "decoder", "nearest", "--store", text_store.path, "--run", run, *FEW)
    done = cli(*arguments)
    assert (done.code, done.err) == (0, "")
    for part in (
        "A  encoder's vector",
        "D  model's unit output",
        "Verdicts",
        "the decoder does not mind lengths",
        "both in a row",
    ):
        assert part in " ".join(done.out.split("\n          ")).replace("\n", " "), part
    found = cli(*arguments, "--json", "-").json
    assert set(found["cases"]) == set("ABCD")
    assert {v["name"] for v in found["verdicts"]} >= {"decoder", "lengths", "distribution", "gibberish"}


def test_strict_leaves_with_1_when_a_verdict_is_red(
    cli, text_store: Store, split_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextvec.decoding.nearest import Nearest

    monkeypatch.setattr(Nearest, "text", lambda self, vectors: ["so so so so"] * len(vectors.values))
    common = ("nearest", "--store", text_store.path, "--split-file", split_file, *FEW)
    for verb in (("decoder", "evaluate"), ("diagnose", "decoder")):
        assert cli(*verb, *common).code == 0
        done = cli(*verb, *common, "--strict")
        assert done.code == 1
        assert "RED" in done.out


WRITING = ("--decoder-option", "inverter.writing.beam=1", "--decoder-option", "inverter.writing.samples=2")


def test_a_trained_decoder_stands_in_the_table_and_brings_its_division(
    cli, text_store: Store, inverter: Path
) -> None:
    done = cli(
        *("decoder", "evaluate", "nearest", inverter, "--store", text_store.path),
        *(*WRITING, "--quiet", "--json", "-"),
    )
    assert done.code == 0, done.err
    assert done.json["heading"]["documents"] == {"test": 6}
    assert [(row["name"], row["how"]) for row in done.json["decoded"][1:]] == [
        ("nearest", "retrieved"),
        ("nearest, shuffled", "shuffled"),
        ("inverter", "generated"),
        ("inverter, shuffled", "shuffled"),
    ]


def test_a_trained_decoder_is_not_evaluated_on_what_it_learned_from(
    cli, text_store: Store, inverter: Path, tmp_path: Path
) -> None:
    parts = {"train": [], "validation": [], "test": [d.doc_id for d in text_store.documents]}
    (tmp_path / "other.json").write_text(json.dumps(parts))
    done = cli(
        *("diagnose", "decoder", inverter, "--store", text_store.path, *WRITING, "--quiet"),
        *("--split-file", tmp_path / "other.json"),
    )
    assert (done.code, done.out) == (2, "")
    assert "stand in training" in done.err


def test_how_a_trained_decoder_writes_is_checked(cli, text_store: Store, inverter: Path) -> None:
    done = cli(
        *("diagnose", "decoder", inverter, "--store", text_store.path, "--quiet"),
        *("--decoder-option", "inverter.writing.beams=1"),
    )
    assert done.code == 2
    assert "unknown key 'inverter.writing.beams'" in done.err


def test_two_decoders_of_one_name_are_told_apart(cli, text_store: Store, inverter: Path) -> None:
    both = (str(inverter), f"inverter:{inverter}")
    done = cli(
        *("decoder", "evaluate", *both, "--store", text_store.path, "--documents", 2),
        *(*WRITING, "--quiet", "--json", "-"),
    )
    assert done.code == 0, done.err
    assert tuple(row["name"] for row in done.json["decoded"] if row["how"] == "generated") == both
