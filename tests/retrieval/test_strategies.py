"""Every registered strategy: distinct rows, none that was read; and what each of them is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nextvec.config import from_dict
from nextvec.corpus.store import Store
from nextvec.data.windows import FloatArray, IntArray, Windows, make_windows, with_queries
from nextvec.errors import ConfigError, RetrievalError
from nextvec.retrieval.context import QUERIES, RERANKERS, Options, Reading, RetrievalContext, query, reranker
from nextvec.retrieval.engine import ExactIndex
from nextvec.retrieval.index import Found
from nextvec.retrieval.strategies import Strategy, usual
from nextvec.vectors import RawVectors, unit

K = 7


class Turning:
    """Knows the world's rotation: predicts the last vector turned once, and adds the query to it."""

    context = 3
    conditional = True
    ranking = True

    def __init__(self, store: Store) -> None:
        before = np.concatenate([store.vectors[d.first : d.first + d.count - 1] for d in store.documents])
        after = np.concatenate([store.vectors[d.first + 1 : d.first + d.count] for d in store.documents])
        self.turn = np.linalg.lstsq(before, after, rcond=None)[0].astype(np.float32)
        self.widest = 0

    def predict(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        self.widest = max(self.widest, contexts.shape[1])
        raw = contexts[np.arange(len(lengths)), lengths - 1] @ self.turn
        raw = raw if queries is None else raw + queries
        return raw, unit(raw)

    def predict_ranking(
        self, contexts: FloatArray, lengths: IntArray, queries: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        raw, units = self.predict(contexts, lengths, queries)
        return raw, units, -units


@pytest.fixture(scope="module")
def context(world: Store) -> RetrievalContext:
    return RetrievalContext(
        Turning(world),
        world,
        ExactIndex.of(world),
        Options(pool=50),
        reembed=lambda raw: RawVectors(-raw.values, raw.encoder),
    )


@pytest.fixture(scope="module")
def windows(world: Store) -> Windows:
    return with_queries(make_windows(world, [3, 8, 20], context=4), 0)


@pytest.fixture(scope="module")
def reading(world: Store, context: RetrievalContext, windows: Windows) -> Reading:
    return Reading.of_windows(world.vectors, windows, context.width)


def find(name: str, context: RetrievalContext, reading: Reading, k: int = K) -> Found:
    return Strategy.named(name).find(context, reading, k)


@pytest.mark.parametrize(
    "name", [*QUERIES, *(f"predicted+{name}" for name in RERANKERS), "last+document+mmr+refined"]
)
def test_every_strategy_returns_distinct_rows_that_were_not_read(
    context: RetrievalContext, reading: Reading, windows: Windows, name: str
) -> None:
    found = find(name, context, reading)
    assert found.rows.shape == found.scores.shape == (len(windows), K)
    assert np.isfinite(found.scores).all()
    for i, rows in enumerate(found.rows.tolist()):
        assert len(set(rows)) == K
        read = set(range(windows.first[i], windows.last[i] + 1)) | {int(windows.query[i])}
        assert not read & set(rows)
    # one reading at a time gives what all at once do
    alone = Reading.of_windows(context.store.vectors, windows.select(slice(5, 6)), context.width)
    assert find(name, context, alone).rows.tolist() == found.rows[5:6].tolist()


def test_who_knows_what_comes_next_finds_it_first(
    context: RetrievalContext, reading: Reading, windows: Windows
) -> None:
    first = {
        name: find(name, context, reading).rows[:, 0] == windows.target
        for name in ("last", "mean", "predicted")
    }
    assert first["predicted"].mean() > 0.95
    assert first["last"].mean() < 0.2
    assert first["mean"].mean() < 0.2
    assert (
        context.predictor.widest <= context.predictor.context + 1
    )  # of refined: what was read, and a candidate


def test_query_vectors_are_what_they_say(
    context: RetrievalContext, reading: Reading, windows: Windows
) -> None:
    output = {name: Strategy.named(name).units(context, reading).values for name in QUERIES}
    vectors = context.store.vectors
    np.testing.assert_allclose(output["last"], unit(vectors[windows.last]), atol=1e-6)
    # context 4: the first window of a document has only these to take the mean of
    few = unit(vectors[windows.first[0] : windows.first[0] + 4].mean(axis=0))
    np.testing.assert_allclose(output["mean"][0], few, atol=1e-6)
    five = unit(vectors[windows.last[3] - 4 : windows.last[3] + 1].mean(axis=0))
    np.testing.assert_allclose(output["mean"][3], five, atol=1e-6)
    raw = vectors[windows.last] @ context.predictor.turn
    np.testing.assert_allclose(output["predicted"], unit(raw), atol=1e-6)
    np.testing.assert_allclose(output["ranked"], -unit(raw), atol=1e-6)
    np.testing.assert_allclose(
        output["blend"], unit(0.7 * output["last"] + 0.3 * output["predicted"]), atol=1e-6
    )
    np.testing.assert_allclose(output["text"], np.zeros_like(raw), atol=1e-6)  # reembed turned it round
    steered = windows.query >= 0
    towards = unit(vectors[np.maximum(windows.query, 0)])
    assert 0 < steered.sum() < len(steered)
    np.testing.assert_allclose(
        output["steered"][steered], unit(raw + vectors[windows.query])[steered], atol=1e-6
    )
    np.testing.assert_allclose(
        output["query"][steered], unit(0.7 * output["steered"] + 0.3 * towards)[steered], atol=1e-6
    )
    np.testing.assert_allclose(
        output["last-query"][steered], unit(0.7 * output["last"] + 0.3 * towards)[steered], atol=1e-6
    )
    for name, without in (("steered", "predicted"), ("query", "predicted"), ("last-query", "last")):
        np.testing.assert_array_equal(output[name][~steered], output[without][~steered])


def test_an_unconditional_model_is_not_told(
    world: Store, context: RetrievalContext, reading: Reading
) -> None:
    plain = Turning(world)
    plain.conditional = False
    other = replace(context, predictor=plain)
    steered = np.flatnonzero(reading.queries.any(axis=1))
    expected = unit(0.7 * find_units("predicted", other, reading) + 0.3 * unit(reading.queries))
    np.testing.assert_allclose(find_units("query", other, reading)[steered], expected[steered], atol=1e-6)
    with pytest.raises(RetrievalError, match="strategy 'steered': the run was trained without queries"):
        find("steered", other, reading)


def test_the_default_asks_for_what_the_model_was_trained_to_rank_by(
    world: Store, context: RetrievalContext, reading: Reading
) -> None:
    assert Strategy.default(context.predictor, steered=False).name == "ranked+passage"
    assert Strategy.default(context.predictor, steered=True).name == "query"
    plain = Turning(world)
    plain.ranking = False
    assert Strategy.default(plain, steered=False).name == "last-mean+passage"
    with pytest.raises(
        RetrievalError, match=r"strategy 'ranked': .* no query for ranking; .*options.ranking"
    ):
        find("ranked", replace(context, predictor=plain), reading)


def find_units(name: str, context: RetrievalContext, reading: Reading) -> FloatArray:
    return Strategy.named(name).units(context, reading).values


def test_document_and_recency_bring_their_own_forward(
    context: RetrievalContext, reading: Reading, windows: Windows
) -> None:
    sure = replace(context, options=Options(pool=200, document=10.0, recency=100.0))
    pool = find("last", sure, reading, 200).rows
    documents = [find("last+document", sure, reading).rows, find("last+recency", sure, reading).rows]
    for i, (rows, home) in enumerate(zip(pool, windows.document, strict=True)):
        own = rows[context.store.document_of(rows) == home]
        assert documents[0][i].tolist() == [*own, *rows[~np.isin(rows, own)]][:K]
        nearest = np.sort(own)  # what was read is left out: all of its own come after the reader
        assert documents[1][i].tolist()[: min(3, len(own))] == nearest.tolist()[:3]
    off = replace(context, options=Options(document=0.0, recency=0.0))
    for name in ("document", "recency"):
        assert (find(f"last+{name}", off, reading).rows == find("last", off, reading).rows).all()


def test_refined_prefers_what_goes_on_as_expected(
    context: RetrievalContext, reading: Reading, windows: Windows
) -> None:
    """The last chunk's nearest rows are of every document; only where the world turns as it should does the
    model, having read a candidate, expect its successor: everywhere here, so it decides by nothing else."""
    last = find("last", context, reading, 20)
    refined = find(
        "last+refined", replace(context, options=Options(pool=20, refined=20, refine=1.0)), reading, 20
    )
    assert {*map(frozenset, last.rows.tolist())} == {*map(frozenset, refined.rows.tolist())}
    ends = {d.first + d.count - 1 for d in context.store.documents}
    for rows, scores in zip(refined.rows.tolist(), refined.scores, strict=True):
        known = [(row, score) for row, score in zip(rows, scores, strict=True) if row not in ends]
        vectors = context.store.vectors
        for row, score in known:
            expected = (
                unit(vectors[row : row + 1] @ context.predictor.turn)[0] @ unit(vectors[row + 1 : row + 2])[0]
            )
            assert score == pytest.approx(expected, abs=1e-5)
        at_ends = [score for row, score in zip(rows, scores, strict=True) if row in ends]
        assert at_ends == pytest.approx([np.mean([score for _, score in known])] * len(at_ends), abs=1e-5)


def test_passage_prefers_what_goes_on_near_the_last_chunk(
    context: RetrievalContext, reading: Reading
) -> None:
    only = replace(context, options=Options(pool=20, refined=20, refine=1.0))
    found = find("last+passage", only, reading, 20)
    ends = {d.first + d.count - 1 for d in context.store.documents}
    units = unit(context.store.vectors[:])
    for last, rows, scores in zip(unit(reading.last), found.rows.tolist(), found.scores, strict=True):
        for row, score in zip(rows, scores, strict=True):
            if row not in ends:
                assert score == pytest.approx(last @ units[row + 1], abs=1e-5)


def test_every_control_asks_no_model(context: RetrievalContext) -> None:
    names = {name: Strategy.named(name).control for name in usual(context, steered=True)}
    assert names["predicted"] == "last"
    assert names["blend+refined"] == "last-mean+passage"
    assert names["last+mmr"] is None
    for name, control in names.items():
        asks = {"predicted", "ranked", "blend", "text", "steered", "query", "refined"} & set(name.split("+"))
        assert (control is not None) == bool(asks)
        assert control is None or control in names
        assert control is None or Strategy.named(control).control is None


def test_mmr_of_one_is_the_plain_ranking(context: RetrievalContext, reading: Reading) -> None:
    plain = find("predicted", context, reading)
    same = find("predicted+mmr", replace(context, options=Options(trade_off=1.0)), reading)
    assert (plain.rows == same.rows).all()
    diverse = find("predicted+mmr", replace(context, options=Options(trade_off=0.0)), reading)
    assert (diverse.rows[:, 0] == plain.rows[:, 0]).all()
    assert (diverse.rows[:, 1:] != plain.rows[:, 1:]).any()


def test_a_new_text_and_one_that_is_in_the_store(world: Store, context: RetrievalContext) -> None:
    rows = np.arange(27, 32)
    known = Reading.of_text(RawVectors(world.vectors[rows], "world"), context.index)
    assert known.place.tolist() == [31]
    assert [r.tolist() for r in known.read] == [rows.tolist()]
    assert not set(find("last", context, known).rows[0].tolist()) & set(rows.tolist())
    assert find("predicted", context, known).rows[0, 0] == 32
    rng = np.random.default_rng(0)
    new = Reading.of_text(RawVectors(rng.standard_normal((2, 16)).astype(np.float32), "world"), context.index)
    assert [r.tolist() for r in new.read] == [[]]
    assert find("last+document", context, new).rows.shape == (1, K)
    single = Reading.of_text(RawVectors(world.vectors[5:6], "world"), context.index)
    assert find("mean", context, single).rows.tolist() == find("last", context, single).rows.tolist()


def test_a_run_that_reads_one_vector_can_refine(world: Store, reading: Reading) -> None:
    short = Turning(world)
    short.context = 1
    found = find("predicted+refined", RetrievalContext(short, world, ExactIndex.of(world)), reading)
    assert found.rows.shape == (len(reading), K)
    assert short.widest == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("best", "strategy 'best': no query 'best'; choose one of: last, mean, predicted"),
        ("last+best", "no re-ranker 'best'; choose one of: document, recency, mmr, passage, refined"),
        ("document", "no query 'document'"),
        ("last+", "no re-ranker ''"),
    ],
)
def test_unknown_strategies(name: str, says: str) -> None:
    with pytest.raises(RetrievalError, match=says.replace("+", r"\+")):
        Strategy.named(name)


