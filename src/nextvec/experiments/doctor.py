"""Every file of a folder that nextvec wrote, read and compared with its checksum, and what can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from nextvec.checkpoint import CONFIG, FILE, read_checkpoint
from nextvec.config import read_toml
from nextvec.corpus.layout import MANIFEST as STORE
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.decoding.base import MANIFEST as DECODER
from nextvec.decoding.inverter.folder import load_saved
from nextvec.disk import read_json, read_object
from nextvec.errors import RunError
from nextvec.evaluation.results import KEPT, KeptPredictions
from nextvec.evaluation.table import TABLE, read_table
from nextvec.experiments.matrix import PLAN
from nextvec.experiments.verify import Examination, Examined, examine_store, listed, look
from nextvec.inference.exported import MANIFEST as EXPORT
from nextvec.inference.exported import ExportedPredictor
from nextvec.inference.predictor import RESULT
from nextvec.models.saving import CONFIG as MODEL
from nextvec.models.saving import GOLDEN, WEIGHTS, load_model
from nextvec.training.config import read_config
from nextvec.training.history import HISTORY, read_history
from nextvec.training.loop import METRICS
from nextvec.training.session import ENVIRONMENT

FINAL = "final"
AGAIN = "go on with nextvec decoder train --resume, or train again"


def examine(folder: Path) -> Examination:
    """Check everything in a store, run, matrix, decoder or export.

    Raises:
        RunError: the folder is none of these, or not there.
    """
    if not folder.exists():
        raise RunError("no such file or folder", where=folder, remedy="correct the path")
    kinds: dict[str, Callable[[Path], Examination]] = {
        STORE: examine_store,
        EXPORT: _export,
        DECODER: _decoder,
        PLAN: _matrix,
        CONFIG: _run,
        MODEL: _run,
    }
    for name, examined in kinds.items():
        if (folder / name).is_file():
            return examined(folder)
    message = "is not a store, run, matrix, decoder or export"
    raise RunError(message, where=folder, remedy="give the folder of one of these")


def _run_files(folder: Path) -> Iterator[Examined]:
    readers: dict[str, Callable[[], object]] = {
        CONFIG: lambda: read_config(folder / CONFIG),
        ENVIRONMENT: lambda: read_object(folder / ENVIRONMENT, RunError, needs={}),
        TRAINED_ON: lambda: TrainedOn.load(folder / TRAINED_ON),
        HISTORY: lambda: read_history(folder),
        METRICS: lambda: read_object(folder / METRICS, RunError, needs=RESULT),
        str(FILE): lambda: read_checkpoint(folder),
    }
    for name, read in readers.items():
        if (folder / name).exists():
            yield look(folder / name, read)
    for place in (folder, folder / FINAL):
        if (place / MODEL).exists():
            yield from _model_files(place)


def _model_files(folder: Path) -> Iterator[Examined]:
    """config.json, weights and golden output are checked by loading the model, which uses all three."""
    found = [look(folder / name) for name in (WEIGHTS, GOLDEN)]
    yield from found
    if all(file.state != "DAMAGED" for file in found):
        yield look(folder / MODEL, lambda: load_model(folder))


def _run(folder: Path) -> Examination:
    files = list(_run_files(folder))
    bad = {str(Path(file.file).relative_to(folder)) for file in files if file.state == "DAMAGED"}
    return Examination(str(folder), files, list(_run_advice(folder, bad)))


def _run_advice(folder: Path, bad: set[str]) -> Iterator[str]:
    best, last = {MODEL, WEIGHTS, GOLDEN}, {f"{FINAL}/{name}" for name in (MODEL, WEIGHTS, GOLDEN)}
    if bad & best:
        if (folder / FINAL / WEIGHTS).is_file() and not bad & last:
            yield f"the best model is damaged; the last one is whole: use {folder / FINAL}"
        else:
            yield "the model is damaged: train again"
    elif bad & last:
        yield "the last model is damaged; the best one is whole"
    if str(FILE) in bad:
        yield "training cannot be resumed; the models that were saved can be used"
    elif bad and (folder / FILE).is_file() and bad & {CONFIG, ENVIRONMENT, TRAINED_ON}:
        yield "the checkpoint is whole: nextvec train STORE --resume writes configuration and lists anew"
    if bad & {HISTORY, METRICS}:
        yield "the model is not affected by a damaged history or result"


def _matrix(folder: Path) -> Examination:
    files = [look(folder / PLAN, lambda: read_toml(folder / PLAN))]
    if (folder / TABLE).is_file():
        files.append(look(folder / TABLE, lambda: read_table(folder)))
    if (folder / KEPT).is_file():
        files.append(look(folder / KEPT, lambda: KeptPredictions.read(folder / KEPT)))
    again = "the same nextvec matrix command writes table and answers anew from the runs that are whole"
    advice = _of(folder, files, again).advice
    for run in sorted(path.parent for path in (folder / "runs").glob(f"*/{CONFIG}")):
        found = _run(run)
        files += found.files
        advice += [f"{run.name}: {line}" for line in found.advice]
    return Examination(str(folder), files, advice)


def _decoder(folder: Path) -> Examination:
    whole = look(folder / DECODER, lambda: read_object(folder / DECODER, RunError, needs={"kind": str}))
    if whole.state == "DAMAGED":
        return _of(folder, [whole], AGAIN)
    if read_json(folder / DECODER, RunError)["kind"] != "inverter":
        raise RunError("is a decoder that was not trained here", where=folder, remedy="set it up again")
    files = [look(folder / name) for name in (WEIGHTS, GOLDEN)]
    files.append(look(folder / DECODER, lambda: load_saved(folder)))
    if (folder / FILE).is_file():
        files.append(look(folder / FILE, lambda: read_checkpoint(folder)))
    return _of(folder, files, AGAIN)


def _export(folder: Path) -> Examination:
    files = [look(folder / EXPORT, lambda: read_object(folder / EXPORT, RunError, needs={"files": dict}))]
    if files[0].state != "DAMAGED":
        held = sorted(read_json(folder / EXPORT, RunError)["files"].items())
        files = [look(folder / EXPORT, lambda: ExportedPredictor(folder))]
        files += [listed(folder / name, str(entry["sha256"])) for name, entry in held]
    return _of(folder, files, "export the run again")


def _of(folder: Path, files: list[Examined], advice: str) -> Examination:
    """With advice where anything is damaged."""
    bad = any(file.state == "DAMAGED" for file in files)
    return Examination(str(folder), files, [advice] if bad else [])
