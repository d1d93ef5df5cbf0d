"""What the tests of ingesting share: articles on disk, and what a folder holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nextvec.corpus.ingest import IngestReport

Run = Callable[..., IngestReport]


def write(path: Path, articles: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(a) + "\n" for a in articles))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
