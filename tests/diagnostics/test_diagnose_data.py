"""The diagnosis of data, on stores whose truth is known."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_hand import by_hand
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.splits import SplitConfig
from nextvec.diagnostics import lags as sweep
from nextvec.diagnostics import reembedding
from nextvec.diagnostics.data import DataDiagnosisConfig, diagnose_data
from nextvec.diagnostics.lags import lag_curves
from nextvec.diagnostics.sections import is_red, plain
from nextvec.errors import ConfigError, EncoderError, EvaluationError, SplitError
from nextvec.evaluation.intervals import short
from nextvec.evaluation.predictor_protocol import unit

QUIET = {"reembed": 0.0, "quiet": True, "resamples": 200}
D = 12


def look(store: Store, **changes: Any) -> Any:
    return diagnose_data(store, DataDiagnosisConfig(**{**QUIET, **changes}))


def level(found: Any, name: str) -> str | None:
    """The level of the verdict of that name; None where there is none."""
    return next((v.level for v in found.verdicts if v.name == name), None)


def text(found: Any, name: str) -> str:
    return next(v.text for v in found.verdicts if v.name == name)


def slow_turn(documents: int, length: int, angle: float) -> np.ndarray:
    """Every vector turns by the same angle in each of D/2 planes: cos(lag k) is cos(k angle), whatever x."""
    plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = np.kron(np.eye(D // 2), plane)
    steps = [unit(np.random.default_rng(0).standard_normal((documents, D)))]
    for _ in range(length - 1):
        steps.append(steps[-1] @ turn.T)
    return np.stack(steps, axis=1).astype(np.float32)


def write(path: Path, documents: Sequence[tuple[str, str, np.ndarray]], **options: Any) -> Store:
    """A store of (id, source, vectors [T, D]); every chunk has a text of its own."""
    made = [
        NewDocument.from_chunks(i, [f"chunk {k} of {i} says {len(v) * k}" for k in range(len(v))], source=s)
        for i, s, v in documents
    ]
    encoder = {"fingerprint": "e", "name": "e"}
    settings = {"encoder": encoder, "dimension": D, "chunker": {"kind": "t"}, "dtype": "float32", **options}
    with StoreWriter(path, **settings) as writer:
        writer.add_shard(made, np.concatenate([v for _, _, v in documents]), path="test")
    return Store.open(path)


@pytest.fixture
def ragged(tmp_path: Path) -> Store:
    """Documents of 1 to 19 chunks of two sources, of no structure, not of unit length."""
    rng = np.random.default_rng(5)
    lengths = [1, 2, 3, 19, 4, 11, 1, 9, 16, 7]
    documents = [(f"d{i}", "ab"[i % 2], 3 * rng.standard_normal((n, D))) for i, n in enumerate(lengths)]
    return write(tmp_path / "ragged", documents)


@pytest.mark.parametrize("block", [3, 8, 10_000])
def test_one_pass_gives_the_sums_of_plain_loops(ragged, monkeypatch, block):
    monkeypatch.setattr(sweep, "BLOCK_ROWS", block)
    found = sweep.sum_store(ragged, range(len(ragged.documents)))
    units = unit(np.asarray(ragged.vectors)).astype(np.float64)
    for i, d in enumerate(ragged.documents):
        own = units[d.first : d.first + d.count]
        for k in range(1, sweep.LAGS + 1):
            expected = sum(float(own[a] @ own[a + k]) for a in range(d.count - k))
            assert found.similar[i, k - 1] == pytest.approx(expected, abs=1e-6)
            assert found.pairs[i, k - 1] == max(d.count - k, 0)
        pairs = [float(x @ y) for x, y in itertools.permutations(own, 2)]
        assert found.within[i] == pytest.approx(np.mean(pairs) if pairs else 0.0, abs=1e-6)
    owner = np.repeat(range(len(ragged.documents)), [d.count for d in ragged.documents])
    other = owner[:, None] != owner
    same = found.source[owner][:, None] == found.source[owner]
    similar = units @ units.T
    assert found.apart_all == pytest.approx(similar[other].mean(), abs=1e-6)
    for s in range(2):
        inside = other & same & (found.source[owner] == s)
        assert found.apart[s] == pytest.approx(similar[inside].mean(), abs=1e-6)
    raw = np.asarray(ragged.vectors, dtype=np.float64)
    np.testing.assert_allclose(found.raw.std, raw.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.unit.mean, units.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.norms, np.linalg.norm(raw, axis=1), rtol=1e-9)


def test_the_shuffled_null_is_the_mean_over_all_orders(tmp_path):
    vectors = np.random.default_rng(1).standard_normal((4, D)).astype(np.float32)
    store = write(tmp_path / "s", [("d", "a", vectors)])
    curve = lag_curves(sweep.sum_store(store, [0]))[0]
    units = unit(vectors).astype(np.float64)
    for lag in curve.lags:
        orders = [
            np.mean([units[o[i]] @ units[o[i + lag.k]] for i in range(4 - lag.k)])
            for o in itertools.permutations(range(4))
        ]
        assert lag.shuffled == pytest.approx(np.mean(orders), abs=1e-6)
    assert [lag.k for lag in curve.lags] == [1, 2, 3]


def test_a_slow_rotation_has_the_curve_of_its_angle(worlds, tmp_path):
    angle = 0.12
    found = look(worlds.store(tmp_path / "s", slow_turn(30, 20, angle)))
    curve = found.curves[0]
    for lag in curve.lags:
        assert lag.cosine.value == pytest.approx(np.cos(lag.k * angle), abs=1e-5)
        assert lag.cosine.high - lag.cosine.low < 1e-5  # every document has the same
    shuffled = np.average(np.cos(np.arange(1, 20) * angle), weights=np.arange(19, 0, -1))
    assert curve.lags[0].shuffled == pytest.approx(shuffled, abs=1e-5)
    assert curve.reach == sum(np.cos(k * angle) > shuffled for k in range(1, 9)) == 7
    assert level(found, "order") == "ok"
    assert "order carries signal" in text(found, "order")


def test_an_ar1_state_has_a_falling_curve_of_known_height(worlds, tmp_path):
    memory, noise, size = 0.95, 0.7, 64
    vectors = worlds.noisy(np.random.default_rng(0), 150, 24, size)
    found = look(worlds.store(tmp_path / "s", vectors))
    lags = found.curves[0].lags
    for lag in lags:
        expected = memory**lag.k / (1 + noise**2)
        assert lag.cosine.value == pytest.approx(expected, abs=0.02)
        assert lag.cosine.low < lag.cosine.value < lag.cosine.high
    assert all(a.cosine.value > b.cosine.value for a, b in itertools.pairwise(lags))
    assert level(found, "order") == "ok"
    assert found.curves[0].apart == pytest.approx(0.0, abs=0.01)
    assert not is_red(found.verdicts)


def test_the_interval_is_that_of_independent_documents(worlds, tmp_path):
    """Documents of equal length: the mean's standard error is the documents' std over sqrt(n)."""
    vectors = worlds.noisy(np.random.default_rng(3), 200, 10, D)
    found = sweep.sum_store(worlds.store(tmp_path / "s", vectors), range(200))
    first = lag_curves(found, resamples=1000)[0].lags[0].cosine
    error = (found.similar[:, 0] / 9).std() / np.sqrt(200)
    assert first.high - first.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    again = lag_curves(found, resamples=1000)[0].lags[0].cosine
    assert first == again


def test_a_shuffled_store_is_flat_and_flagged(worlds, tmp_path):
    rng = np.random.default_rng(2)
    ordered = worlds.noisy(rng, 120, 20, 32)
    vectors = np.stack([document[rng.permutation(20)] for document in ordered])
    found = look(worlds.store(tmp_path / "s", vectors))
    for lag in found.curves[0].lags:
        assert abs(lag.gain.value) < 0.02
    assert level(found, "order") == "red"
    assert "incoherent data" in text(found, "order")
    assert level(look(worlds.store(tmp_path / "o", ordered)), "order") == "ok"


def test_one_shuffled_source_among_others_is_named(worlds, tmp_path):
    vectors = slow_turn(40, 12, 0.2)
    rng = np.random.default_rng(0)
    for i in range(0, 40, 2):
        vectors[i] = vectors[i][rng.permutation(12)]
    found = look(worlds.store(tmp_path / "s", vectors, sources=["bad", "good"] * 20))
    assert level(found, "order") == "ok"
    assert level(found, "order of a source") == "warning"
    assert "source bad" in text(found, "order of a source")
    assert [c.source for c in found.curves] == [None, "bad", "good"]
    only = look(worlds.store(tmp_path / "t", vectors, sources=["bad", "good"] * 20), sources=("bad",))
    assert only.sources == ("bad",)
    assert only.curves[0].chunks == 20 * 12
    assert level(only, "order") == "red"


def test_interleaved_and_repeated_chunks_are_flagged(worlds, tmp_path):
    one, two = slow_turn(20, 10, 0.1), -slow_turn(20, 10, 0.1)
    mixed = np.stack([one, two], axis=2).reshape(20, 20, D)
    found = look(worlds.store(tmp_path / "mixed", mixed))
    assert level(found, "interleaved") == "warning"
    padded = np.concatenate([one, np.repeat(one[:, -1:], 3, axis=1)], axis=1)
    found = look(worlds.store(tmp_path / "padded", padded))
    assert level(found, "repeated chunks") == "warning"
    assert found.curves[0].repeated == pytest.approx(3 / 12)
    clean = look(worlds.store(tmp_path / "clean", one))
    assert level(clean, "interleaved") is None
    assert level(clean, "repeated chunks") is None


def test_one_document_has_no_interval_but_a_curve(tmp_path):
    found = look(write(tmp_path / "s", [("d", "a", slow_turn(1, 10, 0.1)[0])]))
    first = found.curves[0].lags[0]
    assert first.cosine.low is None
    assert first.cosine.value == pytest.approx(np.cos(0.1), abs=1e-5)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["curves"][0]["apart"] is None


def test_lengths_and_windows(tmp_path):
    rng = np.random.default_rng(0)
    store = write(tmp_path / "s", [(f"d{n}", "a", rng.standard_normal((n, D))) for n in (1, 5, 6, 9, 30)])
    found = look(store)
    assert found.lengths.short == 2
    assert found.lengths.windows == 1 + 4 + 25
    assert found.lengths.quantiles["median"] == 6
    assert level(found, "document lengths") == "ok"
    assert level(look(store, context=9), "document lengths") == "warning"
    assert level(look(store, context=30), "document lengths") == "red"


def test_no_next_chunk_at_all_is_red(tmp_path):
    found = look(write(tmp_path / "s", [(f"d{i}", "a", np.eye(D)[i : i + 1]) for i in range(4)]))
    assert level(found, "order") == "red"
    assert found.curves[0].lags == ()


def test_norms_moments_and_still_dimensions(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 8, D)).astype(np.float32)
    vectors[:, :, 3] = 0.001
    documents = [(f"d{i}", "a", v) for i, v in enumerate(vectors)]
    found = look(write(tmp_path / "raw", documents))
    assert found.vectors.raw.still == (3,)
    assert found.vectors.unit.std_above == pytest.approx(11 / 12)
    assert found.vectors.norms["max"] == pytest.approx(np.linalg.norm(vectors, axis=2).max(), rel=1e-6)
    assert level(found, "still dimensions") == "note"
    assert level(found, "normalisation") is None
    lied = look(write(tmp_path / "lied", documents, normalised=True))
    assert level(lied, "normalisation") == "red"
    same = [(f"d{i}", "a", np.ones((8, D)) + 0.1 * v) for i, v in enumerate(vectors)]
    assert level(look(write(tmp_path / "same", same)), "variety") == "red"


# duplicates


def words(seed: int, count: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"word{n}" for n in rng.integers(10**6, size=count)]


def planted(path: Path) -> Store:
    """b repeats a exactly, c nearly; e (of test) repeats two chunks of d, in other letters and spacing."""
    a = words(1)
    c = [*a[:-1], "other"]
    d, e = words(2), words(3)
    cut = {
        "a": [" ".join(a[:30]), " ".join(a[30:])],
        "b": [" ".join(a[:30]), " ".join(a[30:])],
        "c": [" ".join(c[:30]), " ".join(c[30:])],
        "d": [" ".join(d[:20]), " ".join(d[20:40]), " ".join(d[40:])],
        "e": [
            " ".join(d[:20]).upper(),
            *(" ".join(e[i : i + 4]) for i in range(0, 60, 4)),
            "  ".join(d[40:]),
        ],
        "f": [" ".join(words(4))] * 3,
        "g": [" ".join(words(5))],
    }
    rng = np.random.default_rng(0)
    documents = [NewDocument.from_chunks(i, texts, source="s") for i, texts in cut.items()]
    with StoreWriter(
        path, encoder={"fingerprint": "e", "name": "e"}, dimension=D, chunker={"kind": "t"}
    ) as writer:
        count = sum(len(t) for t in cut.values())
        writer.add_shard(documents, rng.standard_normal((count, D)), path="test")
    return Store.open(path)


def split_file(path: Path, **parts: list[str]) -> SplitConfig:
    path.write_text(json.dumps({"train": [], "validation": [], "test": [], **parts}))
    return SplitConfig(file=str(path))


def test_planted_duplicates_are_found_and_listed(tmp_path):
    store = planted(tmp_path / "store")
    division = split_file(tmp_path / "s.json", train=["a", "c", "d", "g"], validation=["b"], test=["e", "f"])
    found = look(store, division=division)
    twice = found.duplicates
    assert (twice.exact, twice.near) == (1, 1)
    assert [(t.document, t.like, t.exact) for t in twice.within] == [("b", "a", True), ("c", "a", False)]
    # b's two chunks, c's first, e's two, f's second and third
    assert (twice.repeated, twice.in_document) == (7, 2)
    assert [(t.document, t.split, t.like, t.like_split) for t in twice.twins] == [
        ("b", "validation", "a", "train")
    ]
    across = {a.split: (a.twins, a.shared, a.chunks) for a in twice.across}
    assert across == {"validation": (1, 2, 2), "test": (0, 2, 20)}
    assert {(c.document, c.position) for c in twice.shared} == {("b", 0), ("b", 1), ("e", 0), ("e", 16)}
    assert twice.most_repeated[0][1] == 3
    assert level(found, "duplicate documents across splits") == "red"
    assert level(found, "duplicate chunks across splits") == "red"


def test_the_same_documents_in_one_split_are_no_duplicates_across(tmp_path):
    division = split_file(tmp_path / "s.json", train=["a", "b", "c", "d", "e"], validation=["f"], test=["g"])
    found = look(planted(tmp_path / "store"), division=division)
    assert level(found, "splits") == "ok"
    assert level(found, "duplicate documents across splits") is None
    assert level(found, "duplicate documents") == "warning"


def test_few_shared_chunks_are_a_warning(worlds, tmp_path):
    def texts(d: int, p: int) -> str:
        return (
            "a sentence that stands twice"
            if (d, p) in ((0, 3), (19, 7))
            else f"chunk {p} of {d}: {d * 997 + p}"
        )

    store = worlds.store(tmp_path / "s", slow_turn(20, 100, 0.01), texts=texts)
    ids = [f"doc-{i}" for i in range(20)]
    division = split_file(tmp_path / "s.json", train=ids[:15], validation=ids[15:17], test=ids[17:])
    found = look(store, division=division)
    assert level(found, "duplicate chunks across splits") == "warning"
    assert [(c.document, c.position) for c in found.duplicates.shared] == [("doc-19", 7)]


def test_a_document_between_two_splits_is_listed_as_quarantined(tmp_path, monkeypatch):
    from nextvec.data import splits

    store = planted(tmp_path / "store")
    monkeypatch.setattr(splits, "own_split", lambda i, _: {"a": "train", "d": "test"}.get(i, "train"))
    divided = splits.split_documents(store, SplitConfig())
    moved = splits.Split(
        tuple(i for i in divided.train if i != 6), divided.validation, divided.test, quarantined=(6,)
    )
    monkeypatch.setattr("nextvec.diagnostics.data.split_documents", lambda *_: moved)
    found = look(store)
    assert level(found, "quarantined") == "note"
    assert found.duplicates.quarantined == ("g",)
    assert found.duplicates.documents == 7


# re-embedding


class Fake:
    """Vectors of a text's hash; `salt` makes another encoder of it."""

    max_tokens = None
    normalises = True
    path = "test"

    def __init__(self, salt: str = "", dimension: int = D, unit: bool = False) -> None:
        self.name, self.dimension, self.unit, self.salt = f"fake{salt}", dimension, unit, salt
        self.fingerprint = {"name": self.name, "fingerprint": self.name}
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str], advance: Any = None) -> np.ndarray:
        self.encoded += texts
        if advance is not None:
            advance(len(texts))
        seeds = [
            int.from_bytes(hashlib.sha256((self.salt + t).encode()).digest()[:8], "little") for t in texts
        ]
        return np.stack([5 * np.random.default_rng(s).standard_normal(self.dimension) for s in seeds]).astype(
            np.float32
        )

    def count_tokens(self, texts: Sequence[str]) -> None:
        return None


