"""`nextvec`: the verbs, and what every verb shares.

This module imports neither torch, numpy nor pydantic: `nextvec --help` must answer at once. A verb's own
module is imported when the verb is used, and torch only when its work starts.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from nextvec.errors import ConfigError, NextvecError
from nextvec.version import __version__

VERBS = {
    "ingest": "Documents (or vectors you already have) into a store.",
    "info": "What a store holds.",
    "delete": "Delete documents of a store.",
    "compact": "Remove deleted and replaced documents from a store's files.",
    "export-npz": "A store's windows as the NPZ of earlier tools.",
    "models": "The architectures, their sizes and how they stream.",
    "train": "Train one model on a store.",
    "ensemble": "Mix runs with each other and with baselines.",
    "evaluate": "Evaluate a run, or the baselines alone, on documents it never saw.",
    "metrics": "Explain every figure that an evaluation prints or writes.",
    "matrix": "Train and evaluate many models under one protocol.",
    "compare": "Print the table of a finished matrix again.",
    "report": "Figures, tables and one page of a matrix or a run.",
    "card": "Write the model card of a run.",
    "sweep": "Tune models on validation: many short runs, the bad ones stopped early.",
    "export": "Write a run for a faster engine: ONNX or OpenVINO, fp32, bf16 or int8.",
    "prune": "Make a run smaller: whole units or single weights out, then train on a little.",
    "bench": "How fast and in how much memory: nextvec bench inference.",
    "diagnose": "Find out what is wrong with data, a model or a run.",
    "predict": "Read a text and predict what comes next: nearest passages, decoded text, confidence.",
    "rollout": "Continue a text step by step in vector space.",
    "retrieve": "Find the passages that come next, or compare ways of finding them.",
    "index": "List or drop what searches hold in a database.",
    "serve": "Models behind HTTP, with a page to try them on.",
    "surprise": "How unexpected each chunk of a text is, and where its topics change.",
    "decoder": "Decoders from vectors to text: train one, evaluate them, set one up.",
    "verify": "Reload a run in a fresh process and reproduce the figures saved with it.",
    "doctor": "Check every file of a store, run, matrix, decoder or export, and say what can be saved.",
    "selfcheck": "Test metrics and guards in synthetic worlds and on injected faults whose truth is known.",
    "demo": "The whole main job on a small English Wikipedia, in minutes.",
}

BESIDE = {
    "demo": "matrix",
    "bench": "export",
    "doctor": "verify",
    "index": "retrieve",
    "info": "models",
    "prune": "export",
    "sweep": "train",
    "delete": "ingest",
    "compact": "ingest",
    "export-npz": "export",
    "ensemble": "evaluate",
    "metrics": "evaluate",
    "compare": "matrix",
    "card": "report",
    "rollout": "predict",
    "selfcheck": "verify",
}
"""Verbs that stand in the file of another; the others have one of their own name."""

REMOTE_OUT = ("ingest", "train")
HERE_ONLY = ("card", "compact", "delete", "doctor", "prune", "surprise")
"""Verbs whose --out may be an address in an object store, and verbs that write to what they are given."""

app = App(
    name="nextvec",
    help="Train and evaluate models that read a document as a sequence of embedding vectors "
    "and predict the next one.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
for verb, summary in VERBS.items():
    app.command(f"nextvec.cli.{BESIDE.get(verb, verb)}:{verb.replace('-', '_')}", name=verb, help=summary)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 our fault, 2 bad input or arguments, 128 + n after signal n."""
    # The tokenizers' fork warning and its threads are of no use here, and no verb may call home.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character of some text shows ? for it.
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("nextvec").setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    try:
        with _fetched(sys.argv[1:] if arguments is None else arguments) as at_hand:
            app(at_hand, exit_on_error=False, print_error=False, result_action="return_value")
        sys.exit(0)
    except CycloptsError as error:
        verb = " ".join(["nextvec", *(error.command_chain or ())])
        _fail(f"{str(error).rstrip('., ')}; see `{verb} --help`")
    except NextvecError as error:
        if error.exit_code == 2:
            _fail(str(error))
        # A run stopped by a signal has its own exit code, and nothing went wrong.
        print(f"nextvec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nextvec: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `nextvec ... | head` closed our output; the shell's convention for that is silence.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # The disk, not our code: a folder in a file's place, no rights, no space left.
        where = error.filename2 or error.filename or "file system"
        _fail(f"{where}: {error.strerror or error}; check the path, its rights and the space left")


@contextmanager
def _fetched(arguments: Sequence[str]) -> Iterator[Sequence[str]]:
    """The arguments with folders of this machine in place of addresses in object stores; what is made in that
    of --out is put there afterwards."""
    if not any("://" in argument for argument in arguments):
        yield arguments
        return
    from nextvec.remote import fetch, is_remote, written

    verb, found = arguments[0], []
    with ExitStack() as stack:
        for before, argument in zip(["", *arguments], arguments, strict=False):
            apart = argument.partition("=") if argument[:2] == "--" else (before, "", argument)
            option, equals, value = apart
            if is_remote(value):
                out = option == "--out"
                if verb in HERE_ONLY or (out and verb not in REMOTE_OUT):
                    message = f"`nextvec {verb}` writes to folders of this machine"
                    raise ConfigError(message, where=value, remedy="copy it there")
                value = str(stack.enter_context(written(value)) if out else fetch(value))
                argument = f"{option}={value}" if equals else value
            found.append(argument)
        yield found


def _fail(message: str) -> NoReturn:
    print(f"nextvec: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"nextvec: warning: {message}", file=sys.stderr)
