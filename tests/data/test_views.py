"""Views stand beside their originals in training, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.corpus.chunking import WordChunker, originals, view_id
from nextvec.corpus.fingerprints import minhash_text, text_sha256
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Sampling
from nextvec.data.splits import SPLITS, Split, SplitConfig, split_documents
from nextvec.data.trained import TrainedOn, chunk_keys, key, known
from nextvec.data.windows import SequenceShape, Windows, by_original, make_windows
from nextvec.diagnostics.data import DataDiagnosisConfig, diagnose_data
from nextvec.errors import SplitError, WindowError
from nextvec.evaluation.evaluation_set import without_leaks
from nextvec.evaluation.harness import EvaluationConfig, FittingData, evaluate, make_evaluation_set

CHUNKER = WordChunker(20, 5, 40)
PHASES = (Fraction(1, 3), Fraction(2, 3))
ORIGINALS = 60
CONFIG = SplitConfig(validation=0.25, test=0.25)
HOW = EvaluationConfig(context=2, speed=False, quiet=True, resamples=100)


def text_of(i: int) -> str:
    """Eight to twelve chunks; every fifth text repeats the one before it but for a sentence."""
    i, other = (i - 1, "Another one.") if i % 5 == 4 else (i, "")
    rng = np.random.default_rng(i)
    sentences = (f"Number {' '.join(map(str, rng.integers(0, 10**6, 4)))}." for _ in range(32 + i % 16))
    return f"{' '.join(sentences)} {other}".strip()


def documents_of(i: int) -> list[NewDocument]:
    """A document and its views."""
    text, made = text_of(i), []
    for phase in (None, *PHASES):
        chunks = CHUNKER.chunk(text, phase or Fraction(0))
        columns = zip(*[(c.text, c.gap, c.start, c.end) for c in chunks], strict=True)
        name, original = (f"d{i}", None) if phase is None else (view_id(f"d{i}", phase), f"d{i}")
        hashes = text_sha256(text), minhash_text(text)
        made.append(NewDocument(name, "ab"[i % 2], "", *hashes, *columns, view_of=original))
    return made


def make(path: Path, documents: Iterable[NewDocument]) -> Store:
    held = list(documents)
    encoder = {"name": "test", "fingerprint": "f"}
    with StoreWriter(path, encoder=encoder, dimension=8, chunker=CHUNKER.describe(), dtype="float32") as w:
        for part in (held[: len(held) // 2], held[len(held) // 2 :]):
            texts = [text for d in part for text in d.texts]
            seeds = [int(text_sha256(text)[:8], 16) for text in texts]
            w.add_shard(
                part, np.stack([np.random.default_rng(s).standard_normal(8) for s in seeds]), path="p"
            )
    return Store.open(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The originals alone."""
    return make(tmp_path_factory.mktemp("plain") / "store", (documents_of(i)[0] for i in range(ORIGINALS)))


