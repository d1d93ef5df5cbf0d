"""A run's ways of finding the next chunk less another run's, window by window (docs/text.md).

    python benchmarks/retrieval_opponent.py STORE RUN OTHER --split-file splits.json --sources SOURCES

OTHER trained for one update at a rate of 1e-12 asks by listwise averages, the strongest query without a
model (benchmarks/results/README.md has the command).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nextvec.corpus.store import Store
from nextvec.data.splits import SplitConfig
from nextvec.evaluation.harness import EvaluationConfig
from nextvec.evaluation.intervals import estimate
from nextvec.experiments.evaluating import DocumentSelection
from nextvec.experiments.lookahead import METRICS, compare_strategies
from nextvec.inference.predictor import RunPredictor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run folder or pretrained; the other")
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--sources", required=True)
    parser.add_argument("--strategies", default="ranked,ranked+passage")
    parser.add_argument("--candidates", default="split", choices=["split", "store", "document"])
    given = parser.parse_args()
    division = SplitConfig(file=str(given.split_file.resolve()))
    selection = DocumentSelection(sources=tuple(given.sources.split(",")), division=division)
    how, names = EvaluationConfig(speed=False, candidates=given.candidates), given.strategies.split(",")
    ours, theirs = (
        compare_strategies(Store.open(given.store), RunPredictor(run), selection, how, names)
        for run in given.runs
    )
    documents = ours.evaluation_set.windows.document
    for one, other in zip(ours.outcomes, theirs.outcomes, strict=True):
        for metric in METRICS:
            found = estimate(documents, one.values(metric), other.values(metric))
            print(
                f"{one.strategy.name} {metric}: {one.figure(metric):.4f}, {other.figure(metric):.4f}, "
                f"difference {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
            )


if __name__ == "__main__":
    main()
