"""A model as a folder in the Hugging Face layout: config.json, model.safetensors and golden.safetensors.

The golden file holds an input and the model's output when it was saved (with a query, at every horizon and
with its confidence, where it has these). Loading computes it again: a renamed tensor, a damaged file or code
that computes something else is an error, not a slightly worse model. What decoders saved as a folder need too
(tensors read with care, exact arithmetic, a version of code) stands first.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nextvec.config import from_dict, to_dict
from nextvec.disk import UNSEALED, atomic_path, check_seal, read_json, seal, write_json
from nextvec.errors import ConfigError, ModelError, NextvecError, RunError
from nextvec.models import registry
from nextvec.models.ops.parameters import hints_of, treat
from nextvec.version import __version__

if TYPE_CHECKING:
    from nextvec.models.base import NextVectorModel


STEPS = ".steps"  # behind the name of a matrix in int8: what its rows are multiplied with
TOLERANCE = 1e-5  # of a golden output's largest value, at least of 1
MODEL_CARD = """---
{{ card_data }}
---

A nextvec model: it reads a document as a sequence of embedding vectors and
predicts the next one. `config.json` names the architecture and the encoder.

```python
import nextvec
model = nextvec.load("OWNER/NAME")     # model(x).raw and model(x).unit, [B, T, D] -> [B, T, D]
```
"""


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
    remedy = "restore it, or save the model again"
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise error(f"larger than {max_bytes >> 20} MiB", where=path, remedy="restore the file")
        check_seal(path, error, remedy)
        # Cloned, because safetensors maps the file: a file cut short later would otherwise end the process.
        return {name: value.clone() for name, value in load_file(path).items()}
    except FileNotFoundError:
        raise error("not found", where=path, remedy=remedy) from None
    except (SafetensorError, OSError) as e:
        raise error(f"is not a complete safetensors file ({e})", where=path, remedy=remedy) from None


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
            shapes = f"{list(value.shape)} where the configuration has {list(wanted[name].shape)}"
            raise error(f"tensor '{name}' is {shapes}", where=where, remedy=remedy)


def check_golden(
    outputs: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
    where: Path,
    *,
    saved_code: str,
    code: str,
    error: type[NextvecError] = RunError,
) -> None:
    """Raise `error` where an output is not the golden one: of the same code, the files are at fault."""
    off, allowed = 0.0, True
    for name, output in outputs.items():
        this = float((output - golden[name]).abs().max())
        allowed &= this <= TOLERANCE * max(1.0, float(golden[name].abs().max()))  # False for NaN
        off = this if not this <= off else off
    if allowed:
        return
    same = saved_code == code
    cause = "the weights or the golden file" if same else "the code, the weights or the golden file"
    message = f"the loaded model answers off by {off:.1e}: {cause} changed since it was saved"
    remedy = "restore the folder" if same else f"install the code of version {saved_code} or retrain"
    raise error(message, where=where, remedy=remedy)


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


_PARSING = threading.Lock()
"""Two threads that parse at once can end in a SystemError of CPython 3.11."""


@functools.lru_cache(maxsize=256)
def _imports(source: bytes, packages: tuple[str, ...]) -> list[str]:
    """The modules of these packages that a source file imports at its top level."""
    with _PARSING:
        body = ast.parse(source).body
    return [
        node.module
        for node in body
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith(tuple(f"{package}." for package in packages))
    ]


log = logging.getLogger("nextvec.models")

PRETRAINED = "pretrained"  # the model that comes with the package, by name
CONFIG, WEIGHTS, GOLDEN = "config.json", "model.safetensors", "golden.safetensors"
GOLDEN_BATCH, GOLDEN_TIME = 2, 8
MAX_GOLDEN_BYTES = 2**28
PACKAGE = __package__ or "nextvec.models"
# They name and store models but compute nothing, so their changes cannot change an output.
NOT_COMPUTING = {f"{PACKAGE}.registry", f"{PACKAGE}.saving"}


def in_bytes(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The same, but the matrices [M, N] of these names in int8, beside each the steps [M, 1] of its rows."""
    made = dict(weights)
    for name in names:
        matrix = weights[name].float()
        step = matrix.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        made[name], made[name + STEPS] = (matrix / step).round().to(torch.int8), step
    return made


