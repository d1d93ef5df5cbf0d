"""The brief's NPZ, both ways: windows copied out one by one, `context_sequences` [N, c, D],
`target_vectors` [N, D], `doc_ids` [N] and `concept_texts`, against a store of whole documents."""

from __future__ import annotations

import hashlib
import zipfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.arrays import new_member, open_arrays
from nextvec.corpus.arrow_tables import NewDocument
from nextvec.corpus.imports import IMPORT_SHARD_CHUNKS, check_vectors, describe_encoder, imported_writer
from nextvec.corpus.ingest import shards
from nextvec.corpus.store import Store
from nextvec.corpus.survey import KNOWN, is_known
from nextvec.corpus.writer import check_encoder, check_place
from nextvec.disk import atomic_path
from nextvec.errors import DocumentError, StoreError, VectorError, WindowError
from nextvec.progress import Progress


@dataclass(frozen=True)
class Chain:
    """Windows of one document in order, each the one before moved on by one chunk.

    Attributes:
        doc_id: "" where windows carry none.
        piece: 1 for a document's first chain, 2 for the next that could not be joined to it, ...
        windows: indices.
    """

    doc_id: str
    piece: int
    windows: list[int]


def chain_windows(contexts: NDArray[Any], targets: NDArray[Any], doc_ids: NDArray[Any] | None) -> list[Chain]:
    """Group windows into chains, in the order of their first windows.

    A window follows another of its document when its context is, bit for bit, the other's moved on by
    the other's target, wherever the two stand in the file; of several the next in the file is taken.

    Args:
        contexts: [N, c, D].
        targets: [N, D].
        doc_ids: [N], or None.
    """
    n = len(contexts)
    names = [""] * n if doc_ids is None else [str(i) for i in doc_ids.tolist()]
    follower = _followers(contexts, targets, names)
    followed = set(follower)
    used = [False] * n
    found: list[list[int]] = []
    # Windows that follow none come first; what is left runs in circles (a document that repeats itself).
    for first in sorted(range(n), key=lambda i: (i in followed, i)):
        windows: list[int] = []
        at = first
        while at >= 0 and not used[at]:
            used[at] = True
            windows.append(at)
            at = follower[at]
        if windows:
            found.append(windows)
    pieces: Counter[str] = Counter()
    chains = []
    for windows in sorted(found):
        name = names[windows[0]]
        pieces[name] += 1
        chains.append(Chain(name, pieces[name], windows))
    return chains


def _followers(contexts: NDArray[Any], targets: NDArray[Any], names: list[str]) -> list[int]:
    """For each window the one that follows it, or -1; no window follows two."""
    n = len(contexts)
    starting: dict[tuple[str, bytes], list[int]] = {}
    for i in range(n - 1, -1, -1):
        starting.setdefault((names[i], _key(contexts[i])), []).append(i)
    follower = [-1] * n
    for i in range(n):
        after = np.concatenate([contexts[i, 1:], targets[i : i + 1]])
        candidates = starting.get((names[i], _key(after)), [])  # descending
        later = bisect_left(candidates, -i, key=lambda other: -other)
        if later:
            follower[i] = candidates.pop(later - 1)
        elif candidates and candidates[-1] != i:
            follower[i] = candidates.pop()
    return follower


def _key(block: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(block).tobytes(), digest_size=16).digest()


MAX_NPZ_BYTES = 64 * 2**30
MAX_TEXT_BYTES = 8 * 2**30
_NAMES = ("context_sequences", "target_vectors", "doc_ids", "concept_texts")
_BLOCK = 1024


@dataclass(frozen=True)
class NpzImportReport:
    """What reading an NPZ did.

    Attributes:
        documents, chunks: added by this run; a document that falls into k runs of windows counts k times.
        broken: documents that were put together from more than one run of windows.
        skipped: reason -> documents left out.
        normalised: the vectors are of unit length.
    """

    store: str
    windows: int
    documents: int
    chunks: int
    broken: int
    skipped: dict[str, int]
    normalised: bool


@dataclass(frozen=True)
class NpzExportReport:
    """What writing an NPZ did: windows written, documents they are of, documents too short for one."""

    file: str
    windows: int
    documents: int
    too_short: int