def embedded(path: Path, change: Any = None, *, texts: bool = True, **options: Any) -> Store:
    """300 chunks of 30 documents with the fake encoder's vectors, [300, D] changed by `change`."""
    cut = [[f"chunk {k} of {i} says {i * 31 + k}" for k in range(10)] for i in range(30)]
    vectors = Fake().encode([t for one in cut for t in one])
    vectors = vectors if change is None else change(vectors)
    made = [
        NewDocument.from_chunks(f"d{i}", one, source="s")
        if texts
        else NewDocument.without_text(f"d{i}", vectors[10 * i : 10 * i + 10], source="s")
        for i, one in enumerate(cut)
    ]
    encoder = {"kind": "sentence-transformers", "name": "fake", "fingerprint": "fake", **options}
    with StoreWriter(path, encoder=encoder, dimension=D, chunker={"kind": "t"}, dtype="float32") as writer:
        writer.add_shard(made, vectors, path="test")
    return Store.open(path)


def reembedded(store: Store, encoder: Any = None, share: float = 0.01) -> Any:
    return diagnose_data(
        store, DataDiagnosisConfig(reembed=share, quiet=True, resamples=50), encoder=encoder or Fake()
    )


def test_texts_and_vectors_that_belong_together(tmp_path):
    encoder = Fake()
    found = reembedded(embedded(tmp_path / "s"), encoder)
    assert level(found, "texts and vectors") == "ok"
    assert found.reembedding.checked == len(set(encoder.encoded)) == 32  # 1 % of 300 would be 3
    assert found.reembedding.cosine["min"] == pytest.approx(1, abs=1e-6)
    assert reembedded(embedded(tmp_path / "t"), share=0.5).reembedding.checked == 150


