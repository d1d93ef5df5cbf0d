"""The judge of decoders, on decoders and runs whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from known_decoders import NOISE, Blind, Constant, Mean, Oracle, RawOnly, Run, reader_of
from nextvec.corpus.store import Store
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.trained import TrainedOn
from nextvec.decoding.base import Decoder
from nextvec.diagnostics.sections import Verdict
from nextvec.errors import DecoderError, EncoderMismatchError, EvaluationError, LeakError, SplitError
from nextvec.experiments.decoder_abcd import DecoderDiagnosis, diagnose_decoder
from nextvec.experiments.decoder_scores import DecoderReport, evaluate_decoders
from nextvec.experiments.decoder_trial import DecoderSelection, HeldOutChunks, lay_out, opened

DIVISION = SplitConfig(test=0.5, near_duplicate=1.0)
EXAM = DecoderSelection(division=DIVISION)


@pytest.fixture(scope="module")
def store(make_world: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Raw vectors, with lengths about 1 but not 1."""
    return make_world(tmp_path_factory.mktemp("decoders") / "store", normalised=False)


@pytest.fixture(scope="module")
def split(store: Store) -> Split:
    return split_documents(store, DIVISION)


@pytest.fixture(scope="module")
def bench(store: Store, split: Split) -> HeldOutChunks:
    return lay_out(store, reader_of(store), EXAM, split, quiet=True)


@pytest.fixture(scope="module")
def report(bench: HeldOutChunks, store: Store, split: Split) -> DecoderReport:
    decoders = [Oracle(store), Constant(store), Blind(store)]
    return evaluate_decoders(bench, decoders, Run(store, split))[0]


def verdict(found: DecoderDiagnosis, name: str) -> Verdict:
    return next(v for v in found.verdicts() if v.name == name)


def test_one_chunk_of_each_held_out_document_is_evaluated(
    bench: HeldOutChunks, store: Store, split: Split
) -> None:
    assert sorted(bench.windows.document.tolist()) == sorted(split.test)
    assert bench.splits == {"test": len(split.test)}
    held = [store.documents[i] for i in bench.windows.document]
    places = [row - d.first for row, d in zip(bench.windows.target, held, strict=True)]
    assert all(5 <= place < d.count for place, d in zip(places, held, strict=True))
    assert len(set(places)) > 2
    assert bench.truths == store.texts(bench.windows.target)


def test_the_control_is_never_the_chunk_itself(bench: HeldOutChunks) -> None:
    assert sorted(bench.others) == list(range(len(bench)))
    assert (bench.others != np.arange(len(bench))).all()


def test_the_next_split_fills_up_what_the_first_lacks(store: Store, split: Split) -> None:
    few = replace(EXAM, splits=("validation", "test"), documents=len(split.validation) + 3)
    bench = lay_out(store, reader_of(store), few, split, quiet=True)
    assert bench.splits == {"validation": len(split.validation), "test": 3}
    assert set(bench.windows.document) & set(split.validation) == set(split.validation)
    only = lay_out(store, reader_of(store), replace(few, documents=2), split, quiet=True)
    assert only.splits == {"validation": 2}


def test_the_same_seed_draws_the_same_chunks(store: Store, split: Split, bench: HeldOutChunks) -> None:
    again = lay_out(store, reader_of(store), EXAM, split, quiet=True)
    other = lay_out(store, reader_of(store), replace(EXAM, seed=1), split, quiet=True)
    np.testing.assert_array_equal(again.windows.target, bench.windows.target)
    assert (np.sort(other.windows.target) != np.sort(bench.windows.target)).any()


def test_the_true_texts_are_perfect(report: DecoderReport) -> None:
    truth = report.decoded[0]
    assert (truth.how, truth.bleu, truth.copied) == ("true", pytest.approx(100), 0)
    assert truth.cosine.value == pytest.approx(1, abs=1e-5)
    assert truth.token_f1.value == 1
    assert truth.gibberish.value == 0


def test_the_oracle_is_as_good_as_the_truth_and_far_above_its_control(report: DecoderReport) -> None:
    _, oracle, control, *_ = report.decoded
    assert oracle.name == "oracle"
    assert oracle.cosine.value == pytest.approx(1, abs=1e-5)
    assert (oracle.token_f1.value, oracle.bleu, oracle.copied) == (1, pytest.approx(100), 0)
    assert oracle.over_control is not None
    assert oracle.over_control.cosine.low is not None
    assert oracle.over_control.cosine.low > 0.5
    assert oracle.over_control.cosine.value == pytest.approx(oracle.cosine.value - control.cosine.value)
    assert abs(control.cosine.value) < 0.3
    assert control.how == "shuffled"


