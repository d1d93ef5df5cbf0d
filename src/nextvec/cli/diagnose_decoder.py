"""`nextvec diagnose decoder`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, output
from nextvec.cli.decoder_evaluate import (
    DecoderEvaluateFlags,
    DecoderStore,
    Device,
    RunFolder,
    bench_of,
    describe,
)
from nextvec.cli.texts import EncoderFlags
from nextvec.cli.verdicts import Strict, finish


def diagnose_decoder(
    decoder: Annotated[
        str, Parameter(help="nearest (among training chunks), a decoder's folder, or vec2text:FOLDER.")
    ],
    *,
    store: DecoderStore,
    run: RunFolder = None,
    flags: DecoderEvaluateFlags | None = None,
    encoder: EncoderFlags | None = None,
    device: Device = "cpu",
    strict: Strict = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Find where text -> vector -> model -> vector -> text breaks: the A/B/C/D test.

    The decoder gets four kinds of vectors of the same held-out chunks: A the encoder's, B those at unit
    length, C the run's raw output, D its unit output. Without a run, A and B. Does it need raw lengths (A
    against B), does it know what the model says (C against A), which output is to be sent (C against D)?

    The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    with bench_of([decoder], store, run, flags, encoder, device, quiet=quiet) as (bench, [opened], judged):
        from nextvec.experiments.decoder_abcd import diagnose_decoder

        found = diagnose_decoder(bench, opened, judged)
    output(describe(found), found.to_json(), json)
    finish(found.verdicts(), strict=strict)
