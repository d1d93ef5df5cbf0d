"""`nextvec bench`: the group of measurements. Each is a file of its own, loaded when it is used."""

from __future__ import annotations

from cyclopts import App

VERBS = {"inference": "Latency, throughput and memory of runs by every engine."}

bench = App(name="bench", help="How fast, and in how much memory.", help_format="plaintext")
for name, summary in VERBS.items():
    bench.command(f"nextvec.cli.bench_{name}:bench_{name}", name=name, help=summary)