def test_the_constant_is_its_own_control_and_gibberish(report: DecoderReport) -> None:
    constant = report.decoded[3]
    assert constant.over_control is not None
    gain = constant.over_control.cosine
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert constant.gibberish.value == 1
    assert constant.unknown == 1
    levels = {(v.name, v.level) for v in report.verdicts() if v.text.startswith("constant")}
    assert levels == {("decoded", "red"), ("gibberish", "red")}


def test_the_blind_one_is_like_its_control(report: DecoderReport) -> None:
    blind = report.decoded[5]
    assert blind.over_control is not None
    assert blind.over_control.cosine.low is not None
    assert blind.over_control.cosine.high is not None
    assert blind.over_control.cosine.low < 0 < blind.over_control.cosine.high
    assert blind.copied > 0
    levels = {(v.name, v.level) for v in report.verdicts() if v.text.startswith("blind")}
    assert levels == {("decoded", "red"), ("copied", "warning")}


def test_behind_a_run_that_knows_the_law_the_oracle_tells_what_comes_next(report: DecoderReport) -> None:
    assert (report.run, len(report.pipeline)) == ("law", 6)
    assert report.prediction is not None
    assert 0.9 < report.prediction.value < 1
    oracle = report.pipeline[0]
    assert oracle.name == "law > oracle"
    assert oracle.token_f1.value > 0.9
    assert oracle.cosine.value > 0.95
    # the text is a real chunk, so it is not just the prediction
    assert oracle.given.value < oracle.cosine.value
    assert oracle.over_control is not None
    assert oracle.over_control.cosine.clear


def test_the_report_is_json_without_texts_and_prints(
    report: DecoderReport, bench: HeldOutChunks, store: Store
) -> None:
    output = json.dumps(report.to_json(), allow_nan=False)
    assert not any(text in output for text in bench.truths)
    lines = "\n".join(report.lines())
    assert f"{len(bench)} chunks of as many documents ({len(bench)} test)" in lines
    assert "law > oracle, shuffled" in lines
    _, examples = evaluate_decoders(bench, [Constant(store)])
    assert [e.truth for e in examples] == bench.truths
    assert all(e.texts == {"constant": NOISE} for e in examples)


def test_nearest_finds_training_chunks_only(store: Store) -> None:
    with opened(["nearest"], store, reader_of(store), EXAM, quiet=True) as (bench, decoders):
        report, examples = evaluate_decoders(bench, decoders)
    row = report.decoded[1]
    assert (row.name, row.how, row.copied) == ("nearest", "retrieved", len(bench))
    assert row.unknown == 0
    assert not {e.texts["nearest"] for e in examples} & set(bench.truths)
    assert row.cosine.value < 0.99
    # what is looked up is copied by nature, and that is no fault
    assert "copied" not in {v.name for v in report.verdicts()}


def test_documents_that_a_decoder_learned_from_are_refused(store: Store, split: Split) -> None:
    class Taught(Oracle):
        trained_on = TrainedOn.of(store, split.test)

    with pytest.raises(LeakError, match="stand in training"):
        lay_out(store, reader_of(store), EXAM, split, [Taught.trained_on], quiet=True)
    with pytest.raises(LeakError, match="stand in training"):
        lay_out(store, reader_of(store), replace(EXAM, splits=("train",)), split, quiet=True)


def test_a_run_brings_its_division(store: Store, split: Split) -> None:
    run = Run(store, split)
    selection = replace(EXAM, division=None)
    with opened(["nearest"], store, reader_of(store), selection, run, quiet=True) as (bench, _):
        assert sorted(bench.windows.document.tolist()) == sorted(split.test)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"splits": ("nowhere",)}, SplitError, "there is no split 'nowhere'"),
        ({"context": 50}, Exception, "no window of 50 chunks"),
        ({"sources": ("moon",)}, SplitError, "no document of source 'moon'"),
    ],
)
def test_an_exam_that_cannot_be_is_refused(
    store: Store, change: dict[str, object], error: type[Exception], says: str
) -> None:
    with (
        pytest.raises(error, match=says),
        opened(["nearest"], store, reader_of(store), replace(EXAM, **change), quiet=True),
    ):
        pytest.fail("was opened")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"documents": 1}, "leave nothing to shuffle"), ({"splits": ()}, "not splits to evaluate")],
)
def test_an_exam_of_nothing_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises((EvaluationError, SplitError), match=says):
        replace(EXAM, **change)


def test_a_run_of_another_encoder_or_task_is_refused(store: Store, split: Split) -> None:
    class Filler(Run):
        task = "middle"

    class Stranger(Run):
        def __init__(self, *arguments: object) -> None:
            super().__init__(store, split)
            self.encoder = "another"

    for cls, error, says in (
        (Filler, EvaluationError, "fills gaps"),
        (Stranger, EncoderMismatchError, "fingerprints differ"),
    ):
        with (
            pytest.raises(error, match=says),
            opened(["nearest"], store, reader_of(store), EXAM, cls(store, split), quiet=True),
        ):
            pytest.fail("was opened")


