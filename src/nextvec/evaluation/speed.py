"""Latency and throughput of a predictor, on vectors that mean nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import torch

from nextvec.evaluation.predictor import Predictor

WARM_UP, SINGLE_CALLS = 5, 100
BATCH, BATCH_SECONDS, MIN_BATCHES = 256, 0.5, 3


def measure_speed(predictor: Predictor, dimension: int, context: int) -> dict[str, float]:
    """Time `predict` on contexts of `context` vectors.

    Returns:
        "latency_p50_ms", "latency_p95_ms", "latency_p99_ms": one context at a time, on one thread;
        "throughput": contexts per second in batches of 256, on all threads.
    """
    vectors = np.random.default_rng(0).standard_normal((BATCH, context, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    lengths = np.full(BATCH, context, dtype=np.int64)
    with one_thread():
        for i in range(WARM_UP):
            predictor.predict(vectors[i : i + 1], lengths[:1])
        times = [_seconds(predictor, vectors[i : i + 1], lengths[:1]) for i in range(SINGLE_CALLS)]
    p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99]) * 1e3
    predictor.predict(vectors, lengths)
    spent: list[float] = []
    while len(spent) < MIN_BATCHES or sum(spent) < BATCH_SECONDS:
        spent.append(_seconds(predictor, vectors, lengths))
    return {
        "latency_p50_ms": round(float(p50), 4),
        "latency_p95_ms": round(float(p95), 4),
        "latency_p99_ms": round(float(p99), 4),
        "throughput": round(BATCH / float(np.median(spent)), 1),
    }


def _seconds(predictor: Predictor, contexts: np.ndarray, lengths: np.ndarray) -> float:
    started = time.perf_counter()
    predictor.predict(contexts, lengths)
    return time.perf_counter() - started


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: small work is not faster on more, and much slower on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