def test_texts_moved_against_their_vectors_are_named_and_located(tmp_path):
    """A filter took one text out after row 99: from there on every text stands one vector early."""

    def shifted(vectors: np.ndarray) -> np.ndarray:
        return np.concatenate([vectors[:100], np.roll(vectors[100:], 1, axis=0)])

    found = reembedded(embedded(tmp_path / "s", shifted), share=1.0)
    assert level(found, "texts misaligned") == "red"
    assert found.reembedding.mismatched == 200
    assert all(m.belongs_to == m.row + 1 for m in found.reembedding.listed)
    assert "row 101" in text(found, "texts misaligned")


def test_another_encoder_is_named(tmp_path):
    store = embedded(tmp_path / "s")
    found = reembedded(store, Fake("2"))
    assert level(found, "encoder mismatch") == "red"
    assert "another encoder" in text(found, "encoder mismatch")
    assert level(reembedded(store, Fake(dimension=8)), "encoder mismatch") == "red"


def test_vectors_close_to_their_texts_tell_of_another_pooling(tmp_path):
    def noisy(vectors: np.ndarray) -> np.ndarray:
        return vectors + 2 * np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)

    found = reembedded(embedded(tmp_path / "s", noisy))
    assert "another pooling, prompt or token limit" in text(found, "encoder mismatch")


