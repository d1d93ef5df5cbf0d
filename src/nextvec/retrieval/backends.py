"""Where the vectors are searched: in memory, in a file, in a database, in a cluster; the same answers.

A back end is written as its name, `faiss`, where needed with an address behind it,
`pgvector:postgresql://localhost/passages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from nextvec.corpus.store import Store
from nextvec.errors import RetrievalError
from nextvec.retrieval import engine as exact
from nextvec.retrieval import faiss, milvus, pgvector
from nextvec.retrieval.engine import BACKENDS, Backend, HeldRows, IndexSource
from nextvec.retrieval.index import Index

REGISTERED = (exact, faiss, milvus, pgvector)
"""The modules whose back ends are known because they are imported here; engines are imported when used."""
DATABASES = {"milvus": milvus, "pgvector": pgvector, "pgvector-hnsw": pgvector}


def find_backend(spec: str) -> tuple[Backend, str | None]:
    """A back end and its address, from `name` or `name:address`.

    Raises:
        RetrievalError: an unknown name; an address missing, or one too many. The address is not repeated: it
            may hold a password.
    """
    name, colon, address = spec.partition(":")
    if name not in BACKENDS:
        raise RetrievalError(f"no index '{name}'", remedy=f"choose one of: {', '.join(sorted(BACKENDS))}")
    found = BACKENDS[name]
    if found.address == "needed" and not address:
        remedy = f"write {name}:ADDRESS"
        raise RetrievalError("its address is missing", where=f"index '{name}'", remedy=remedy)
    if colon and (found.address == "none" or not address):
        remedy = f"write {name} without the colon"
        raise RetrievalError("takes no such address", where=f"index '{name}'", remedy=remedy)
    return found, address or None


def open_index(spec: str, store: Store, documents: Sequence[int] | None = None) -> Index:
    """The index of the chunks of a store that have a text.

    What the back end does not hold yet is loaded, which can take minutes; what it holds under the store's
    fingerprint is used as it is.

    Args:
        spec: as `find_backend` reads it.
        documents: indices into `store.documents`: only chunks of these; None is of all originals.
    Raises:
        RetrievalError: as `find_backend`; no chunk with a text; the engine cannot be reached or refuses.
        MissingDependencyError: its package is not installed.
    """
    found, address = find_backend(spec)
    return found.open(IndexSource.of(store, documents), address)


def held_rows(spec: str) -> list[HeldRows]:
    """What indexes made in a database or a cluster, `pgvector:ADDRESS` or `milvus:ADDRESS`.

    Raises:
        RetrievalError: as `find_backend`; a back end that keeps nothing there; no answer.
        MissingDependencyError: its package is not installed.
    """
    engine, address = _elsewhere(spec)
    found: list[HeldRows] = engine.held_rows(address)
    return found


def drop_rows(spec: str, name: str) -> None:
    """Drop one of them. Raises as `held_rows`, and for a name that is not there or not of an index."""
    engine, address = _elsewhere(spec)
    engine.drop_rows(address, name)


def _elsewhere(spec: str) -> tuple[ModuleType, str]:
    """The module of a back end that keeps its rows outside of this process, and the address."""
    _, address = find_backend(spec)
    name = spec.partition(":")[0]
    if name not in DATABASES or address is None:
        remedy = "give pgvector:... or milvus:..."
        raise RetrievalError("keeps nothing in a database", where=f"index '{name}'", remedy=remedy)
    return DATABASES[name], address
