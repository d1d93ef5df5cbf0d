"""What every decoder of one trial faces: the same held-out chunks, one a document, and the same controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nextvec.corpus.reading import TextReader
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import FloatArray, IntArray, Windows, make_windows
from nextvec.decoding.base import Decoder
from nextvec.decoding.load import NEAREST, DecoderOptions, check_decoders, open_decoder
from nextvec.decoding.quality import KnownTexts, require_bleu
from nextvec.errors import EvaluationError, SplitError
from nextvec.evaluation.evaluation_set import without_leaks
from nextvec.evaluation.harness import check_made_for, evaluated_documents
from nextvec.evaluation.predictor_protocol import ask
from nextvec.experiments.evaluating import DocumentSelection, EvaluatedRun, TrainedOnDocuments, division_of
from nextvec.progress import Progress
from nextvec.vectors import RawVectors, unit

FEWEST = 2


@dataclass(frozen=True)
class DecoderSelection:
    """Which chunks decoders are evaluated on.

    Attributes:
        splits: documents are taken from the first of these, and from the next where it has too few.
        documents: how many, at most; one chunk of each.
        sources: only documents of these; all when empty.
        division: how documents are divided; None takes the division of the run and of trained decoders.
        context: chunks that stand before each evaluated one, at least.
        seed: of the draw of documents and chunks, and of the shuffled control.
    """

    splits: tuple[str, ...] = ("test",)
    documents: int = 100
    sources: tuple[str, ...] = ()
    division: SplitConfig | None = None
    context: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.documents < FEWEST:
            message = f"{self.documents} documents leave nothing to shuffle"
            raise EvaluationError(message, remedy=f"evaluate at least {FEWEST} documents")
        if not self.splits or len(set(self.splits)) < len(self.splits):
            message = f"'{','.join(self.splits)}' are not splits to evaluate"
            raise SplitError(message, remedy="name each of them once")


@dataclass(frozen=True)
class HeldOutChunks:
    """N held-out chunks, one a document, with what is needed to evaluate a text for each of their vectors.

    Attributes:
        windows: [N] the chunks as targets, of N documents.
        splits: how many of them are of each split.
        dropped: windows that were not drawn from because they stand in training.
        known: the training texts that a decoder may have copied from.
        seed: of the shuffled control.
    """

    store: Store
    reader: TextReader
    windows: Windows
    splits: Mapping[str, int]
    dropped: int
    known: KnownTexts
    seed: int = 0
    quiet: bool = False

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def truths(self) -> list[str]:
        """[N] the texts of the chunks."""
        return self.store.texts(self.windows.target)

    @cached_property
    def targets(self) -> RawVectors:
        """[N, D] their vectors, as stored."""
        return self.raw(gather_rows(self.store.vectors, self.windows.target))

    @cached_property
    def target_units(self) -> FloatArray:
        """[N, D] at unit length."""
        return unit(self.targets.values)

    @cached_property
    def others(self) -> IntArray:
        """[N] for each chunk another one, each of them once: whose text stands here in the control."""
        order = np.random.default_rng(self.seed).permutation(len(self))
        others = np.empty(len(self), dtype=np.int64)
        others[order] = np.roll(order, 1)
        return others

    def raw(self, values: FloatArray) -> RawVectors:
        """Values [N, D] as vectors of the store's kind."""
        return RawVectors(values, self.reader.fingerprint, self.reader.space.normalised)

    def encode(self, texts: Sequence[str], what: str) -> RawVectors:
        """Vectors [n, D] of texts, with a progress bar that says what for."""
        with Progress(what, len(texts), "texts", quiet=self.quiet) as progress:
            return self.reader.encode(texts, progress.advance)

    def predict(self, run: EvaluatedRun) -> tuple[RawVectors, FloatArray]:
        """Raw and unit prediction [N, D] of each chunk from the texts before it, encoded anew.

        Raises:
            EvaluationError: predictions that cannot be evaluated.
        """
        windows = self.windows
        lengths = np.minimum(windows.read, run.context)
        rows = [np.arange(b - n + 1, b + 1) for b, n in zip(windows.last, lengths, strict=True)]
        read = self.encode(self.store.texts(np.concatenate(rows)), "encoding contexts").values
        contexts = np.zeros((len(self), int(lengths.max()), read.shape[1]), dtype=np.float32)
        contexts[np.arange(contexts.shape[1]) < lengths[:, None]] = read
        raw, units = ask(run, contexts, lengths)
        return self.raw(raw), units