def import_npz(
    file: str | Path,
    out: str | Path,
    *,
    encoder_name: str | None = None,
    encoder_sha256: str | None = None,
    encoder_normalises: bool | None = None,
    dtype: str | None = None,
    source: str | None = None,
    max_bytes: int = MAX_NPZ_BYTES,
    quiet: bool = False,
) -> NpzImportReport:
    """Put the documents behind an NPZ's windows back together and into a store.

    What cannot be joined (`chain_windows`) starts a document of its own, "id#2". Without `doc_ids` every
    chain is a document.

    Args:
        file: the .npz; `concept_texts` may hold target texts [N] or those of all chunks [N, c + 1].
        encoder_name, encoder_sha256, encoder_normalises, dtype: as in `import_vectors`.
        source: source name of the documents; by default the file's name.
        max_bytes: largest unpacked array accepted.
    Raises:
        VectorError: not an NPZ, a missing array, pickled objects, sizes that do not agree or are over
            `max_bytes`, NaN, infinity or zero rows. Otherwise as `import_vectors`.
    """
    path = Path(file)
    with open_arrays(path, _NAMES, max_bytes) as arrays:
        _check_shapes(arrays, path)
        description = describe_encoder(encoder_name, encoder_sha256, arrays["target_vectors"].shape[1])
        check_place(Path(out))
        check_encoder(Path(out), description, arrays["target_vectors"].shape[1])
        windows = _Windows.of(arrays, source or path.stem)
        normalised = windows.check(str(path), quiet=quiet)
        with imported_writer(
            out, description, windows.targets, dtype, normalised, encoder_normalises
        ) as writer:
            new = [chain for chain in windows.chains if not windows.is_known(chain, writer.known, path)]
            total = sum(map(windows.length, new))
            with Progress("import", total, "chunks", quiet=quiet) as progress:
                for batch in shards(new, IMPORT_SHARD_CHUNKS, windows.length):
                    vectors = np.concatenate([windows.sequence(chain) for chain in batch])
                    writer.add_shard([windows.document(chain) for chain in batch], vectors, path="imported")
                    progress.advance(len(vectors))
        skipped = len(windows.chains) - len(new)
        return NpzImportReport(
            store=str(out),
            windows=len(windows.targets),
            documents=len(new),
            chunks=total,
            broken=sum(chain.piece == 2 for chain in windows.chains),
            skipped={KNOWN: skipped} if skipped else {},
            normalised=normalised,
        )


@dataclass(frozen=True)
class _Windows:
    """The file's windows, contexts [N, c, D] and targets [N, D], and the chains they form."""

    contexts: NDArray[Any]
    targets: NDArray[Any]
    texts: NDArray[Any] | None
    chains: list[Chain]
    source: str

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], source: str) -> _Windows:
        contexts, targets, ids = arrays["context_sequences"], arrays["target_vectors"], arrays.get("doc_ids")
        chains = chain_windows(contexts, targets, ids)
        if ids is None:
            chains = [Chain(f"{number:06d}", 1, chain.windows) for number, chain in enumerate(chains)]
        return cls(contexts, targets, arrays.get("concept_texts"), chains, source)

    def check(self, where: str, *, quiet: bool) -> bool:
        """Whether every vector is of unit length. Raises VectorError."""
        rows = self.contexts.reshape(-1, self.targets.shape[1])
        units = [
            check_vectors(array, f"{where}: {name}", quiet=quiet)
            for name, array in (("context_sequences", rows), ("target_vectors", self.targets))
        ]
        return all(units)

    def length(self, chain: Chain) -> int:
        """Chunks of the chain: the first context's and every target."""
        return int(self.contexts.shape[1]) + len(chain.windows)

    def sequence(self, chain: Chain) -> NDArray[Any]:
        """The chain's vectors [c + windows, D]."""
        return np.concatenate([self.contexts[chain.windows[0]], self.targets[chain.windows]])

    def document(self, chain: Chain) -> NewDocument:
        """The chain as a document; texts that the file lacks are empty."""
        doc_id = chain.doc_id if chain.piece == 1 else f"{chain.doc_id}#{chain.piece}"
        if self.texts is None:
            return NewDocument.without_text(doc_id, self.sequence(chain), source=self.source)
        if self.texts.ndim == 1:
            before, after = [""] * self.contexts.shape[1], self.texts[chain.windows].tolist()
        else:
            before = self.texts[chain.windows[0], :-1].tolist()
            after = self.texts[chain.windows, -1].tolist()
        return NewDocument.from_chunks(doc_id, [*before, *after], source=self.source)

    def is_known(self, chain: Chain, known: dict[str, str], where: Path) -> bool:
        """Whether the store has it already. Raises StoreError when it has another under that id."""
        document = self.document(chain)
        return is_known(document.doc_id, document.sha256, known, where)