def test_a_few_altered_texts_are_red_too(tmp_path):
    def some(vectors: np.ndarray) -> np.ndarray:
        vectors[5:15] = np.random.default_rng(0).standard_normal((10, D))
        return vectors

    found = reembedded(embedded(tmp_path / "s", some), share=1.0)
    assert level(found, "texts altered") == "red"
    assert found.reembedding.mismatched == 10


def test_vectors_normalised_behind_the_stores_back(tmp_path):
    store = embedded(tmp_path / "s", unit)
    found = reembedded(store)
    assert level(found, "normalisation mismatch") == "red"
    assert level(reembedded(store, Fake(unit=True)), "texts and vectors") == "ok"


def test_the_fingerprint_of_another_is_a_warning_when_the_vectors_agree(tmp_path):
    found = reembedded(embedded(tmp_path / "s", fingerprint="of another version"))
    assert level(found, "texts and vectors") == "warning"
    imported = reembedded(embedded(tmp_path / "t", fingerprint="unknown", kind="imported"))
    assert level(imported, "texts and vectors") == "ok"


@pytest.mark.parametrize(
    ("share", "kind", "says"),
    [
        (0.0, "sentence-transformers", "re-embedding was left out"),
        (0.01, "openai", "does not run here"),
        (0.01, "imported", "is not on this machine"),
    ],
)
def test_what_was_not_checked_says_so(tmp_path, monkeypatch, share, kind, says):
    monkeypatch.setattr(reembedding, "_cached", lambda _: None)
    found = diagnose_data(
        embedded(tmp_path / "s", kind=kind), DataDiagnosisConfig(reembed=share, quiet=True, resamples=50)
    )
    assert level(found, "texts and vectors") == "note"
    assert text(found, "texts and vectors").startswith("texts and vectors not checked: ")
    assert says in text(found, "texts and vectors")