@pytest.fixture(scope="module", params=["beside", "later"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same with two views of each, beside their originals or at the store's end."""
    groups = [documents_of(i) for i in range(ORIGINALS)]
    if request.param == "beside":
        documents = [d for group in groups for d in group]
    else:
        documents = [g[0] for g in groups] + [d for g in groups for d in g[1:]]
    return make(tmp_path_factory.mktemp(request.param) / "store", documents)


def ids(store: Store, which: Iterable[int]) -> set[str]:
    return {store.documents[i].doc_id for i in which}


def check(store: Store, split: Split, expected: Split, plain: Store) -> None:
    """The originals stand where they would without views; the views in train alone, with their originals."""
    for name in ("validation", "test", "quarantined"):
        assert ids(store, getattr(split, name)) == ids(plain, getattr(expected, name))
    assert ids(store, split.evaluated("train")) == ids(plain, expected.train)
    views = {d.doc_id for d in store.documents if d.original in ids(plain, expected.train)}
    assert ids(store, split.train) == ids(store, split.of("train")) == views
    assert split.views == {i for i in split.train if store.documents[i].view_of is not None}
    assert ids(store, split.of("all")) == ids(plain, expected.of("all"))
    assert split.evaluated("all") == split.of("all")
    for name in ("validation", "test"):
        assert split.evaluated(name) == split.of(name)


@pytest.mark.parametrize("near", [0.8, 1.0])
@pytest.mark.parametrize("sources", [(), ("a",)])
def test_a_view_goes_where_its_original_goes(
    store: Store, plain: Store, near: float, sources: tuple[str, ...]
) -> None:
    config = replace(CONFIG, near_duplicate=near)
    expected = split_documents(plain, config, sources)
    assert all(expected.of(name) for name in SPLITS)
    check(store, split_documents(store, config, sources), expected, plain)


@settings(max_examples=20, deadline=None)
@given(salt=st.text(max_size=5))
def test_whatever_the_hash_says(store: Store, plain: Store, salt: str) -> None:
    config = replace(CONFIG, salt=salt)
    check(store, split_documents(store, config), split_documents(plain, config), plain)


def fake(names: list[str], views: dict[str, str], signatures: np.ndarray) -> Any:
    """A store as far as splits look at it."""
    from types import SimpleNamespace

    from nextvec.corpus.store import Document

    documents = [Document(n, "", "", 0, 1, "", views.get(n)) for n in names]
    return SimpleNamespace(documents=documents, minhashes=lambda: signatures, path=Path("s"), sources=("",))


def test_original_and_views_are_quarantined_as_one() -> None:
    rng = np.random.default_rng(0)
    for start in range(200):
        names = [f"{start}-{k}" for k in range(3)]
        signatures = rng.integers(0, 2**32, size=(3, 64), dtype=np.uint32)
        signatures[2] = np.where(np.arange(64) < 32, signatures[0], signatures[1])  # half like either
        config = SplitConfig(validation=0.3, test=0.3, near_duplicate=0.5)
        found = split_documents(fake(names, {}, signatures), config)
        if found.quarantined:
            break
    assert found.quarantined == (2,)
    views = {f"{names[2]}~1/2": names[2]}
    viewed = split_documents(fake([*names, *views], views, signatures[[0, 1, 2, 2]]), config)
    assert viewed == found
    # A view has no say: what resembles its original joins that one's split as if the view were not there.
    odd = rng.integers(0, 2**32, size=(1, 64), dtype=np.uint32)
    views = {f"{names[0]}~1/2": names[0]}
    viewed = split_documents(
        fake([names[0], *views, *names[1:]], views, np.concatenate([signatures[:1], odd, signatures[1:]])),
        config,
    )
    assert viewed.quarantined == (3,)


def test_a_split_file_names_originals(store: Store, plain: Store, tmp_path: Path) -> None:
    names = [f"d{i}" for i in range(ORIGINALS)]
    parts = {"train": names[20:], "validation": names[:10], "test": names[10:20]}
    file = tmp_path / "split.json"
    config = SplitConfig(file=str(file))
    file.write_text(json.dumps(parts))
    expected = split_documents(plain, config)
    check(store, split_documents(store, config), expected, plain)
    parts["train"] += ["d30~1/3", "d31~2/3"]
    file.write_text(json.dumps(parts))
    check(store, split_documents(store, config), expected, plain)
    parts["test"].append("d5~1/3")
    file.write_text(json.dumps(parts))
    with pytest.raises(SplitError, match="'d5~1/3' is a view of 'd5' and in another split; name originals"):
        split_documents(store, config)
    file.write_text(json.dumps({"train": [f"d{i}" for i in range(1, ORIGINALS)] + ["d0~1/3"]}))
    with pytest.raises(SplitError, match="document 'd0' of source 'a' is in no split"):
        split_documents(store, config)


# Leaks


def test_what_was_trained_on_names_originals_and_views(store: Store) -> None:
    split = split_documents(store, CONFIG)
    trained = TrainedOn.of(store, split.train)
    listed = [key(d.doc_id) for d in store.documents if d.original in ids(store, split.train)]
    assert sorted(listed) == trained.ids.tolist()
    # Even of one who was given a view alone.
    view = next(iter(split.views))
    alone = TrainedOn.of(store, [view])
    assert known(alone.ids, [key(store.documents[view].original)]).all()
    rows = np.arange(store.documents[view].first, store.documents[view].first + store.documents[view].count)
    assert known(alone.chunks, chunk_keys(store, rows)).all()


def test_no_exam_has_a_window_of_which_a_view_is_in_training(store: Store, plain: Store) -> None:
    split = split_documents(store, CONFIG)
    trained = TrainedOn.of(store, split.train)
    seen = {store.documents[i].original for i in split.train}
    for name in ("validation", "test"):
        windows = HOW.windows(store, split.evaluated(name))
        assert not seen & {store.documents[i].doc_id for i in windows.document}
        assert len(windows) == len(HOW.windows(plain, split_documents(plain, CONFIG).of(name)))
        _, leaks = without_leaks(store, windows, trained, split=name)
        assert leaks.dropped == 0
    # And if one had been trained on views by another division, the guard drops every window of the originals.
    original = split.test[0]
    views = [i for i, d in enumerate(store.documents) if d.view_of == store.documents[original].doc_id]
    windows = make_windows(store, [original], 2)
    kept, leaks = without_leaks(store, windows, TrainedOn.of(store, views), split="test", limit=1.0)
    assert (len(kept), leaks.same_document_id) == (0, len(windows))
    windows = make_windows(store, views, 2)
    kept, leaks = without_leaks(store, windows, TrainedOn.of(store, [original]), split="test", limit=1.0)
    assert (len(kept), leaks.same_document_id) == (0, len(windows))


# Judging


@pytest.mark.parametrize("candidates", ["split", "store", "document"])
@pytest.mark.parametrize("name", ["train", "validation", "test", "all"])
def test_candidates_and_windows_are_of_originals(
    store: Store, plain: Store, candidates: str, name: str
) -> None:
    how = replace(HOW, candidates=candidates)
    evaluation_sets = []
    for held in (plain, store):
        documents = split_documents(held, CONFIG).evaluated(name)
        evaluation_sets.append(make_evaluation_set(held, how.windows(held, documents), documents, how, None))
    assert len(evaluation_sets[0]) == len(evaluation_sets[1])
    np.testing.assert_array_equal(evaluation_sets[0].pool.eligible, evaluation_sets[1].pool.eligible)
    texts = [h.texts(e.windows.target) for h, e in zip((plain, store), evaluation_sets, strict=True)]
    assert sorted(texts[0]) == sorted(texts[1])


def test_the_judge_counts_originals_and_baselines_are_fitted_on_views_too(store: Store, plain: Store) -> None:
    split = split_documents(store, CONFIG)
    training = FittingData.of(store, split, HOW)
    assert training is not None
    assert training.validation is not None
    assert len(training.train) == len(make_windows(store, split.train, 2))
    held = ids(store, training.train.document)
    assert held == ids(store, split.evaluated("train"))  # numbered as their originals, so held out with them
    assert ids(store, training.validation.document) == ids(store, split.validation)
    how = replace(HOW, baselines=("copy-last",))
    for name in ("test", "train"):
        ours = evaluate(store, split, name, config=how)
        without = evaluate(plain, split_documents(plain, CONFIG), name, config=how)
        assert (ours.windows, ours.documents, ours.pool) == (without.windows, without.documents, without.pool)
        assert ours.rows[0].figures["mrr"] == pytest.approx(without.rows[0].figures["mrr"])


def test_the_diagnosis_of_data_does_not_see_views(store: Store, plain: Store) -> None:
    looking = DataDiagnosisConfig(division=CONFIG, context=2, reembed=0, resamples=50, quiet=True)
    ours, without = diagnose_data(store, looking), diagnose_data(plain, looking)
    assert without.duplicates.near > 0
    for field in ("documents", "exact", "near", "chunks", "repeated", "in_document", "across", "quarantined"):
        assert getattr(ours.duplicates, field) == getattr(without.duplicates, field)
    assert ours.lengths == without.lengths


# Sampling


def test_the_views_of_a_document_count_as_it_in_a_batch(store: Store) -> None:
    split = split_documents(store, CONFIG)
    documents = Windows.of_documents(store.documents, split.train)
    np.testing.assert_array_equal(documents.document, originals(store.documents)[list(split.train)])
    shape = SequenceShape(context=4, min_context=1)
    source = BatchSource(store.vectors, documents, shape, 16, seed=0, sampling=Sampling(max_per_document=2))
    targets = 0
    for batch in source.epoch(0):
        assert np.unique(batch.documents, return_counts=True)[1].max() <= 2
        targets += batch.positions
    assert targets == sum(store.documents[i].count - 1 for i in split.train)


def test_a_broken_continuation_is_never_of_the_documents_own_view(store: Store) -> None:
    split = split_documents(store, CONFIG)
    some = [i for i in split.train if store.documents[i].original in ("d0", "d1", "d2", "d3", "d7", "d8")]
    originals_of = {store.documents[i].original for i in some}
    assert len(originals_of) > 1
    whose: dict[bytes, set[str]] = {}
    for document in store.documents:
        for row in range(document.first, document.first + document.count):
            whose.setdefault(store.vectors[row].tobytes(), set()).add(document.original)
    documents = Windows.of_documents(store.documents, some)
    shape = SequenceShape(context=4, min_context=1)
    source = BatchSource(store.vectors, documents, shape, 8, seed=0, sampling=Sampling(broken=0.9))
    foreign = 0
    for epoch in range(5):
        for batch in source.epoch(epoch):
            assert batch.broken is not None
            for b, t in zip(*np.nonzero(batch.broken.numpy()), strict=True):
                own = store.documents[int(batch.documents[b])].doc_id
                assert own not in whose[batch.targets[b, t].numpy().tobytes()]
                foreign += 1
    assert foreign > 50
    alone = [i for i in some if store.documents[i].original == next(iter(originals_of))]
    with pytest.raises(WindowError, match="no other document"):
        BatchSource(
            store.vectors,
            Windows.of_documents(store.documents, alone),
            shape,
            8,
            seed=0,
            sampling=Sampling(broken=0.5),
        )


def test_windows_by_original(store: Store) -> None:
    split = split_documents(store, CONFIG)
    windows = make_windows(store, split.train, 2)
    grouped = by_original(windows, store.documents)
    np.testing.assert_array_equal(grouped.document, originals(store.documents)[windows.document])
    np.testing.assert_array_equal(grouped.target, windows.target)