def lay_out(
    store: Store,
    reader: TextReader,
    selection: DecoderSelection,
    split: Split,
    seen: Sequence[TrainedOn] = (),
    *,
    horizon: int = 1,
    quiet: bool = False,
) -> HeldOutChunks:
    """Draw the chunks.

    Args:
        split: how the store's documents are divided; its train documents are what may have been copied from.
        seen: what was trained on, beside these.
        horizon: how many chunks ahead of its context a chunk stands.
    Raises:
        SplitError, WindowError: no documents, or only short ones. EvaluationError: fewer than two are left.
        LeakError: see `without_leaks`.
        MissingDependencyError: sacrebleu is not installed.
    """
    require_bleu()
    trained = TrainedOn.union([TrainedOn.of(store, split.train), *seen])
    rng = np.random.default_rng(selection.seed)
    drawn: list[Windows] = []
    splits: dict[str, int] = {}
    dropped = 0
    for name in selection.splits:
        wanted = selection.documents - sum(splits.values())
        windows, out = _windows(store, selection, split, name, horizon, trained)
        first, count = np.unique(windows.document, return_index=True, return_counts=True)[1:]
        chosen = rng.permutation(len(first))[:wanted]
        at = first[chosen] + rng.integers(0, count[chosen])
        drawn.append(windows.select(np.sort(at).astype(np.int64)))
        splits[name], dropped = len(chosen), dropped + out
        if len(chosen) == wanted:
            break
    texts, windows = KnownTexts(store.texts(store.rows_of(split.train))), Windows.joined(drawn)
    bench = HeldOutChunks(store, reader, windows, splits, dropped, texts, selection.seed, quiet)
    if len(bench) < FEWEST:
        message = f"{len(bench)} document is left, which leaves nothing to shuffle"
        raise EvaluationError(message, where=store.path, remedy="evaluate more splits or sources")
    return bench


def _windows(
    store: Store, selection: DecoderSelection, split: Split, name: str, horizon: int, trained: TrainedOn
) -> tuple[Windows, int]:
    """The windows of a split's documents that do not stand in training, and how many others there are."""
    documents = evaluated_documents(store, split, name, selection.sources)
    windows = make_windows(store, documents, selection.context, horizon)
    kept, leaks = without_leaks(store, windows, trained, split=name)
    return kept, leaks.dropped


@contextmanager
def opened(
    specs: Sequence[str],
    store: Store,
    reader: TextReader,
    selection: DecoderSelection,
    run: EvaluatedRun | None = None,
    options: DecoderOptions | None = None,
    *,
    quiet: bool = False,
) -> Iterator[tuple[HeldOutChunks, list[Decoder]]]:
    """Decoders by their names (`nextvec.decoding.load`), and the bench to evaluate them on.

    "nearest" looks among the training documents only. Leaving the context closes the decoders.

    Raises:
        DecoderError: a decoder that cannot be opened, or named twice.
        EncoderMismatchError, VectorError: one, or the run, that was made for another encoder.
        EvaluationError: a run that fills gaps; and what `division_of` and `lay_out` raise.
    """
    if run is not None:
        _check_run(run, store)
    check_decoders(specs)
    with ExitStack() as stack:
        found = {
            spec: stack.enter_context(open_decoder(spec, store=store, reader=reader, options=options))
            for spec in specs
            if spec != NEAREST
        }
        split = _split(store, selection, [*found.values()], run)
        if NEAREST in specs:
            found[NEAREST] = stack.enter_context(
                open_decoder(NEAREST, store=store, documents=split.train, options=options)
            )
        decoders = [found[spec] for spec in specs]
        names = Counter(decoder.name for decoder in decoders)
        for spec, decoder in zip(specs, decoders, strict=True):
            check_made_for(decoder, store)
            if names[decoder.name] > 1:
                decoder.name = spec
        seen = [d.trained_on for d in decoders if d.trained_on is not None]
        seen += [] if run is None else [run.trained_on]
        horizon = 1 if run is None else run.horizons[0]
        yield lay_out(store, reader, selection, split, seen, horizon=horizon, quiet=quiet), decoders


def _split(
    store: Store, selection: DecoderSelection, decoders: Sequence[Decoder], run: EvaluatedRun | None
) -> Split:
    """Documents as the run and the decoders were trained: their division, and every source they took."""
    trained: list[TrainedOnDocuments] = [d for d in decoders if isinstance(d, TrainedOnDocuments)]
    trained += [] if run is None else [run]
    division = division_of(trained, DocumentSelection(division=selection.division))
    taken = [tuple(t.training["sources"]) for t in trained]
    if not all(taken):  # one took all there were
        return split_documents(store, division)
    return split_documents(store, division, sorted({*selection.sources, *(s for of in taken for s in of)}))


def _check_run(run: EvaluatedRun, store: Store) -> None:
    check_made_for(run, store)
    if run.task != "next":
        message = "decoders are evaluated on what comes next; this run fills gaps"
        remedy = "evaluate it with nextvec evaluate --task middle"
        raise EvaluationError(message, where=run.folder, remedy=remedy)