def test_a_store_without_texts_says_so(tmp_path):
    found = reembedded(embedded(tmp_path / "s", texts=False))
    assert found.reembedding == "the store holds no texts"


def test_the_recorded_encoder_is_taken_as_recorded(tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(reembedding, "load_encoder", lambda config: wanted.append(config) or Fake())
    store = embedded(tmp_path / "s", name="all-MiniLM-L6-v2", max_tokens=64, prompt="query: ")
    assert isinstance(reembedding.recorded_encoder(store), Fake)
    monkeypatch.setattr(reembedding, "_cached", lambda name: f"/cache/{name}")
    reembedding.recorded_encoder(embedded(tmp_path / "t", name="owner/model"))
    assert [(c.name, c.max_tokens, c.prompt) for c in wanted] == [
        ("all-MiniLM-L6-v2", 64, "query: "),
        ("/cache/owner/model", None, None),
    ]
    with pytest.raises(EncoderError, match="--encoder"):
        reembedding.recorded_encoder(embedded(tmp_path / "u", kind="tei"))


# bad input, and small things


def test_bad_input_is_refused(tmp_path):
    store = embedded(tmp_path / "s")
    with pytest.raises(ConfigError, match="not a share"):
        DataDiagnosisConfig(reembed=1.5)
    with pytest.raises(ConfigError, match="at least 1"):
        DataDiagnosisConfig(context=0)
    with pytest.raises(SplitError, match="no document of source 'x'"):
        look(store, sources=("x",))
    (tmp_path / "e").mkdir()
    manifest = {
        **json.loads(by_hand(store.path / "store.json")),
        "documents": 0,
        "chunks": 0,
        "shards": [],
    }
    (tmp_path / "e" / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(EvaluationError, match="holds no documents"):
        look(Store.open(tmp_path / "e"))


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.3142, ".314"), (-0.05, "-.050"), (1.0, "1.000"), (None, "-"), (float("nan"), "-")],
)
def test_short_figures(value, message):
    assert short(value) == message


def test_plain_is_json(ragged):
    found = look(ragged)
    assert json.dumps(found.to_json(), allow_nan=False)
    assert plain({"a": np.float32(1.5), "b": np.array([1, 2]), "c": float("inf")}) == {
        "a": 1.5,
        "b": [1, 2],
        "c": None,
    }
