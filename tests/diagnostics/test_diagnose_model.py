"""Predictors of known truth under the diagnosis: it must say of each what is true of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextvec.data.windows import Windows, make_windows
from nextvec.diagnostics.ablations import BEFORE_LAST, REPLACE, REVERSE, SHUFFLE, ablate
from nextvec.diagnostics.collapse import find_collapse, find_moments
from nextvec.diagnostics.failures import find_gap, find_sources
from nextvec.diagnostics.groups import find_calibration, find_shifts, gained
from nextvec.diagnostics.model import ModelDiagnosis, diagnose
from nextvec.diagnostics.sections import DiagnosisContext, prepare
from nextvec.diagnostics.standing import ORACLE, find_offsets, find_rollout
from nextvec.errors import EvaluationError
from nextvec.evaluation.baselines import BASELINES, CopyLast, LinearAverage
from nextvec.evaluation.baselines.simple import window_mean
from nextvec.evaluation.evaluation_set import EvaluationSet
from nextvec.evaluation.intervals import Estimate
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import make_pool
from nextvec.experiments.brief import checklist, loss_factor

D, DOCUMENTS, LENGTH, CONTEXT = 24, 30, 16, 4
TRAIN, TEST = range(12), range(12, 30)


class Bench:
    """A store of the noisy world with something common to all vectors, its windows and fitted baselines."""

    def __init__(self, path: Path, worlds: SimpleNamespace) -> None:
        vectors = worlds.noisy(np.random.default_rng(3), DOCUMENTS, LENGTH, D)
        vectors[:, :, 0] += 2.0
        self.worlds, self.documents = worlds, vectors
        sources = ["news" if d % 2 else "books" for d in range(DOCUMENTS)]
        self.store = worlds.store(path, vectors, sources=sources)
        self.train, self.test = (make_windows(self.store, d, CONTEXT) for d in (TRAIN, TEST))
        self.mean = window_mean(self.store.vectors, self.train)
        self.baselines = [cls(CONTEXT) for cls in BASELINES.values()]
        for baseline in self.baselines:
            baseline.fit(self.store.vectors, self.train, None)
        self.after = {
            row.tobytes(): document[min(i + 1, LENGTH - 1)]
            for document in vectors
            for i, row in enumerate(document)
        }

    def evaluation_set(self, windows: Windows | None = None) -> EvaluationSet:
        store, windows = self.store, self.test if windows is None else windows
        ranges = [(store.documents[i].first, store.documents[i].count) for i in TEST]
        return EvaluationSet(
            store.vectors, windows, make_pool(windows, store.vectors, ranges, store.texts), self.mean
        )

    def case(self, guess: Any, windows: Windows | None = None, **output: Any) -> DiagnosisContext:
        """A case of a predictor, or of a function of contexts and lengths that gives raw predictions."""
        model = guess if hasattr(guess, "predict") else self.worlds.FunctionPredictor(guess, **output)
        rows = np.arange(len(TRAIN) * LENGTH, dtype=np.int64)
        store = self.store
        return prepare(
            self.evaluation_set(windows), model, self.baselines, store.documents, store.texts,
            train_vectors=store.vectors, trained=rows,
        )  # fmt: skip

    @property
    def oracle(self) -> Any:
        return self.worlds.look_up(self.documents)

    def truth(self, contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What comes next; the last vector again where that is no chunk of the store."""
        return np.stack([self.after.get(row.tobytes(), row) for row in last(contexts, lengths)])


@pytest.fixture(scope="module")
def bench(worlds: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("diagnose") / "store", worlds)


