"""What a model has seen, small enough to travel with it: the leak guard compares against this."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.fingerprints import hash64, text_keys
from nextvec.corpus.store import Store
from nextvec.data.gather import gather_rows
from nextvec.data.splits import Split
from nextvec.data.windows import IntArray
from nextvec.disk import UNSEALED, atomic_path, check_seal, seal
from nextvec.errors import RunError

if TYPE_CHECKING:
    from nextvec.corpus.store import Document

TRAINED_ON = "trained_on.safetensors"
RESTORE = "restore the file, or train it again"
Keys = NDArray[np.uint64]
PARTS = ("chunks", "documents", "ids")
KEY_DOCUMENTS, KEY_ROWS = 4096, 32768
"""Documents whose row numbers, and chunks whose texts, are held at once."""


@dataclass(frozen=True)
class TrainedOn:
    """What a model has seen, as sorted 64-bit keys: chunks (by text), documents (by text hash), document ids
    (of a view its original's too).

    Small enough to travel with a run (8 bytes a chunk), so that a model can be evaluated on another store.
    """

    chunks: Keys
    documents: Keys
    ids: Keys

    @classmethod
    def of(cls, store: Store, documents: Sequence[int]) -> TrainedOn:
        """The keys of these documents (indices into `store.documents`) of a store."""
        chosen = [store.documents[i] for i in documents]
        chunks, filled = np.empty(sum(d.count for d in chosen), np.uint64), 0
        for start in range(0, len(documents), KEY_DOCUMENTS):
            rows = store.rows_of(documents[start : start + KEY_DOCUMENTS])
            chunks[filled : filled + len(rows)] = chunk_keys(store, rows)
            filled += len(rows)
        return cls(
            _sorted(chunks[:filled]),
            _sorted(key(d.sha256) for d in chosen),
            _sorted(key(i) for d in chosen for i in {d.doc_id, d.original}),
        )

    @classmethod
    def union(cls, several: Sequence[TrainedOn]) -> TrainedOn:
        """What any of several has seen."""
        none = np.zeros(0, dtype=np.uint64)
        kinds = (_distinct([getattr(seen, name) for seen in several]) for name in PARTS)
        return cls(*(k[0] if len(k) == 1 else _sorted(np.concatenate([none, *k])) for k in kinds))

    def save(self, path: Path) -> None:
        """Write a safetensors file of three uint64 arrays."""
        from safetensors.numpy import save_file

        with atomic_path(path) as temporary:
            save_file(vars(self), temporary, metadata=UNSEALED)
            seal(temporary)

    @classmethod
    def load(cls, path: Path) -> TrainedOn:
        """Read what `save` wrote. Raises RunError naming the file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        check_seal(path, RunError, RESTORE)
        try:
            arrays = load_file(path)
            keys = [arrays[name] for name in PARTS]
        except (OSError, SafetensorError, KeyError) as e:
            raise _no_list(path, str(e)) from None
        if any(k.dtype != np.uint64 or k.ndim != 1 for k in keys):
            raise _no_list(path, "not uint64 keys")
        return cls(*(_sorted(k) for k in keys))

    def among(self, documents: Sequence[Document]) -> IntArray:
        """Indices of the documents of a store that were seen, by their ids."""
        keys = np.fromiter((key(d.doc_id) for d in documents), np.uint64, len(documents))
        return np.flatnonzero(known(self.ids, keys)).astype(np.int64)


def _no_list(path: Path, why: str) -> RunError:
    return RunError(f"does not list what was trained on ({why})", where=path, remedy=RESTORE)


def chunk_keys(store: Store, rows: IntArray) -> Keys:
    """[n] key of each text without case, punctuation and spacing; of the vector where there is no text."""
    keys = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), KEY_ROWS):
        block = rows[start : start + KEY_ROWS]
        texts = store.texts(block)
        keys[start : start + KEY_ROWS] = text_keys(texts)
        bare = np.flatnonzero([not text or text.isspace() for text in texts])
        for i, vector in zip(bare.tolist(), gather_rows(store.vectors, block[bare]), strict=True):
            keys[start + i] = key(vector.tobytes())
    return keys


def key(value: str | bytes) -> int:
    """64 bits of the BLAKE2 digest of a string or of bytes."""
    return hash64(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)


def _array(keys: Iterable[int] | Keys) -> Keys:
    return keys if isinstance(keys, np.ndarray) else np.array(list(keys), dtype=np.uint64)


def _sorted(keys: Iterable[int] | Keys) -> Keys:
    """Each once; an array may be sorted where it lies, since there are as many as chunks. Not `np.unique`: of
    integers numpy 2.3 and later make a hash table, 50 bytes an entry."""
    ordered = _array(keys)
    if not (ordered[1:] > ordered[:-1]).all():
        ordered = ordered if ordered.flags.writeable else ordered.copy()
        ordered.sort()
        ordered = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return ordered


def _distinct(several: Sequence[Keys]) -> list[Keys]:
    """Those that are not the same as one before: a run is mostly evaluated where it was trained."""
    found: list[Keys] = []
    for keys in several:
        if not any(np.array_equal(keys, other) for other in found):
            found.append(keys)
    return found


def known(trained: Keys, keys: Iterable[int] | Keys) -> NDArray[np.bool_]:
    """[n] which of `keys` stand among `trained`, which are sorted."""
    wanted = _array(keys)
    if not len(trained):
        return np.zeros(len(wanted), bool)
    found = trained[np.minimum(np.searchsorted(trained, wanted), len(trained) - 1)]
    return np.asarray(found == wanted)


def store_identity(store: Store, split: Split) -> dict[str, Any]:
    """What has to be the same for a resumed run to see the same batches."""
    shards = [shard["vectors_sha256"] for shard in store.info["shards"]]
    return {
        "store.fingerprint": store.fingerprint,
        "store.vectors": digest(shards),
        "split.train": digest([store.documents[i].doc_id for i in split.train]),
        "split.validation": digest([store.documents[i].doc_id for i in split.validation]),
    }


def digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of a string, or of any other value's JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
