"""One engine in a process of its own: its memory is its own, and so are its threads.

It answers each line of JSON on standard input with one on standard output (`nextvec.json_process`); it is
started by `nextvec.inference.bench.measure`, with the engine to load as its argument.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextvec.data.windows import FloatArray
from nextvec.inference.predictor import open_predictor

Call = Callable[[], object]
WARM_UP = 5


def seconds_of(call: Call) -> float:
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


def sample_contexts(dimension: int, context: int, length: float, batch: int, seed: int = 0) -> FloatArray:
    """float32 [batch, context, dimension]: vectors of about `length`, neighbours alike (cosine about .5), the
    same at every call; the first rows of a larger batch are other ones."""
    rng = np.random.default_rng([seed, batch])
    topic = rng.standard_normal((batch, 1, dimension), dtype=np.float32)
    vectors = topic + rng.standard_normal((batch, context, dimension), dtype=np.float32)
    scaled: FloatArray = vectors * np.float32(length / np.sqrt(2 * dimension))
    return scaled


COPY = "copy"
"""In place of an engine: large copies in memory, for the floor."""
COPIED_BYTES = 2**28
MIN_CALLS, UNCOUNTED = 3, 3
Answer = dict[str, Any]


class EngineWorker:
    """What stays between two questions: the engine, and what it is asked to read."""

    def __init__(self, job: dict[str, Any]) -> None:
        """
        Args:
            job: "path", "engine", "device", "threads", "context", "length" (of the vectors).
        """
        torch.set_num_threads(job["threads"])
        self.device = job["device"]
        before = peak_bytes()
        self.batch: Callable[[int], Call]
        if job["engine"] == COPY:
            self.batch, self.metadata = self._copies(), {}
        else:
            predictor = open_predictor(
                job["path"], job["device"], job["engine"] if job["torch"] else None, threads=job["threads"]
            )
            self.predictor = predictor
            self.contexts = partial(sample_contexts, predictor.dimension, job["context"], job["length"])
            self.batch = self._predictions
            self.metadata = {key: predictor.metadata[key] for key in ("parameters", "bytes")}
        self.before, self.warm = before, set[int]()

    def time(self, batch: int, seconds: float) -> Answer:
        """Seconds of every call on `batch` contexts until `seconds` are spent. The first calls of a batch are
        not counted: there it compiles, and finds its memory."""
        call = self.batch(batch)
        if batch not in self.warm:
            self.warm.add(batch)
            for _ in range(UNCOUNTED):
                call()
        end, times = time.perf_counter() + seconds, list[float]()
        while len(times) < MIN_CALLS or time.perf_counter() < end:
            times.append(seconds_of(call))
        return {"times": times}

    def answer(self, batch: int, file: str) -> Answer:
        """Write what it predicts of `batch` contexts to a file, float32 [B, D]."""
        contexts = self.contexts(batch)
        raw, _ = self.predictor.predict(contexts, np.full(batch, contexts.shape[1]))
        np.save(file, raw, allow_pickle=False)
        return {}

    def memory(self) -> Answer:
        """Peak bytes of the process, how many of them came with the engine, and on the device."""
        peak = peak_bytes()
        return {"peak": peak, "grown": peak - self.before, "device": device_peak(self.device)}

    def _predictions(self, batch: int) -> Call:
        contexts = self.contexts(batch)
        # The answer comes back as an array in the computer's own memory, so a device is waited for.
        return partial(self.predictor.predict, contexts, np.full(batch, contexts.shape[1]))

    def _copies(self) -> Callable[[int], Call]:
        source = torch.ones(COPIED_BYTES // 4, device=self.device)
        target = torch.empty_like(source)

        def copy() -> None:
            target.copy_(source)
            synchronise(self.device)

        return lambda _: copy


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def device_peak(device: str) -> int | None:
    """Bytes that torch held there at most (of mps: holds now); None for the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return torch.mps.driver_allocated_memory() if device == "mps" else None


def peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone; rusage counts from before it was started
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def serve(job: dict[str, Any]) -> None:
    """Load the engine, then answer until standard input ends; what goes wrong is {"error": ...}."""
    out = sys.stdout

    def say(answer: Answer) -> None:
        print(json.dumps(answer), file=out, flush=True)

    def reason(e: Exception) -> Answer:
        return {"error": " ".join(f"{e}".split())[:300] or type(e).__name__}

    with contextlib.redirect_stdout(sys.stderr):  # nothing else may write to standard output
        try:
            worker = EngineWorker(job)
        except Exception as e:  # noqa: BLE001 - an engine may raise anything; it is its row's reason
            say(reason(e))
            return
        say(worker.metadata)
        for line in sys.stdin:
            question = json.loads(line)
            try:
                say(getattr(worker, question.pop("call"))(**question))
            except Exception as e:  # noqa: BLE001 - as above
                say(reason(e))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
