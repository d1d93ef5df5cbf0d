"""last/checkpoint.safetensors: everything a run needs to go on as if it had never stopped.

One file, so that there is no instant at which its parts belong to different updates; written to a temporary
file and renamed; safetensors, so that reading it runs nothing. Tensors lie in it by name, the rest as JSON in
its header.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nextvec.config import flatten, refuse_changes, to_dict, write_toml
from nextvec.disk import UNSEALED, atomic_path, check_seal, refuse_taken, seal
from nextvec.errors import ConfigError, RunError
from nextvec.interrupt import StopSignals, TrainingInterrupted

log = logging.getLogger("nextvec.training")

C = TypeVar("C")
FORMAT = "nextvec-checkpoint-1"
CONFIG = "config.toml"
FILE = Path("last") / "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name and `metadata`, a JSON dictionary."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix` and a slash, without it."""
        cut = len(prefix) + 1
        return {name[cut:]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes hold a share of it each (FSDP's DTensor, which is only imported where there are
    several)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered where it is sharded: then every process has to ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shared_like(tensor: Tensor, own: Tensor) -> Tensor:
    """Of a tensor that every process has, the share that it has of `own`."""
    if not is_sharded(own):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(tensor, own.device_mesh, own.placements, src_data_rank=None)


def write_checkpoint(
    run: Path,
    learned: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    sums: Tensor,
    metadata: Mapping[str, Any],
    *,
    write: bool = True,
) -> None:
    """Write the checkpoint of `run`: the state of everything `learned` by its name, optimiser, random states,
    the epoch's running sums, and `metadata`.

    Args:
        write: of several processes that share a model, all have to call this, and one writes.
    """
    tensors = {
        f"{key}/{name}": t for key, module in learned.items() for name, t in module.state_dict().items()
    }
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{key}": value for key, value in state.items()}
    random_tensors, random_metadata = random_state()
    tensors |= {"sums": sums, **{f"random/{name}": t for name, t in random_tensors.items()}}
    header = {"format": FORMAT, "facts": json.dumps(metadata), "random": json.dumps(random_metadata)}
    found = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
    held = {name: tensor.cpu().contiguous() for name, tensor in found if write}
    if not write:
        return
    with atomic_path(run / FILE) as temporary:
        save_file(held, temporary, {**header, **UNSEALED})
        seal(temporary)


def read_checkpoint(run: Path) -> Checkpoint | None:
    """The checkpoint of `run`, or None where a run was stopped before its first.

    Raises:
        RunError: the file is damaged or of another format.
    """
    path = run / FILE
    if not path.exists():
        return None
    check_seal(path, RunError, "train again into another folder")
    try:
        with safe_open(path, "pt") as f:
            header = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dictionary
        if header["format"] != FORMAT:
            raise RunError(f"is '{header['format']}', not '{FORMAT}'", where=path, remedy="train again")
        metadata = {**json.loads(header["facts"]), "random": json.loads(header["random"])}
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as e:
        raise RunError(f"is damaged ({e})", where=path, remedy="train again into another folder") from None
    return Checkpoint(tensors, metadata)


def restore(
    checkpoint: Checkpoint,
    learned: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    sums: Tensor,
    where: Path,
) -> None:
    """Put a checkpoint's weights, optimiser state, sums and random states back.

    Raises:
        RunError: the tensors do not fit the model.
    """
    states: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, tensor in checkpoint.part("optimiser").items():
        index, _, key = name.partition("/")
        fits = int(index) < len(parameters) and tensor.shape == parameters[int(index)].shape
        own = shared_like(tensor, parameters[int(index)]) if fits else tensor
        states.setdefault(int(index), {})[key] = own
    try:
        for key, module in learned.items():
            held = module.state_dict()
            found = checkpoint.part(key).items()
            loaded = {name: shared_like(t, held[name]) if name in held else t for name, t in found}
            module.load_state_dict(loaded)
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": states, "param_groups": groups})
        sums.copy_(checkpoint.tensors["sums"])
    except (RuntimeError, ValueError, KeyError) as e:
        raise RunError(f"does not fit the model ({e})", where=where / FILE, remedy="train again") from None
    set_random_state(checkpoint.part("random"), checkpoint.metadata["random"])


def begin(
    out: Path,
    config: C | None,
    read: Callable[[Path], C],
    *,
    resume: bool,
    free: Collection[str],
    what: str,
    unfinished: Collection[str] = (),
) -> tuple[C | None, Checkpoint | None]:
    """What a training in the folder `out` starts from: its configuration and, resumed, its checkpoint.

    Args:
        config: None takes, on resume, what the training was started with.
        read: the configuration that lies in a file.
        free: keys that a resumed training may change.
        what: "run" or "training", as errors call it.
        unfinished: names that may lie in `out` before its configuration does.
    Raises:
        RunError: `out` holds something (without `resume`) or nothing to resume (with it), or what was started
            with another configuration.
    """
    if not resume:
        started = (out / CONFIG).is_file()
        remedy = f"{'go on with --resume or ' if started else ''}give another folder"
        refuse_taken(out, RunError, remedy, besides=() if started else unfinished)
        return config, None
    if not (out / CONFIG).is_file():
        remedy = "check the folder, or train without --resume"
        raise RunError(f"holds no {what} to resume", where=out, remedy=remedy)
    checkpoint = read_checkpoint(out)
    own = read(out / CONFIG) if checkpoint is None else started_with(checkpoint, out, read, free)
    config = config or own
    refuse_changes(out, flatten(to_dict(own)), flatten(to_dict(config)), free)
    return config, checkpoint


def started_with(checkpoint: Checkpoint, out: Path, read: Callable[[Path], C], free: Collection[str]) -> C:
    """The configuration in the folder `out`, or, where that is damaged, the one inside the checkpoint.

    Raises:
        ConfigError: a damaged file, and a checkpoint of an earlier version, which has none.
    """
    held = checkpoint.metadata.get("config")
    try:
        own = read(out / CONFIG)
        if held is None or _bound(to_dict(own), free) == _bound(held, free):
            return own
        why = "is not what the run was started with"
    except ConfigError as e:
        if held is None:
            raise
        why = e.message
    log.warning("%s: %s; the configuration inside the checkpoint is taken", out / CONFIG, why)
    with tempfile.TemporaryDirectory() as folder:
        write_toml(Path(folder) / CONFIG, held)
        return read(Path(folder) / CONFIG)


def _bound(config: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key not in free}


def save_and_stop(signals: StopSignals, save: Callable[[], None], out: Path, updates: int) -> None:
    """Save and raise TrainingInterrupted when a signal has come."""
    if signals.received is not None:
        save()
        raise TrainingInterrupted(signals.received, out, updates)


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every global generator (torch's of each device, numpy, python) as tensors and JSON."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the global one is meant
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return tensors, {"numpy": [int(position), int(has_gauss), float(gauss)], "python": random.getstate()}


def set_random_state(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Undo `random_state`; the states of devices that are not here are left out."""
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            # Checkpoints of earlier versions have one state, that of the device in use.
            state = tensors.get(f"cuda{i}", tensors.get("cuda") if i == torch.cuda.current_device() else None)
            if state is not None:
                torch.cuda.set_rng_state(state, i)
    if torch.backends.mps.is_available() and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *metadata["numpy"]))  # noqa: NPY002
    version, internal, gauss = metadata["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_everything(seed: int) -> None:
    """Seed every global generator that `random_state` saves."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
