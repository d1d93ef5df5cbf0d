"""What every predictor answered, window by window, kept beside the table: for pictures and examples that the
table was not made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray
from nextvec.disk import atomic_path
from nextvec.errors import EvaluationError
from nextvec.evaluation.report import Report

ANSWERS = "answers.safetensors"
MAX_BYTES = 2**32
REMEDY = "judge again; the figures in the table need it not"


@dataclass(frozen=True)
class Answers:
    """N windows and what was answered to them.

    Attributes:
        store: fingerprint of the store whose rows are meant.
        target, last: [N] rows of the true next chunk and of the last one read.
        document: [N] index in the store's documents.
        values: predictor -> metric -> [N] float32, for the metrics that are means over windows.
        units: predictor -> [N, D] float16 unit predictions, of those that were kept.
    """

    store: str
    target: IntArray
    last: IntArray
    document: IntArray
    values: dict[str, dict[str, NDArray[np.float32]]]
    units: dict[str, NDArray[np.float16]]

    @classmethod
    def of(cls, report: Report, store: str) -> Answers:
        """Those of a report that was made with `Judging.keep`. Raises EvaluationError for another."""
        windows = report.judged
        if windows is None:
            raise EvaluationError("answers were not kept", remedy="judge with keep=True")
        values = {
            row.name: {name: np.asarray(v, np.float32) for name, v in row.values.items()}
            for row in report.rows
        }
        units = {row.name: row.units for row in report.rows if row.units is not None}
        return cls(store, windows.target, windows.last, windows.document, values, units)

    def write(self, path: Path) -> None:
        """Write them to one safetensors file, atomically."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[np.generic]] = {
            name: np.ascontiguousarray(getattr(self, name)) for name in ("target", "last", "document")
        }
        names: list[list[str]] = []
        for row, metrics in self.values.items():
            for metric, value in metrics.items():
                tensors[f"values.{len(names)}"] = np.ascontiguousarray(value)
                names.append([row, metric])
        for number, unit in enumerate(self.units.values()):
            tensors[f"units.{number}"] = np.ascontiguousarray(unit)
        said = {"store": self.store, "values": json.dumps(names), "units": json.dumps(list(self.units))}
        with atomic_path(path) as made:
            save_file(tensors, made, metadata=said)

    @classmethod
    def read(cls, path: Path) -> Answers:
        """What `write` wrote. Raises EvaluationError naming the file."""
        from safetensors import SafetensorError, safe_open

        try:
            if path.stat().st_size > MAX_BYTES:
                raise EvaluationError("is larger than 4 GiB", where=path, remedy=REMEDY)
            with safe_open(path, "np") as f:
                said = f.metadata()
                rows, kept = json.loads(said["values"]), json.loads(said["units"])
                values: dict[str, dict[str, NDArray[np.float32]]] = {}
                for number, (row, metric) in enumerate(rows):
                    values.setdefault(row, {})[metric] = f.get_tensor(f"values.{number}")
                units = {row: f.get_tensor(f"units.{number}") for number, row in enumerate(kept)}
                target, last, document = (f.get_tensor(name) for name in ("target", "last", "document"))
        except OSError as e:
            raise EvaluationError(f"cannot be read ({e.strerror or e})", where=path, remedy=REMEDY) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as e:
            raise EvaluationError(f"holds no answers ({e})", where=path, remedy=REMEDY) from None
        return cls(said["store"], target, last, document, values, units)