def test_what_a_strategy_needs_is_said(world: Store, context: RetrievalContext, windows: Windows) -> None:
    bare = replace(context, reembed=None)
    without = Reading.of_windows(world.vectors, replace(windows, query=None), context.width)
    with pytest.raises(RetrievalError, match="strategy 'text': there is no decoder; give a decoder"):
        find("text", bare, without)
    for name in ("query", "last-query", "steered"):
        with pytest.raises(RetrievalError, match=f"strategy '{name}': there is no query; give a query"):
            find(name, bare, without)
    assert {name.partition("+")[0] for name in usual(bare, steered=False)} == {
        "last",
        "mean",
        "predicted",
        "ranked",
        "blend",
        "last-mean",
    }
    assert set(QUERIES) <= set(usual(context, steered=True))
    with pytest.raises(RetrievalError, match=f"{len(world) + 1} rows wanted"):
        find("last+mmr", context, without, len(world) + 1)


def test_more_rows_than_the_pool(world: Store, context: RetrievalContext, reading: Reading) -> None:
    few = replace(context, options=Options(pool=3))
    assert find("last+document", few, reading, 9).rows.shape == (len(reading), 9)
    small = ExactIndex.of(world, documents=[3])
    unread = Reading.of_windows(world.vectors, make_windows(world, [8], context=4), context.width)
    assert find("last+mmr", replace(context, index=small), unread, 12).rows.shape == (len(unread), 12)


