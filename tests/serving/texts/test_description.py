"""The server against its own description: requests that it describes, and many that it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Schema-valid requests may be refused where JSON Schema cannot say what is wanted: base64 of so many numbers,
# a model's name, numbers whose squares overflow, a text that is not white space to the chunker.
CONFIG = """\
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "401", "404", "409", "422"]
"""


def described(server: str, key: str, folder: Path, examples: int) -> subprocess.CompletedProcess[str]:
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "--config-file", str(config), "run", f"{server}/openapi.json"]
    flags = ["--checks", "all", "--mode", "all", "--max-examples", str(examples), "--seed", "1", "--no-color"]
    flags += ["--suppress-health-check", "all", "-H", f"Authorization: Bearer {key}"]
    return subprocess.run(
        [*command, *flags], cwd=folder, capture_output=True, text=True, timeout=1500, check=False
    )


def test_no_answer_breaks_the_description(server: str, key: str, tmp_path: Path) -> None:
    done = described(server, key, tmp_path, 3)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: 20" in done.stdout


@pytest.mark.slow
def test_nor_does_any_of_many(server: str, key: str, tmp_path: Path) -> None:
    done = described(server, key, tmp_path, 100)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
