"""Times of calls, and figures made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Call = Callable[[], object]
WARM_UP = 5


def seconds_of(call: Call) -> float:
    """Of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(calls: Mapping[str, Call], rounds: int, each: int) -> dict[str, list[float]]:
    """Seconds of `rounds` times `each` calls of every one of `calls`, round by round, so that a load on the
    machine that comes and goes meets all of them."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += [seconds_of(call) for _ in range(each)]
    return times


def percentiles_ms(times: Sequence[float]) -> dict[str, float]:
    """ "p50_ms", "p95_ms" and "p99_ms" of seconds."""
    found = np.quantile(times, [0.5, 0.95, 0.99]) * 1e3
    return {f"p{p}_ms": round(float(value), 4) for p, value in zip((50, 95, 99), found, strict=True)}