def test_options_are_checked() -> None:
    for given, says in (
        ({"pool": 0}, "pool is 0; it must be at least 1"),
        ({"blend": 1.5}, "blend is 1.5; it must be between 0 and 1"),
        ({"reach": 0.0}, "reach is 0.0; it must be above 0"),
        ({"blnd": 0.5}, "did you mean 'blend'"),
    ):
        with pytest.raises(ConfigError, match=says):
            from_dict(Options, given, where="--set")


def test_names_are_taken_once_and_told() -> None:
    assert all(len(each.summary) > 20 for each in [*QUERIES.values(), *RERANKERS.values()])
    assert list(RERANKERS)[-1] == "refined"
    for register, name in ((query, "last"), (reranker, "last"), (query, "a+b")):
        with pytest.raises(ValueError, match="taken, or holds a"):
            register(name)(lambda *_: None)
    assert "a+b" not in QUERIES


def test_equal_scores_keep_their_order() -> None:
    found = Found(np.array([[0.9, 0.5, 0.5]], dtype=np.float32), np.array([[4, 2, 9]]))
    again = found.scored(np.array([[0.1, 0.7, 0.7]], dtype=np.float32))
    assert again.rows.tolist() == [[2, 9, 4]]
    np.testing.assert_allclose(again.scores, [[0.7, 0.7, 0.1]])
    assert again.first(2).rows.tolist() == [[2, 9]]
