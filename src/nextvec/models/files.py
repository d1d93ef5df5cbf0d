"""What everything that is saved as a folder shares: tensors read with care, exact answers, a version of code.

A golden file holds an input and what the network answered when it was saved; loading asks again.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nextvec.errors import NextvecError, RunError

TOLERANCE = 1e-5  # of a golden output's largest value, at least of 1


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Inference in full float32 arithmetic, whatever the caller has chosen for the sake of speed."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def read_tensors(
    path: Path, error: type[NextvecError] = RunError, *, max_bytes: int | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Whatever is wrong with it, its size too, becomes `error`."""
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise error(f"larger than {max_bytes >> 20} MiB", where=path, remedy="restore the file")
        # Cloned, because safetensors maps the file: a file cut short later would otherwise end the process.
        return {name: value.clone() for name, value in load_file(path).items()}
    except FileNotFoundError:
        raise error("not found", where=path, remedy="restore the file, or save the model again") from None
    except (SafetensorError, OSError) as e:
        raise error(
            f"is not a complete safetensors file ({e})",
            where=path,
            remedy="restore it, or save the model again",
        ) from None


def check_tensors(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    where: Path,
    what: str,
    error: type[NextvecError] = RunError,
) -> None:
    """Raise `error` unless names and shapes are those `wanted`, the state of what is called `what`."""
    remedy = "restore the file; tensors and configuration must come from the same save"
    for name in wanted:
        if name not in found:
            raise error(f"tensor '{name}' is missing", where=where, remedy=remedy)
    for name, value in found.items():
        if name not in wanted:
            raise error(f"tensor '{name}' is not part of {what}", where=where, remedy=remedy)
        if value.shape != wanted[name].shape:
            shapes = f"{list(value.shape)} where the configuration says {list(wanted[name].shape)}"
            raise error(f"tensor '{name}' is {shapes}", where=where, remedy=remedy)


def check_golden(
    answers: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
    where: Path,
    *,
    saved_code: str,
    code: str,
    error: type[NextvecError] = RunError,
) -> None:
    """Raise `error` where an answer is not the golden one: of the same code, the files are at fault."""
    off, allowed = 0.0, True
    for name, answer in answers.items():
        this = float((answer - golden[name]).abs().max())
        allowed &= this <= TOLERANCE * max(1.0, float(golden[name].abs().max()))  # False for NaN
        off = this if not this <= off else off
    if allowed:
        return
    same = saved_code == code
    cause = "the weights or the golden file" if same else "the code, the weights or the golden file"
    raise error(
        f"the loaded model answers off by {off:.1e}: {cause} changed since it was saved",
        where=where,
        remedy="restore the folder" if same else f"install the code of version {saved_code} or retrain",
    )


def source_version(module: str, packages: tuple[str, ...], without: Collection[str] = ()) -> str:
    """Short sha256 of a module's source and, recursively, of those that it imports from `packages` at the top
    level, but those in `without`."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        path = importlib.import_module(name).__file__
        assert path is not None
        found[name] = Path(path).read_bytes()
        waiting += _imports(found[name], packages)
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\0{len(found[name])}\0".encode() + found[name])
    return digest.hexdigest()[:16]


def _imports(source: bytes, packages: tuple[str, ...]) -> list[str]:
    """The modules of these packages that a source file imports at its top level."""
    return [
        node.module
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith(tuple(f"{package}." for package in packages))
    ]
