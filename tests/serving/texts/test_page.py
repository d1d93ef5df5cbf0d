"""docs/serving.md: its examples are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
SETTING = "export URL="


def test_the_examples_of_the_page_run(server: str, key: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    setting, *examples = blocks
    assert setting.startswith(SETTING)
    assert sum(block.count("curl ") for block in examples) >= 15
    python = f'python() {{ "{sys.executable}" "$@"; }}'
    script = "\n".join(["set -eo pipefail", f"URL={server} KEY={key}", python, *examples])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"curl is needed for this test; it said: {done.stdout[-500:]} {done.stderr}"
    output = done.stdout
    for wanted in (
        '"object":"prediction"',
        '"object":"surprise"',
        '"object":"retrieval"',
        '"object":"rollout"',
    ):
        assert wanted in output
    assert "(8, 384)" in output
    assert '"status":"ready"' in output
    assert np.load(tmp_path / "next.npy", allow_pickle=False).shape == (8, 384)
    assert "nextvec_requests_total" in (tmp_path / "metrics.txt").read_text()
