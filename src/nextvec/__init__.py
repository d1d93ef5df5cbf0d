"""nextvec: read a document as a sequence of embedding vectors and predict the next one.

    import nextvec
    model = nextvec.build("lstm", preset="small", d_embed=384)   # a fresh module
    model = nextvec.load("runs/lstm")                            # a trained one
    predictor = nextvec.Predictor.load("runs/lstm")              # the same, or an export, ready for use
    store = nextvec.Store.open("stores/wikipedia")

The names are resolved on first use (PEP 562): importing nextvec imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nextvec.version import __version__

if TYPE_CHECKING:
    from nextvec.corpus.store import Store
    from nextvec.inference.predictor import Predictor, load
    from nextvec.models.registry import build
    from nextvec.vectors import RawVectors, UnitVectors

__all__ = ["Predictor", "RawVectors", "Store", "UnitVectors", "__version__", "build", "load"]

_LAZY = {
    "Predictor": "nextvec.inference.predictor",
    "RawVectors": "nextvec.vectors",
    "UnitVectors": "nextvec.vectors",
    "Store": "nextvec.corpus.store",
    "build": "nextvec.models.registry",
    "load": "nextvec.inference.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nextvec' has no attribute '{name}'")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