def from_bytes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `in_bytes` was given, up to half a step. Steps that are not one a row stay, as unknown names."""
    found = dict(tensors)
    for name, value in tensors.items():
        steps = tensors.get(name + STEPS)
        if value.dtype == torch.int8 and steps is not None and steps.shape == (*value.shape[:-1], 1):
            found[name] = value * found.pop(name + STEPS)
    return found


def save_model(
    folder: Path,
    model: NextVectorModel,
    extra: Mapping[str, Any] | None = None,
    *,
    bytes_of: Collection[str] = (),
) -> None:
    """Write the model to `folder`, beside what else stands there. Torch's random state is not touched.

    The weights keep their dtype. The golden output is computed on the CPU, in float32 (float64 for a float64
    model), by a twin built from the very configuration that is written.

    Args:
        extra: further entries of config.json, such as the encoder; must be JSON.
        bytes_of: names of the matrices that are written in int8, by rows: a quarter of the file.
    Raises:
        ModelError: the model gives NaN or infinity.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = in_bytes(weights, bytes_of)
    twin = _assemble(type(model), to_dict(model.config), from_bytes(weights), folder)
    inputs = _golden_input(twin)
    outputs = _outputs(twin, inputs)
    if not all(output.isfinite().all() for output in outputs.values()):
        message = "the model's predictions are not finite"
        raise ModelError(message, where=folder, remedy="save an earlier state of it")
    config = {
        **(extra or {}),
        "architecture": model.architecture,
        "config": to_dict(model.config),
        "dtype": str(model.scale.dtype).removeprefix("torch."),
        "scale": float(model.scale),
        "code_version": code_version(type(model)),
        "nextvec_version": __version__,
    }
    write_saved(folder, CONFIG, config, weights, {**inputs, **outputs})