def last(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return contexts[np.arange(len(lengths)), lengths - 1]


def mean(contexts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return contexts.sum(axis=1) / lengths[:, None]


def named(part: Any, name: str) -> Any:
    return next(v for v in part.verdicts() if v.name == name)


# ---------------------------------------------------------------- collapse and moments


def test_the_mean_vector_is_found_out(bench: Bench) -> None:
    case = bench.case(lambda c, n: np.repeat(bench.mean[None], len(n), axis=0))
    found = find_collapse(case.scores, case.best_scores)
    assert found.collapsed
    assert found.spread == pytest.approx(0, abs=1e-6)
    assert found.dimensions == pytest.approx(0, abs=1e-6)
    assert found.mean.prediction == pytest.approx(1)
    assert (
        found.mean.own
        == pytest.approx(found.cosine)
        == pytest.approx(case.summaries["mean vector"].cosine.mean())
    )
    assert found.mean.through == pytest.approx(found.cosine)
    assert not found.mean.beaten
    assert [(v.name, v.level) for v in found.verdicts()] == [("collapse", "red"), ("mean vector", "red")]
    moments = find_moments(case.scores, case.document)
    assert moments.raw.std_error == pytest.approx(1)
    assert moments.raw.above_floor == 0
    assert not moments.matched


def test_what_varies_and_knows_something_is_no_collapse(bench: Bench) -> None:
    case = bench.case(mean, context=CONTEXT)
    found = find_collapse(case.scores, case.best_scores)
    assert [v.level for v in found.verdicts()] == ["ok", "ok"]
    assert found.mean.beaten
    assert 0 < found.mean.through < found.cosine
    assert found.dimensions > 5


def test_predictions_along_one_line_are_named(bench: Bench) -> None:
    def line(c: np.ndarray, n: np.ndarray) -> np.ndarray:
        flat = mean(c, n).copy()
        flat[:, 2:] = 0
        return flat

    case = bench.case(line)
    found = find_collapse(case.scores, case.best_scores)
    assert not found.collapsed
    assert found.dimensions < 2 < found.dimensions_baseline
    assert named(found, "few directions").level == "warning"


def test_without_training_there_is_no_mean_vector(bench: Bench) -> None:
    case = bench.case(last)
    case.evaluation_set.train_mean = None
    found = find_collapse(case.scores, case.best_scores)
    assert found.mean is None
    assert "no mean vector" in found.lines()[-1]


def test_the_oracles_moments_are_the_encoders(bench: Bench) -> None:
    case = bench.case(bench.oracle)
    found = find_moments(case.scores, case.document)
    assert found.matched
    assert found.raw.distance == pytest.approx(0, abs=1e-9)
    assert found.raw.std_ratio == pytest.approx(1)
    assert found.unit.above_floor == found.encoder_unit.above_floor == 1
    assert 0 < found.floor < 0.5


def test_a_collapsed_spread_never_matches(bench: Bench) -> None:
    case = bench.case(lambda c, n: 0.6 * bench.truth(c, n))
    found = replace(find_moments(case.scores, case.document), floor=1.0)
    assert found.raw.std_ratio == pytest.approx(0.6, abs=0.01)
    assert found.raw.relative_distance < 2 * found.floor
    assert not found.matched


def test_unit_output_in_the_place_of_raw_is_seen_in_the_moments_only(bench: Bench) -> None:
    case = bench.case(lambda c, n: unit(bench.truth(c, n)))
    found = find_moments(case.scores, case.document)
    assert not found.matched
    assert found.raw.std_ratio == pytest.approx(
        1 / np.linalg.norm(case.evaluation_set.targets, axis=1).mean(), rel=0.1
    )
    assert found.unit.relative_distance == pytest.approx(0, abs=1e-6)
    assert case.cosine.mean() == pytest.approx(1)


# ---------------------------------------------------------------- context


def test_the_order_blind_average_loses_nothing_by_shuffling(bench: Bench) -> None:
    found = ablate(bench.case(mean, name="average", context=CONTEXT))
    for name in (SHUFFLE, BEFORE_LAST, REVERSE):
        cost = found.find(name).cost
        assert cost.value == pytest.approx(0, abs=1e-6)
        assert not cost.clear
    assert named(found, "order").text.startswith("does not use the order")
    assert found.find(REPLACE).cost.clear
    assert named(found, "context").level == "ok"


def test_copying_the_last_of_five_is_described_as_that(bench: Bench) -> None:
    case = bench.case(last, context=5)
    found = ablate(case)
    assert found.find(SHUFFLE).cost.clear
    assert found.find(BEFORE_LAST).cost.value == 0
    assert "only which chunk came last" in named(found, "order").text
    assert found.enough == 1
    assert found.kept[1].cost.value == 0
    # without the last chunk it copies the one before
    rows = bench.store.vectors
    targets, windows = case.evaluation_set.target_units, case.evaluation_set.windows
    before = (unit(rows[windows.last - 1]) * targets).sum(1).mean()
    assert found.dropped[0].cost.value == pytest.approx(case.cosine.mean() - before, abs=1e-6)
    assert all(found.dropped[age].cost.value == 0 for age in (1, 2, 3, 4))
    # so does copy-last, which is given one chunk only
    if case.best != CopyLast.name:
        assert found.dropped[0].baseline_cost.value != 0


def test_what_ignores_its_context_is_red(bench: Bench) -> None:
    found = ablate(bench.case(lambda c, n: np.repeat(bench.mean[None], len(n), axis=0)))
    assert found.find(REPLACE).cost.value == pytest.approx(0, abs=1e-6)
    assert named(found, "context").level == "red"
    assert found.enough == 1


def test_dropping_a_chunk_gives_the_next_older_one_in_its_place(bench: Bench) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(c: np.ndarray, n: np.ndarray) -> np.ndarray:
        seen.append((c.copy(), n.copy()))
        return last(c, n)

    case = bench.case(spy, bench.test.select(slice(3, 4)), context=3)
    seen.clear()
    found = ablate(case)
    window = case.evaluation_set.windows
    assert window.read[0] == CONTEXT + 3
    rows = bench.store.vectors[window.last[0] - 3 : window.last[0] + 1]
    without_second = rows[[0, 1, 3]]
    assert any(c.shape[1] >= 3 and np.array_equal(c[0, :3], without_second) and n[0] == 3 for c, n in seen)
    assert all(n.max() <= 3 for _, n in seen)
    assert found.find(REPLACE) is None, "there is one document only"


# ---------------------------------------------------------------- sequence


def test_offset_profiles_peak_where_they_must(bench: Bench) -> None:
    copying = find_offsets(bench.case(last, name="copies"))
    assert copying.peak("copies") == copying.peak(CopyLast.name) == -1
    assert copying.profiles["copies"][-1] == pytest.approx(1)
    assert copying.profiles["copies"] == pytest.approx(copying.profiles[CopyLast.name])
    oracle = find_offsets(bench.case(bench.oracle))
    assert oracle.peak("oracle") == oracle.peak(ORACLE) == 0
    assert oracle.profiles["oracle"] == pytest.approx(oracle.profiles[ORACLE])
    assert named(oracle, "offset profile").level == "ok"


def test_pointing_past_the_target_is_a_warning(bench: Bench) -> None:
    after = {r.tobytes(): doc[min(i + 2, LENGTH - 1)] for doc in bench.documents for i, r in enumerate(doc)}
    case = bench.case(lambda c, n: np.stack([after[r.tobytes()] for r in last(c, n)]))
    found = find_offsets(case)
    assert found.peak("told") == 1
    assert named(found, "offset profile").level == "warning"


def test_rollouts_stand_beside_the_baselines(bench: Bench) -> None:
    found = find_rollout(bench.case(last, name="copies"))
    own = found.paths["copies"]
    assert own.repetition == pytest.approx([1] * 4)
    assert own.cosine == pytest.approx(found.paths[CopyLast.name].cosine)
    assert "stands still" in found.verdicts()[0].text
    oracle = find_rollout(bench.case(bench.oracle))
    assert oracle.paths["oracle"].cosine == pytest.approx([1] * 5)
    assert oracle.gain.clear
    assert oracle.gain.value > 0


def test_documents_too_short_to_roll_out_are_said_so(bench: Bench) -> None:
    ends = np.flatnonzero(np.diff(np.append(bench.test.document, -1)))
    found = find_rollout(bench.case(last, bench.test.select(ends)))
    assert found.verdicts() == []
    assert found.lines() == ["No document goes on for long enough, or the horizon is above 1."]


# ---------------------------------------------------------------- where it gains and loses


def test_gains_at_topic_shifts_are_found_there(bench: Bench) -> None:
    plain = bench.case(mean, context=CONTEXT, name="plain")
    edge = float(np.quantile(plain.shift, 2 / 3))

    def knows_shifts(c: np.ndarray, n: np.ndarray) -> np.ndarray:
        average, truth = mean(c, n), bench.truth(c, n)
        shift = 1 - (unit(average) * unit(truth)).sum(1)
        return np.where((shift > edge)[:, None], truth, average)

    case = bench.case(knows_shifts, context=CONTEXT)
    found = find_shifts(case)
    goes_on, _, shifts = found.thirds
    assert (goes_on.name, shifts.name) == ("topic goes on", "topic shift")
    assert shifts.cosine.value == pytest.approx(1)
    assert shifts.gain.clear
    assert shifts.better == 1
    assert shifts.gain.value > 0.2 > abs(goes_on.gain.value)
    assert (
        sum(g.windows for g in found.thirds)
        == len(case.evaluation_set)
        == sum(g.windows for g in found.unrest)
    )
    # by construction every average is worst where the topic shifts: shown for the others, too
    assert found.others["linear average"][0] > found.others["linear average"][2]


def test_gains_losses_and_what_cannot_be_said_are_told_apart() -> None:
    assert gained(Estimate(0.02, 0.01, 0.03)) == "it gains .020 [.010, .030]"
    assert gained(Estimate(-0.629, -0.7, -0.5)) == "it loses .629 [.500, .700]"
    assert gained(Estimate(-0.163, -0.499, 0.172)) == "it is level (-.163 [-.499, .172])"
    assert gained(Estimate(-0.319, None, None)) == "it cannot be said (one document)"


def test_learning_by_heart_is_called_over_fitted(bench: Bench) -> None:
    known = bench.worlds.look_up(bench.documents[: len(TRAIN)])
    held = {row.tobytes() for row in bench.documents[: len(TRAIN)].reshape(-1, D)}

    def by_heart(c: np.ndarray, n: np.ndarray) -> np.ndarray:
        rows = last(c, n)
        recalled = [i for i, r in enumerate(rows) if r.tobytes() in held]
        out = mean(c, n)
        if recalled:
            out[recalled] = known.guess(c[recalled], n[recalled])
        return out

    others = {"train": (bench.store.vectors, bench.train)}
    found = find_gap(bench.case(by_heart, context=CONTEXT), "test", others)
    assert [s.name for s in found.splits] == ["train", "test"]
    assert found.find("train").in_sample
    assert found.find("train").cosine.value == pytest.approx(1)
    assert found.find("train").mse == pytest.approx(0, abs=1e-9)
    assert "over-fitted" in named(found, "train gap").text
    honest = find_gap(bench.case(mean, context=CONTEXT), "test", others)
    assert named(honest, "train gap").level == "ok"
    assert honest.find("test").cosine.value == pytest.approx(bench.case(mean, context=CONTEXT).cosine.mean())
    assert find_gap(bench.case(mean, context=CONTEXT), "test", {}).verdicts() == []


def test_sources_are_told_apart(bench: Bench) -> None:
    news = {r.tobytes() for d in TEST if d % 2 for r in bench.documents[d]}

    def knows_news(c: np.ndarray, n: np.ndarray) -> np.ndarray:
        truth, average = bench.truth(c, n), mean(c, n)
        of_news = np.array([r.tobytes() in news for r in last(c, n)])
        return np.where(of_news[:, None], truth, average)

    found = find_sources(bench.case(knows_news, context=CONTEXT), ("books",))
    books, of_news = found.sources
    assert (books.name, of_news.name) == ("books", "news")
    assert of_news.cosine.value == pytest.approx(1)
    assert books.cosine.value < 0.95
    assert found.trained == {"books": True, "news": False}
    assert named(found, "out of domain").level == "ok"
    assert "Out of domain: news." in found.lines()
    unknown = find_sources(bench.case(mean, context=CONTEXT), None)
    assert set(unknown.trained.values()) == {None}


# ---------------------------------------------------------------- calibration


def test_the_kalman_filter_knows_how_near_it_will_be(bench: Bench, worlds: SimpleNamespace) -> None:
    vectors = worlds.noisy(np.random.default_rng(5), 40, 24, 96)
    store = SimpleNamespace(documents=[SimpleNamespace(first=24 * i, count=24) for i in range(40)], path="s")
    evaluation_set = worlds.evaluation_set(vectors, context=4)
    linear = LinearAverage(4)

    def case(guess: Callable[..., np.ndarray]) -> DiagnosisContext:
        model = worlds.FunctionPredictor(guess)
        return prepare(evaluation_set, model, [linear], store.documents, lambda rows: [""] * len(rows))

    found = find_calibration(case(lambda c, n: worlds.kalman(c, n)))
    assert found.length.error < 0.03
    assert named(found, "calibration").text.startswith("well calibrated")
    assert sum(b.windows for b in found.length.bins) == len(evaluation_set)
    copied = find_calibration(case(last))
    assert named(copied, "calibration").text.startswith("over-confident")
    assert copied.length.error == pytest.approx(1 - case(last).cosine.mean(), abs=0.03)
    assert copied.agreement.bins[0].confidence == pytest.approx(1)
    small = find_calibration(case(lambda c, n: 0.01 * mean(c, n)))
    assert named(small, "calibration").text.startswith("under-confident")


def test_one_length_states_no_confidence(bench: Bench) -> None:
    found = find_calibration(bench.case(lambda c, n: unit(last(c, n))))
    assert found.constant
    assert "no confidence is stated" in found.verdicts()[0].text
    assert len(found.length.bins) == 1


# ---------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def of_oracle(bench: Bench) -> ModelDiagnosis:
    others = {"train": (bench.store.vectors, bench.train)}
    return diagnose(bench.case(bench.oracle), "test", others=others, sources=("books", "news"))


def test_the_oracle_has_nothing_to_be_blamed_for(of_oracle: ModelDiagnosis) -> None:
    d = of_oracle
    assert d.headline.startswith("oracle is better than the best baseline (")
    assert d.failures.failures == 0
    assert named(d.failures, "failures").level == "ok"
    assert {v.level for v in d.verdicts} == {"ok", "note"}
    assert d.standing.skill == pytest.approx(1)
    assert all(example.rank == 1 and example.nearest == example.target for example in d.examples.worst)
    assert {row.gain.value > 0 for row in d.sources.sources} == {True}


def test_the_json_is_complete_and_every_part_can_be_read(of_oracle: ModelDiagnosis) -> None:
    content = json.loads(json.dumps(of_oracle.to_json(), allow_nan=False))
    names = [
        "standing", "collapse", "moments", "ablations", "margin", "offsets", "rollout", "gap", "sources",
        "factors", "shifts", "failures", "calibration", "examples",
    ]  # fmt: skip
    assert list(of_oracle.parts) == names
    assert set(names) <= set(content)
    assert len(content["moments"]["raw"]["std"]) == D
    assert content["headline"] == of_oracle.headline
    assert len(content["verdicts"]) == sum(len(content[name]["verdicts"]) for name in names)
    for part in of_oracle.parts.values():
        assert part.title
        assert part.lines()
        assert all(isinstance(line, str) for line in part.lines())


def test_the_same_seed_gives_the_same_diagnosis(bench: Bench) -> None:
    one, two = (diagnose(bench.case(mean, context=CONTEXT), "test", seed=7).to_json() for _ in range(2))
    assert one == two
    other = diagnose(bench.case(mean, context=CONTEXT), "test", seed=8)
    assert other.to_json()["examples"]["random"] != one["examples"]["random"]
    assert other.to_json()["examples"]["worst"] == one["examples"]["worst"]


def test_a_single_document_has_figures_without_intervals(bench: Bench) -> None:
    one = bench.test.select(bench.test.document == TEST[0])
    found = diagnose(bench.case(mean, one, context=CONTEXT), "test")
    assert found.documents == 1
    assert found.standing.ahead.low is None
    assert "not distinguishable from the best baseline" in found.headline
    (verdict,) = found.shifts.verdicts()
    assert verdict.text.count("it cannot be said (one document)") == len(found.shifts.thirds)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_model_without_baselines_is_not_diagnosed(bench: Bench) -> None:
    model = bench.worlds.FunctionPredictor(last)
    with pytest.raises(EvaluationError, match="needs baselines"):
        prepare(bench.evaluation_set(), model, [], bench.store.documents, bench.store.texts)
    with pytest.raises(EvaluationError, match="other names"):
        prepare(bench.evaluation_set(), CopyLast(1), [CopyLast(1)], bench.store.documents, bench.store.texts)


# ---------------------------------------------------------------- checklist


def test_the_checklist_measures_what_it_can(of_oracle: ModelDiagnosis) -> None:
    metadata = {"bytes": 3 * 10**9, "seconds": 3 * 3600, "latency_p50_ms": 0.4}
    found = checklist(of_oracle, metadata, dimension=D)
    rows = {(c.criterion, c.required): c for c in found.criteria}
    assert rows["validation cosine", "> .60 (stretch)"].status == "met"
    assert rows["validation cosine", "> .60 (stretch)"].measured == "1.0000 (test)"
    assert not rows["validation cosine", "> .60 (stretch)"].enforced
    assert rows["training time", "< 4 h"].status == "met"
    assert rows["training time", "< 2 h"].status == "not met"
    assert rows["size on disk", "< 2 GB"].status == "not met"
    assert rows["real time", "< 1 ms a prediction"].status == "met"
    assert rows["beats the linear average", "clearly"].status == "met"
    assert rows["above its four baselines", "clearly"].status == "met"
    (loss,) = [row for row in found.criteria if row.required.startswith("< 0.001 (minimum), ")]
    assert loss.required.endswith(" for vectors as these")
    assert loss.status == "met"
    text = rows["coherent text through the decoder (5.1, 6.2)", "good, not gibberish"]
    assert (text.status, text.measured) == ("not measurable here", "")
    assert "decoder" in text.note
    assert all(c.note for c in found.criteria if c.status == "not measurable here")
    assert all(c.measured for c in found.criteria if c.status != "not measurable here")
    assert sum(found.count(s) for s in ("met", "not met", "not measurable here")) == len(found.criteria)
    json.dumps(found.to_json(), allow_nan=False)


def test_the_checklist_of_a_collapsed_model_and_of_an_unfinished_run(bench: Bench) -> None:
    d = diagnose(
        bench.case(lambda c, n: np.repeat(bench.mean[None], len(n), axis=0)), "test", sources=("books",)
    )
    found = checklist(d, {}, dimension=768)
    rows = {c.criterion: c for c in found.criteria}
    assert rows["no collapse to the mean vector"].status == "not met"
    assert rows["cosine above the mean vector's (1.2)"].status == "not met"
    assert rows["output diversity (6.2)"].status == "not met"
    assert rows["sigma > .01 in every dimension (y_cos)"].status == "not met"
    assert rows["above its four baselines"].status == "not met"
    assert rows["generalises to other domains"].status == "not met"
    assert rows["training time"].status == "not measurable here"
    assert rows["size on disk"].status == "not measurable here"
    assert any(c.required.startswith("< 0.0005 (stretch)") for c in found.criteria)


def test_the_baseline_that_decides_is_the_one_shown(of_oracle: ModelDiagnosis) -> None:
    def measured(**leads: Estimate) -> tuple[str, str]:
        rows = dict(of_oracle.standing.rows)
        for name, ahead in leads.items():
            rows[name.replace("_", " ")] = replace(rows[name.replace("_", " ")], ahead=ahead)
        found = checklist(
            replace(of_oracle, standing=replace(of_oracle.standing, rows=rows)), {}, dimension=D
        )
        row = next(c for c in found.criteria if c.criterion == "above its four baselines")
        return row.measured, row.status

    small = Estimate(0.0131, 0.0130, 0.0134)
    assert measured(linear_average=small) == ("linear average +.0131 [.0130, .0134]", "met")
    unclear = Estimate(0.2, -0.1, 0.5)
    shown = ("mean vector +.2000 [-.1000, .5000]", "not met")
    assert measured(linear_average=small, mean_vector=unclear) == shown


def test_the_briefs_losses_are_scaled_by_dimension_and_length() -> None:
    assert loss_factor(768, 1.0) == 1
    assert loss_factor(384, 1.0) == 2
    assert loss_factor(384, 2.8**2) == pytest.approx(15.68)


def test_a_raw_store_is_held_to_losses_of_its_own_length(bench: Bench) -> None:
    found = checklist(diagnose(bench.case(bench.truth, context=CONTEXT), "test"), {}, 384)
    squared = np.square(bench.evaluation_set().targets, dtype=np.float64).sum(axis=1).mean()
    requested = [c.required for c in found.criteria if c.required.startswith("< 0.001 (minimum)")]
    assert requested == [f"< 0.001 (minimum), {2e-3 * squared:.6f} for vectors as these"]
