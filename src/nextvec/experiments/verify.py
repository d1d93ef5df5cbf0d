"""Can a run be believed? Reload it in a fresh process and reproduce what it says of itself.

In the field a validation figure of 0.62 was 0.04 when somebody measured it later. Here the saved model has to
give its golden output and its recorded validation again to 1e-6, and to stand on the documents it names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nextvec import errors
from nextvec.errors import NextvecError, RunError

Status = Literal["ok", "note", "RED"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. A "note" is worth knowing, or says what was not checked and why."""

    name: str
    status: Status
    text: str


@dataclass(frozen=True)
class Verification:
    run: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.status != "RED" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: "run", "passed", "checks"."""
        return {"run": self.run, "passed": self.passed, "checks": [asdict(c) for c in self.checks]}


def verify(
    run: str | Path, store: str | Path | None = None, split_file: str | Path | None = None
) -> Verification:
    """Check a run in a process of its own, where nothing of the training is in memory.

    Args:
        store, split_file: where they lie now; by default where the run says they were.
    Raises:
        RunError, StoreError, SplitError, ConfigError: no run, store or split file there, or a configuration
            that cannot be read: nothing can be said.
    """
    paths = {"run": run, "store": store, "split_file": split_file}
    request = json.dumps({name: None if path is None else str(path) for name, path in paths.items()})
    fresh = subprocess.run(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "nextvec.experiments.evidence", request], stdout=subprocess.PIPE, check=False
    )
    try:
        answer = json.loads(fresh.stdout)
    except ValueError:
        text = f"the process that looked at it ended with code {fresh.returncode} and no answer"
        raise RunError(text, where=run) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], NextvecError)
        raise kind(answer["message"], where=answer["where"], remedy=answer["remedy"])
    return Verification(str(run), tuple(Check(**check) for check in answer["checks"]))
