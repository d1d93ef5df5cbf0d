"""atheris over what reads bytes of others, guided by the code that they reach (`pip install nextvec[fuzz]`):

    python tests/faults/fuzz.py TARGET -max_total_time=60

The names stand in hostile.py. It ends with a traceback, and the bytes in a file, where something else than an
answer or a typed error came out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["nextvec.corpus", "nextvec.serving.bodies"]):
    from faults.hostile import TARGETS, attempt


def main() -> None:
    name, *options = sys.argv[1:] or sys.exit(f"name one of: {', '.join(TARGETS)}")
    atheris.Setup([sys.argv[0], *options], lambda data: attempt(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
