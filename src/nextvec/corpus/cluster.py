"""Encoding by the workers of a Ray cluster: one task a shard. Of a worker that dies Ray gives the shard to
another. The shards come back in order and are written here: the same store as without a cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from nextvec.corpus.encoders import Encoder, EncoderConfig, load_encoder
from nextvec.corpus.layout import FloatArray
from nextvec.corpus.tables import NewDocument
from nextvec.errors import EncoderError, MissingDependencyError, NextvecError
from nextvec.progress import Progress

AHEAD = 2
"""Shards that wait for each processor of the cluster: so many are in memory here."""
RETRIES = 3
"""Times that a shard whose worker died is given to another."""


def settled(config: EncoderConfig, encoder: Encoder) -> EncoderConfig:
    """The configuration with what was chosen here by measurement, so that every worker computes alike."""
    if config.endpoint is not None:
        return config
    device, _, precision = encoder.path.rpartition(" ")
    return replace(config, precision=precision, device=device)


def encoded(
    batches: Iterable[list[NewDocument]], config: EncoderConfig, progress: Progress
) -> Iterator[tuple[list[NewDocument], FloatArray]]:
    """Each batch with the vectors of its chunks [n, D], in the order of the batches.

    Args:
        config: as `settled` gives it. Ray's cluster is that of RAY_ADDRESS, or one of this machine for the
            time being; its workers need nextvec and the encoder.
    Raises:
        MissingDependencyError: Ray is not installed.
        EncoderError: what the encoder raised on a worker, or workers that die again and again.
    """
    ray = _ray()
    began = not ray.is_initialized()
    if began:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no verb may call home
        ray.init(log_to_driver=False, logging_level="warning")
    try:
        gpus = int(config.endpoint is None and config.device.startswith("cuda"))
        task = ray.remote(encode_shard).options(max_retries=RETRIES, num_gpus=gpus)
        most = AHEAD * max(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)), 1)
        waiting: deque[tuple[list[NewDocument], Any]] = deque()
        for documents in batches:
            texts = [text for document in documents for text in document.texts]
            waiting.append((documents, task.remote(config, texts)))
            if len(waiting) >= most:
                yield _next(waiting, progress)
        while waiting:
            yield _next(waiting, progress)
    finally:
        if began:
            ray.shutdown()


def _next(waiting: deque[tuple[list[NewDocument], Any]], progress: Progress) -> tuple[Any, FloatArray]:
    ray = _ray()
    documents, promised = waiting.popleft()
    try:
        vectors, error = ray.get(promised)
    except ray.exceptions.RayError as e:
        raise EncoderError(
            f"a shard could not be encoded: {str(e).partition(chr(10))[0]}",
            where="--engine ray",
            remedy="look at Ray's logs; the same command goes on where this stopped",
        ) from None
    if error is not None:
        raise EncoderError(error[0], where=error[1], remedy=error[2])
    progress.advance(len(vectors))
    return documents, vectors


def encode_shard(
    config: EncoderConfig, texts: Sequence[str]
) -> tuple[FloatArray | None, tuple[str, str | None, str | None] | None]:
    """On a worker: the vectors, or what went wrong (message, where, remedy)."""
    try:
        return _encoder(config).encode(texts), None
    except NextvecError as e:
        return None, (e.message, e.where, e.remedy)


@lru_cache(maxsize=1)
def _encoder(config: EncoderConfig) -> Encoder:
    """Loaded once a worker."""
    return load_encoder(config)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingDependencyError(
            "a cluster needs Ray", where="--engine ray", remedy="pip install 'nextvec[ray]'"
        ) from None
    return ray
