"""What has to be the same for a training to go on with the batches that it began with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nextvec.corpus.store import Store
from nextvec.data.splits import Split


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
