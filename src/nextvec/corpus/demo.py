"""The demo corpus: about 100 English Wikipedia articles that the gensim wheel carries as test data.

The text is CC BY-SA 3.0, by the contributors of the English Wikipedia."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from nextvec.corpus.readers.base import ReaderOptions
from nextvec.errors import MissingDependencyError

DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

# Stubs and disambiguation pages are too short for a context of five chunks.
MIN_CHARACTERS = 2000


def demo_source() -> Path:
    """The dump's path. gensim is located, not imported. Raises MissingDependencyError."""
    spec = importlib.util.find_spec("gensim")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / DUMP
        if path.is_file():
            return path
    found = "is not installed" if spec is None else "carries no test data in this version"
    raise MissingDependencyError(
        f"the demo corpus is part of gensim, which {found}", remedy="pip install nextvec[demo]"
    )


def demo_options() -> ReaderOptions:
    """How the demo reads it: articles long enough for windows."""
    return ReaderOptions(min_characters=MIN_CHARACTERS)