def test_a_name_that_is_no_decoder_is_refused(store: Store, tmp_path: Path) -> None:
    with (
        pytest.raises(DecoderError, match="is not a decoder"),
        opened(["nearest", str(tmp_path)], store, reader_of(store), EXAM, quiet=True),
    ):
        pytest.fail("was opened")


# The A/B/C/D test.


def diagnosed(bench: HeldOutChunks, decoder: Decoder, run: Run | None = None) -> DecoderDiagnosis:
    return diagnose_decoder(bench, decoder, run)


def test_of_an_oracle_everything_is_well(bench: HeldOutChunks, store: Store, split: Split) -> None:
    found = diagnosed(bench, Oracle(store), Run(store, split))
    assert list(found.cases) == ["A", "B", "C", "D"]
    assert list(found.controls) == ["A", "C"]
    assert found.lengths.value == 0
    assert {v.name: v.level for v in found.verdicts()} == {
        "decoder": "ok",
        "lengths": "ok",
        "distribution": "note",  # it says real chunks, which no prediction is quite
        "unit output": "ok",
        "next": "ok",
        "stages": "note",
        "gibberish": "ok",
    }
    assert "the model loses more" in verdict(found, "stages").text
    assert "does not mind lengths" in verdict(found, "lengths").text


def test_a_decoder_that_needs_raw_lengths_is_found_out(
    bench: HeldOutChunks, store: Store, split: Split
) -> None:
    found = diagnosed(bench, RawOnly(store), Run(store, split))
    assert [found.cases[k].gibberish.value for k in "ABCD"] == [0, 1, 0, 1]
    assert verdict(found, "lengths").level == "note"
    assert "the decoder needs raw lengths: unit vectors (B) lose" in verdict(found, "lengths").text
    assert "the raw output is the one to decode" in verdict(found, "unit output").text
    assert verdict(found, "gibberish") == Verdict(
        "gibberish",
        "note",
        "gibberish: A 0.0 %, B 100.0 %, C 0.0 %, D 100.0 %; of the true texts 0.0 %",
    )


def test_a_decoder_that_says_nothing_of_the_vector_is_red(
    bench: HeldOutChunks, store: Store, split: Split
) -> None:
    found = diagnosed(bench, Constant(store), Run(store, split))
    levels = {v.name: v.level for v in found.verdicts()}
    assert (levels["decoder"], levels["next"], levels["gibberish"]) == ("red", "red", "red")
    assert "its texts do not depend on the vector" in verdict(found, "decoder").text
    assert "the decoder loses more" in verdict(found, "stages").text


def test_a_run_that_says_one_thing_does_not_tell_what_comes_next(
    bench: HeldOutChunks, store: Store, split: Split
) -> None:
    found = diagnosed(bench, Oracle(store), Mean(store, split))
    assert verdict(found, "decoder").level == "ok"
    assert verdict(found, "next").level == "red"
    assert verdict(found, "distribution").level == "warning"
    assert "is not in the decoder's distribution" in verdict(found, "distribution").text
    assert "do not match the encoder's" in verdict(found, "distribution").text
    assert found.model is not None
    assert found.model.moments.raw.std_ratio < 0.01


def test_lengths_of_the_predictions_are_told(bench: HeldOutChunks, store: Store, split: Split) -> None:
    whole, half = (diagnosed(bench, Oracle(store), Run(store, split, shrink)).model for shrink in (1, 0.5))
    assert whole is not None
    assert half is not None
    assert half.length == pytest.approx(whole.length / 2)
    assert whole.length == pytest.approx(1, abs=0.05)
    assert whole.moments.matched
    assert not half.moments.matched


def test_without_a_run_there_are_a_and_b(bench: HeldOutChunks, store: Store) -> None:
    found = diagnosed(bench, RawOnly(store))
    assert (list(found.cases), list(found.controls), found.model) == (["A", "B"], ["A"], None)
    assert [v.name for v in found.verdicts()] == ["decoder", "lengths", "gibberish"]
    assert "C and D need a run" in "\n".join(found.lines())


def test_a_store_of_unit_vectors_tells_nothing_of_lengths(world: Store) -> None:
    split = split_documents(world, DIVISION)
    found = diagnosed(lay_out(world, reader_of(world), EXAM, split, quiet=True), Oracle(world))
    assert found.unit_store
    assert "A and B are the same" in verdict(found, "lengths").text


def test_the_diagnosis_is_json_and_prints(bench: HeldOutChunks, store: Store, split: Split) -> None:
    found = diagnosed(bench, Oracle(store), Run(store, split))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(content["cases"]) == set("ABCD")
    assert content["cases"]["A"]["over_control"]["cosine"]["low"] > 0
    lines = "\n".join(found.lines())
    assert "C  model's raw output, shuffled" in lines
    assert "std ratio" in lines