def write_saved(
    folder: Path, name: str, info: Mapping[str, Any], weights: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    """Write the description `name`, the weights and the golden output of something that was trained.

    All three are complete on disk before the first of the three renames, which follow each other at once.
    """
    with (
        atomic_path(folder / name) as described,
        atomic_path(folder / WEIGHTS) as weights_path,
        atomic_path(folder / GOLDEN) as golden_path,
    ):
        save_file(golden, golden_path, metadata=UNSEALED)
        save_file(weights, weights_path, metadata={"format": "pt", **UNSEALED})
        seal(golden_path)
        seal(weights_path)
        write_json(described, info, sealed=True)
        with weights_path.open("rb") as f:
            os.fsync(f.fileno())


def load_model(source: str | Path, **download: Any) -> tuple[NextVectorModel, dict[str, Any]]:
    """Load what `save_model` wrote. Torch's random state is not touched.

    Args:
        source: a folder, or an `owner/name` on the Hugging Face Hub.
        download: revision, token, cache_dir, local_files_only, as in huggingface_hub.snapshot_download.
    Returns: the model in eval mode on the CPU, in the dtype it was saved in, and the contents of config.json.
    Raises:
        RunError: missing, truncated or renamed files or tensors, an unknown architecture, or an output that
            differs from the golden one by more than 1e-5 (of its largest value, if that is above 1).
    """
    folder = locate(source, **download)
    info = read_json(folder / CONFIG, RunError, remedy="give a folder that nextvec saved a model in")
    match info:
        case {"architecture": str(name), "config": dict(config), "code_version": str(saved_code)}:
            cls = _get(name, folder / CONFIG)
        case _:
            message = "is not the configuration of a nextvec model"
            raise RunError(message, where=folder / CONFIG, remedy="check the path")
    weights = from_bytes(read_tensors(folder / WEIGHTS))
    model = _assemble(cls, config, weights, folder)
    _check_golden(model, folder, saved_code)
    return model.to(weights["scale"].dtype), info


def code_version(cls: type[NextVectorModel]) -> str:
    """Short sha256 of the source files of nextvec.models that an architecture's output depends on.

    They are its own and, recursively, those it imports (base, heads, residual, the operators it uses)."""
    return source_version(cls.__module__, (PACKAGE,), NOT_COMPUTING)


def _get(name: str, where: Path) -> type[NextVectorModel]:
    try:
        return registry.get(name)
    except ModelError as e:
        raise RunError(e.message, where=where, remedy=e.remedy) from None


def _assemble(
    cls: type[NextVectorModel], config: Mapping[str, Any], weights: dict[str, Tensor], folder: Path
) -> NextVectorModel:
    """Build without initialising (the meta device draws no random numbers) and take the weights as they are.

    The result computes in float32, or in float64 if the weights are float64."""
    try:
        with torch.device("meta"):
            model = registry.construct(cls, from_dict(cls.Config, config, where=folder / CONFIG))
    except (ConfigError, ModelError) as e:
        remedy = f"{e.remedy or 'restore the file'} (nextvec {__version__})"
        raise RunError(e.message, where=e.where, remedy=remedy) from None
    check_tensors(weights, model.state_dict(), folder / WEIGHTS, cls.architecture)
    hints = {name: hints_of(parameter) for name, parameter in model.named_parameters()}
    model.load_state_dict(weights, assign=True)  # puts new parameters in the place of those with the hints
    for name, parameter in model.named_parameters():
        if hints[name]:
            treat(parameter, **hints[name])
    return model.to(torch.promote_types(model.scale.dtype, torch.float32)).eval()


def _golden_input(model: NextVectorModel) -> dict[str, Tensor]:
    """Random vectors [2, 8, D], and for a conditional model a query [2, D], as long as the training vectors;
    the same at every call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(GOLDEN_BATCH, GOLDEN_TIME, model.d_embed, generator=generator)
    inputs = {"input": x}
    if model.config.conditional:
        inputs["query"] = torch.randn(GOLDEN_BATCH, model.d_embed, generator=generator)
    return {
        name: (torch.nn.functional.normalize(value, dim=-1) * model.scale).to(model.scale.dtype)
        for name, value in inputs.items()
    }


def _outputs(model: NextVectorModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model says of `_golden_input`: raw, and ahead and continuation where it has these."""
    with exact():
        prediction = model(inputs["input"], query=inputs.get("query"))
        outputs = {"raw": prediction.raw}
        if model.config.horizons > 1:
            outputs["ahead"] = prediction.ahead
        if prediction.query is not None:
            outputs["ranked"] = prediction.query
        if model.config.confidence:
            outputs["continuation"] = model.continuation(prediction, inputs["input"])
    return {name: value.clone() for name, value in outputs.items()}


def _check_golden(model: NextVectorModel, folder: Path, saved_code: str) -> None:
    where = folder / GOLDEN
    golden = read_tensors(where, max_bytes=MAX_GOLDEN_BYTES)
    inputs = {name: value for name, value in golden.items() if name in ("input", "query")}
    try:
        outputs = _outputs(model, inputs) if "input" in inputs else {}
    except ModelError as e:
        raise RunError(e.message, where=where, remedy="restore the file") from None
    shapes = {name: value.shape for name, value in {**inputs, **outputs}.items()}
    wanted = _golden_input(model).keys() | outputs.keys()
    if shapes.keys() != wanted or shapes != {name: value.shape for name, value in golden.items()}:
        raise RunError("is not a golden file", where=where, remedy="restore the file")
    code = code_version(type(model))
    check_golden(outputs, golden, folder / WEIGHTS, saved_code=saved_code, code=code)
    if saved_code != code and not is_packaged(folder):
        log.info("%s: saved by another version of %s; its output is the same", folder, model.architecture)


def is_packaged(folder: Path) -> bool:
    """Whether it lies in the package, as the model does that comes with it: such a folder is only read."""
    return folder.resolve().is_relative_to(Path(__file__).resolve().parents[1])


def locate(source: str | Path, *, also: Sequence[str] = (), **download: Any) -> Path:
    """The local folder of a path, of a Hub id, or of "pretrained", the model that comes with the package. A
    name whose first part is a folder here is a path.

    Args:
        also: further files to fetch from the Hub, where they are there.
        download: as in `load_model`.
    Raises:
        RunError: neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if str(source) == PRETRAINED:
        return Path(__file__).parents[1] / PRETRAINED
    is_id = isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~"))
    if not is_id or path.parent.is_dir():
        remedy = "give the folder of a run, a Hub id owner/name, or pretrained"
        raise RunError("no such folder", where=source, remedy=remedy)
    try:
        found = snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS, GOLDEN, *also], **download)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as e:
        reason = str(e).strip().split("\n")[0]
        message = f"is not a folder, and cannot be fetched from the Hub ({reason})"
        raise RunError(message, where=source, remedy="check the name") from None
    return Path(found)
