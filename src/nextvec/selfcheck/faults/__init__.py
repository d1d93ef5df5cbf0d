"""The fault suite: what went wrong in the field, brought back, and whether its guard goes red by name."""

from nextvec.selfcheck.faults.fault import FAULTS, ROWS, Fault, FaultRow, try_fault
from nextvec.selfcheck.faults.suite import run_faults, score

__all__ = ["FAULTS", "ROWS", "Fault", "FaultRow", "run_faults", "score", "try_fault"]