def _check_shapes(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    def refuse(message: str, remedy: str) -> None:
        raise VectorError(message, where=path, remedy=remedy)

    for name in _NAMES[:2]:
        if name not in arrays:
            refuse(f"lacks the array {name}", "save it as the brief does")
    contexts, targets = arrays["context_sequences"], arrays["target_vectors"]
    shape = contexts.shape
    if contexts.ndim != 3 or contexts.dtype.kind != "f" or targets.dtype != contexts.dtype:
        found = f"context_sequences is {contexts.dtype} {list(shape)}, target_vectors {targets.dtype}"
        refuse(found, "give floats of one kind, [N, c, D] and [N, D]")
    if targets.shape != (shape[0], shape[2]):
        refuse(f"target_vectors is {list(targets.shape)}, not {[shape[0], shape[2]]}", "save it again")
    ids, texts = arrays.get("doc_ids"), arrays.get("concept_texts")
    if ids is not None and (ids.shape != (shape[0],) or ids.dtype.kind not in "Uiu"):
        refuse(f"doc_ids is {ids.dtype} {list(ids.shape)}", "give one text or whole number a window")
    wanted = ((shape[0],), (shape[0], shape[1] + 1))
    if texts is not None and (texts.shape not in wanted or texts.dtype.kind != "U"):
        remedy = "give one text a window, or one for each of its c + 1 chunks"
        refuse(f"concept_texts is {texts.dtype} {list(texts.shape)}", remedy)


def export_npz(
    store: Store,
    out: str | Path,
    *,
    context: int = 5,
    documents: Sequence[int] | None = None,
    texts: str = "target",
    compress: bool = True,
    quiet: bool = False,
) -> NpzExportReport:
    """Write the store's windows as the brief's NPZ. Same store and options: same bytes.

    Args:
        context: c, chunks before the target.
        documents: indices into `store.documents`, such as a split's; by default every original.
        texts: "target" ([N] texts of the targets, as the brief), "all" ([N, c + 1], so that every text
            comes back) or "none".
    Raises:
        WindowError: no document is longer than the context. StoreError: an unknown choice of texts, or
            texts that would take more than 8 GiB in numpy's fixed-width form.
    """
    if context < 1 or texts not in ("none", "target", "all"):
        message = "context below 1, or texts not none, target or all"
        raise StoreError(message, where="export", remedy="correct the option")
    if Path(out).is_dir():
        raise StoreError("is a folder", where=out, remedy="name the .npz to write")
    held = store.documents
    chosen = [d for d in held if d.view_of is None] if documents is None else [held[i] for i in documents]
    long_enough = [d for d in chosen if d.count > context]
    if not long_enough:
        message = f"no document has more than {context} chunks"
        raise WindowError(message, where=store.path, remedy="choose a shorter context")
    targets = np.concatenate([np.arange(d.first + context, d.first + d.count) for d in long_enough])
    ids = np.repeat([d.doc_id for d in long_enough], [d.count - context for d in long_enough])
    words = _texts(store, targets, context, texts)
    with (
        atomic_path(Path(out)) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive,
        Progress("export", 2 * len(targets), "windows", quiet=quiet) as progress,
    ):
        contexts = targets[:, None] + np.arange(-context, 0)
        for name, rows in (("context_sequences", contexts), ("target_vectors", targets)):
            _write_vectors(archive, name, store, rows, progress)
        for name, array in (("doc_ids", ids), ("concept_texts", words)):
            if array is not None:
                with new_member(archive, name, array.shape, array.dtype) as f:
                    f.write(np.ascontiguousarray(array).tobytes())
    return NpzExportReport(str(out), len(targets), len(long_enough), len(chosen) - len(long_enough))


def _write_vectors(
    archive: zipfile.ZipFile, name: str, store: Store, rows: NDArray[Any], progress: Progress
) -> None:
    """The vectors of rows [...] as float32 [..., D], which every reader of the brief's files expects."""
    with new_member(archive, name, (*rows.shape, store.dimension), np.dtype("<f4")) as f:
        for start in range(0, len(rows), _BLOCK):
            block = store.vectors.gather(rows[start : start + _BLOCK])
            f.write(block.astype("<f4", copy=False).tobytes())
            progress.advance(len(block))


def _texts(store: Store, targets: NDArray[Any], context: int, choice: str) -> NDArray[np.str_] | None:
    if choice == "none":
        return None
    rows = targets if choice == "target" else targets[:, None] + np.arange(-context, 1)
    unique, inverse = np.unique(rows, return_inverse=True)
    values = store.texts(unique)
    size = rows.size * 4 * max(len(v) for v in values)
    if size > MAX_TEXT_BYTES:
        remedy = "export without texts, or fewer documents"
        raise StoreError(f"texts would take {size} bytes", where=store.path, remedy=remedy)
    if any(v.endswith("\x00") for v in values):
        remedy = "export without texts"
        raise DocumentError("a text ends with a NUL character", where=store.path, remedy=remedy)
    return np.array(values, np.str_)[inverse].reshape(rows.shape)
