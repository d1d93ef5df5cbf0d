"""`import nextvec` is light, and its names resolve on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nextvec


def test_importing_nextvec_imports_nothing_heavy() -> None:
    code = "import nextvec, sys; print(*{'torch', 'numpy', 'pyarrow', 'pydantic'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.strip() == ""


def test_names_resolve() -> None:
    from nextvec.models.registry import build
    from nextvec.version import __version__

    assert nextvec.build is build
    assert nextvec.__version__ == __version__
    assert {"build", "load", "Store", "__version__"} <= set(dir(nextvec))
    assert nextvec.build("lstm", preset="small", d_embed=8).d_embed == 8


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nextvec.nothing
