"""`nextvec retrieve`: the passages that come next after a text, and what looking ahead is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nextvec.corpus.store import Store
from nextvec.retrieval.context import QUERIES, RERANKERS
from passages import documents

RIVER = documents()["river-arden"]
NEW = (
    "The river at Foxley rises under the moor. Salmon come up to it in autumn. A ferryman rows people across."
)


@pytest.fixture(autouse=True)
def one_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded once for all tests of this file, as it is by name."""
    from nextvec.corpus import reading

    real = reading.load_encoder
    monkeypatch.setattr(reading, "load_encoder", lambda config: LOADED.setdefault(config, real(config)))


LOADED: dict[Any, Any] = {}


def test_passages_for_a_text(
    cli: Callable[..., Any], text_store: Store, text_run: Path, tmp_path: Path
) -> None:
    command = ("retrieve", text_run, "--store", text_store.path, "--text", NEW, "--nearest", 3)
    done = cli(*command, "--json", tmp_path / "output.json")
    assert (done.code, done.err) == (0, "")
    output = json.loads((tmp_path / "output.json").read_text())
    assert (output["strategy"], output["query"], output["left_out"]) == ("last-mean+passage", None, [])
    assert len(output["passages"]) == 3
    how = "last-mean+passage, which asks no model (--strategy predicted does)"
    assert done.out.startswith(f"3 passages by {how}, after {output['read']} chunks.")
    scores = [passage["score"] for passage in output["passages"]]
    assert scores == sorted(scores, reverse=True)
    for rank, passage in enumerate(output["passages"], 1):
        document = text_store.find(passage["document"])
        assert passage["text"] == text_store.texts([document.first + passage["position"]])[0]
        head = f"{rank}  {passage['score']:.3f}  {passage['title'] or passage['document']}, chunk "
        assert f"{head}{passage['position'] + 1}\n" in done.out
        assert " ".join(passage["text"].split()) in " ".join(done.out.split())


@pytest.mark.parametrize("wanted", [0, -1])
def test_no_passage_cannot_be_asked_for(
    cli: Callable[..., Any], text_store: Store, text_run: Path, wanted: int
) -> None:
    refused = cli("retrieve", text_run, "--store", text_store.path, "--text", NEW, "--nearest", wanted)
    assert refused.code == 2
    assert f"{wanted} rows wanted" in refused.err


def test_every_index_finds_the_same(
    cli: Callable[..., Any], text_store: Store, text_run: Path, tmp_path: Path
) -> None:
    command = ("retrieve", text_run, "--store", text_store.path, "--text", RIVER, "--sources", "texts")
    plain = cli(*command, "--json", "-").json
    assert plain["index"] == "exact"
    for index in ("faiss", f"milvus:{tmp_path / 'milvus.db'}"):
        output = cli(*command, "--index", index, "--json", "-").json
        assert output == {**plain, "index": index.partition(":")[0]}


def test_what_was_read_is_left_out(cli: Callable[..., Any], text_store: Store, text_run: Path) -> None:
    document = text_store.find("river-arden.txt")
    for strategy in ("last", "mean+document", "predicted+recency+mmr", "blend+refined"):
        command = ("retrieve", text_run, "--store", text_store.path, "--text", RIVER, "--k", 20)
        output = cli(*command, "--strategy", strategy, "--json", "-").json
        rows = [passage["row"] for passage in output["passages"]]
        assert len(set(rows)) == 20
        assert set(range(document.first, document.first + document.count)) <= set(output["left_out"])
        assert not set(rows) & set(output["left_out"])


def test_a_query_is_mixed_in(cli: Callable[..., Any], text_store: Store, text_run: Path) -> None:
    command = (
        "retrieve",
        text_run,
        "--store",
        text_store.path,
        "--text",
        NEW,
        "--query",
        "rye bread from the oven",
    )
    plain, all_of_it = (cli(*command, *more, "--json", "-").json for more in ((), ("--set", "query=1.0")))
    assert plain["strategy"] == all_of_it["strategy"] == "query"
    assert "bakery" in all_of_it["passages"][0]["document"]
    assert len(all_of_it["passages"]) == 10


def test_the_text_strategy_and_sources(cli: Callable[..., Any], text_store: Store, text_run: Path) -> None:
    command = (
        "retrieve",
        text_run,
        "--store",
        text_store.path,
        "--text",
        NEW,
        "--strategy",
        "text",
        "--json",
        "-",
    )
    output = cli(*command, "--decoder", "nearest", "--set", "text=1.0").json
    expected = cli(*command[:-4], "--strategy", "predicted", "--json", "-").json
    # the decoded text is the chunk nearest to the prediction; encoded again it finds itself
    assert output["passages"][0]["row"] == expected["passages"][0]["row"]
    assert output["passages"][0]["score"] == pytest.approx(1, abs=1e-2)
    [source] = text_store.sources
    assert cli(*command, "--decoder", "nearest", "--sources", source).json["passages"]


def test_strategies_compared(cli: Callable[..., Any], world: Store, trained: Path, tmp_path: Path) -> None:
    command = ("retrieve", trained, "--store", world.path, "--evaluate", "--queries", "--quiet")
    done = cli(*command, "--json", tmp_path / "output.json")
    assert (done.code, done.err) == (0, "")
    output = json.loads((tmp_path / "output.json").read_text())
    names = [row["name"] for row in output["strategies"]]
    assert set(QUERIES) - set(names) == {"text", "steered", "ranked"}
    for row in output["strategies"]:
        figures = [f"{row[m]:.4f}" for m in ("recall@1", "recall@5", "recall@10", "recall@20", "mrr")]
        assert re.search(rf"^{re.escape(row['name'])} +{' +'.join(figures)} ", done.out, re.MULTILINE)
    assert f"{output['windows']} windows of {output['documents']} documents, a later chunk given" in done.out
    assert "Chance: R@1" in done.out
    for factor in output["where"]:
        assert (factor["name"] in done.out) == (len(factor["groups"]) > 1)
    assert output["verdicts"][0].split()[0] in done.out
    few = cli(*command, "--strategies", "last,predicted", "--windows", 9, "--no-speed", "--json", "-").json
    assert [row["name"] for row in few["strategies"]] == ["last", "predicted"]
    assert (few["windows"], few["strategies"][0]["latency_p50_ms"]) == (9, None)
    assert "p50" not in cli(*command, "--strategies", "last", "--no-speed").out


def test_every_strategy_is_told_in_the_help(cli: Callable[..., Any]) -> None:
    output = " ".join(cli("retrieve", "--help").out.replace("│", " ").split())
    explained = output.partition(" --strategy ")[2].partition(" --query ")[0]
    for name in (*QUERIES, *RERANKERS):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", explained), name
