"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server, in a registry of its own: two servers of one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "nextvec_requests",
            "Requests answered.",
            ["route", "model", "arm", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "nextvec_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "nextvec_batch_size",
            "Windows that a model answered together.",
            ["model"],
            buckets=SIZES,
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "nextvec_batch_seconds",
            "Seconds that a model took for a batch.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rejected = Counter(
            "nextvec_rejected", "Requests refused before their work.", ["reason"], registry=self.registry
        )
        self.outcomes = Counter(
            "nextvec_outcomes", "Scores reported.", ["model", "arm"], registry=self.registry
        )
        self.scores = Gauge(
            "nextvec_outcome_score_sum",
            "Sum of the scores reported.",
            ["model", "arm"],
            registry=self.registry,
        )
        self.ready = Gauge("nextvec_ready", "1 while requests are taken.", registry=self.registry)
        self._depth = Gauge(
            "nextvec_queue_depth", "Requests under way, by kind.", ["lane"], registry=self.registry
        )

    def count(self, route: str, model: str, arm: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self.requests.labels(route, model, arm, status).inc()
        self.seconds.labels(route).observe(seconds)

    def scored(self, model: str, arm: str, score: float) -> None:
        """The outcome of one answer."""
        self.outcomes.labels(model, arm).inc()
        self.scores.labels(model, arm).inc(score)

    def watch(self, lane: str, depth: Callable[[], float]) -> None:
        """Read how many requests are under way whenever figures are asked for."""
        self._depth.labels(lane).set_function(depth)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)
