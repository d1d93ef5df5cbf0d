"""What every architecture owes. A new file in models/architectures/ is tested here without a line added."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.lab import CHUNK, MODELS, every_architecture, every_file, make, run_chunks, run_steps, vectors
from nextvec.models import registry
from nextvec.models.base import NextVectorModel, clone_state
from nextvec.models.saving import save_model

ROOT = Path(__file__).parents[2]


@every_architecture
@pytest.mark.parametrize("length", [1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 257])
@torch.inference_mode()
def test_parallel_chunked_and_step_agree(name: str, length: int) -> None:
    model, x = make(name), vectors(2, length)
    parallel = model(x).raw
    assert parallel.shape == x.shape
    torch.testing.assert_close(run_chunks(model, x, CHUNK), parallel, rtol=0, atol=1e-5)
    torch.testing.assert_close(run_steps(model, x)[0], parallel, rtol=0, atol=1e-5)


@every_architecture
@torch.inference_mode()
def test_steps_go_on_from_a_chunk(name: str) -> None:
    model, x = make(name), vectors(2, 12)
    first, state = model.extend(x[:, :7], model.init_state(2))
    rest, _ = run_steps(model, x[:, 7:], state)
    torch.testing.assert_close(torch.cat((first.raw, rest), 1), model(x).raw, rtol=0, atol=1e-5)


@every_architecture
@pytest.mark.parametrize("known", [1, 5, 16])
@torch.inference_mode()
def test_the_future_changes_nothing(name: str, known: int) -> None:
    model, x = make(name, torch.float64), vectors(2, 24, torch.float64)
    other = x.clone()
    other[:, known:] = 10 * vectors(2, 24 - known, torch.float64, seed=2)
    before, after = model(x).raw, model(other).raw
    moved = (after[:, :known] - before[:, :known]).abs().max()
    assert moved <= 1e-10 * before[:, :known].abs().max()
    assert (after[:, known:] - before[:, known:]).abs().max() > 1e-3  # the change itself was seen


def assert_causal_in_training(model: NextVectorModel, known: int) -> None:
    """What training sees of the predictions before `known` depends on nothing after it: neither on the
    vectors that follow nor on the targets, which training hands over as well."""
    x = vectors(2, 25, torch.float64)
    other = x.clone()
    other[:, known:] = 10 * vectors(2, 25 - known, torch.float64, seed=2)
    mask = torch.ones(2, 24, dtype=torch.bool)
    found = []
    for given in (x, other):
        torch.manual_seed(3)  # what a diffusion draws is the same in both
        found.append(model.train().learn(given[:, :-1], None, given[:, 1:], mask)[0].raw)
    before, after = (raw[:, :known] for raw in found)
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()
    assert (found[1] - found[0])[:, known:].abs().max() > 1e-3  # the change itself was seen


@every_architecture
@pytest.mark.parametrize("known", [1, 5, 16])
@torch.no_grad()
def test_the_future_changes_nothing_while_training(name: str, known: int) -> None:
    without_dropout = {"dropout": 0.0} if hasattr(make(name).config, "dropout") else {}
    assert_causal_in_training(make(name, torch.float64, **without_dropout), known)


@pytest.mark.parametrize("known", [1, 5, 16])
@torch.no_grad()
def test_a_model_that_reads_the_next_vector_only_while_training_is_found(
    known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("lstm", torch.float64, dropout=0.0)
    encode = type(model).encode

    def leaky(self: NextVectorModel, x: Tensor) -> Tensor:
        return encode(self, x.roll(-1, 1) if self.training else x)

    monkeypatch.setattr(type(model), "encode", leaky)
    x = vectors(2, 24, torch.float64)
    torch.testing.assert_close(model(x).raw[:, :5], model(x[:, :5]).raw)  # in eval mode nothing shows
    with pytest.raises(AssertionError):
        assert_causal_in_training(model, known)


@every_architecture
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_and_the_rest_of_the_batch_change_nothing(name: str, garbage: float) -> None:
    model, lengths = make(name), torch.tensor([3, 9, 1])
    x = vectors(3, 9)
    padding = torch.arange(9) >= lengths[:, None]
    padded = x.masked_fill(padding[..., None], garbage)
    raw = model(padded, lengths).raw
    for row, length in enumerate(lengths.tolist()):
        alone = model(x[row : row + 1, :length]).raw[0]
        torch.testing.assert_close(raw[row, :length], alone, rtol=0, atol=1e-5)
    raw[~padding].square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@every_architecture
def test_every_parameter_learns(name: str) -> None:
    model, x = make(name).train(), vectors(4, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        (model(x[:, :-1]).raw - x[:, 1:]).square().mean().backward()
        last = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    assert last.keys() == {key for key, _ in model.named_parameters()}
    assert set(model.no_gradient) <= last.keys()
    for key, gradient in last.items():
        assert gradient.isfinite().all(), key
        if key in model.no_gradient:
            assert gradient.abs().max() < 1e-6, f"{key} is declared to have no gradient"
            assert len(model.no_gradient[key]) > 10, "a declaration comes with its reason"
        else:
            assert gradient.abs().max() > 1e-7, key


@every_architecture
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    exact, x = make(name, torch.float64), vectors(2, 9)
    model = make(name, dtype)
    prediction = model(x)  # float32 input: brought to the model's dtype
    assert prediction.raw.dtype == prediction.unit.dtype == dtype
    error = (prediction.raw - exact(x).raw).norm() / exact(x).raw.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-5)
    prediction.raw.square().sum().backward()
    with torch.inference_mode():
        steps, state = run_steps(model, x)
    assert steps.dtype == dtype
    assert ((steps - prediction.raw).norm() / prediction.raw.norm()) < (
        0.05 if dtype == torch.bfloat16 else 1e-5
    )
    assert all(value.isfinite().all() for value in state.values() if value.numel() < 10**4)


@every_architecture
def test_autocast_to_bfloat16(name: str) -> None:
    model, x = make(name), vectors(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(x)
    assert prediction.raw.dtype == torch.float32
    assert (prediction.raw - model(x).raw).norm() < 0.05 * model(x).raw.norm()
    prediction.raw.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@every_architecture
@torch.inference_mode()
def test_only_declared_caches_grow(name: str) -> None:
    model = make(name)
    x = vectors(1, 508)
    state, sizes = model.init_state(1), {}
    for read in (16, 4096):  # by 16 steps, eight chunks and 16 steps again: steps alone take seconds
        if read == 4096:
            for _ in range(8):
                _, state = model.extend(x, state)
        for t in range(16):
            _, state = model.step(x[:, t], state)
        sizes[read] = {key: value.numel() * value.element_size() for key, value in state.items()}
    assert sizes[16].keys() == sizes[4096].keys()
    grown = {key for key in sizes[16] if sizes[4096][key] != sizes[16][key]}
    caches = {key for key in sizes[16] if key.startswith(model.caches)} if model.caches else set()
    if model.streaming == "constant":
        assert not caches
    if model.streaming in ("constant", "buffer"):
        assert not grown
    else:
        assert grown
        assert grown <= caches


@every_architecture
def test_a_step_never_calls_the_parallel_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(name), vectors(2, 6)
    expected = model(x).raw

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("step called the parallel form")

    monkeypatch.setattr(type(model), "forward", refuse)
    monkeypatch.setattr(type(model), "encode", refuse)
    with torch.inference_mode():
        torch.testing.assert_close(run_steps(model, x)[0], expected, rtol=0, atol=1e-5)


@every_architecture
@torch.inference_mode()
def test_a_cloned_state_goes_its_own_way(name: str) -> None:
    model, x, other = make(name), vectors(1, 8), vectors(1, 8, seed=3)
    other[:, :4] = x[:, :4]
    states = {"x": run_steps(model, x[:, :4])[1]}
    states["other"] = clone_state(states["x"])
    for t in range(4, 8):  # in turns, so that a shared cache would be overwritten before it is read again
        for key, vector in (("x", x), ("other", other)):
            prediction, states[key] = model.step(vector[:, t], states[key])
            torch.testing.assert_close(prediction.raw, model(vector).raw[:, t], rtol=0, atol=1e-5)


@every_architecture
@torch.inference_mode()
def test_scale_is_the_unit_of_measure(name: str) -> None:
    model, x = make(name), vectors(2, 7)
    raw = model(x).raw
    model.scale.mul_(100)
    torch.testing.assert_close(model(100 * x).raw, 100 * raw, rtol=1e-4, atol=1e-3)


@every_architecture
@torch.inference_mode()
def test_unit_has_length_one(name: str) -> None:
    model = make(name)
    prediction = model(vectors(2, 7))
    torch.testing.assert_close(prediction.unit.norm(dim=-1), torch.ones(2, 7))
    cosine = (prediction.unit * prediction.raw).sum(-1) / prediction.raw.norm(dim=-1)
    torch.testing.assert_close(cosine, torch.ones(2, 7))


def test_golden_output_in_a_fresh_process(tmp_path: Path) -> None:
    for name in MODELS:
        save_model(tmp_path / name.replace("/", "+"), make(name), {"encoder": {"name": "test"}})
    code = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from nextvec.models.saving import load_model
off = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model, info = load_model(folder)
    golden = load_file(folder / "golden.safetensors")
    assert info["architecture"] == folder.name.partition("+")[0] and info["encoder"] == {"name": "test"}
    off[folder.name] = float((model(golden["input"]).raw - golden["raw"]).abs().max())
print(json.dumps(off))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    off = json.loads(done.stdout)
    assert off.keys() == {name.replace("/", "+") for name in MODELS}
    assert max(off.values()) <= 1e-6, off


@every_file
def test_the_header_names_source_deviations_and_parity(name: str) -> None:
    header = importlib.import_module(registry.get(name).__module__).__doc__ or ""
    assert "Paper:" in header or "Source:" in header, "the header names its Paper: or Source:"
    assert "Deviations:" in header, "the header names its Deviations:"
    parity = header.partition("Parity:")[2].partition("(tests/")[2].partition(")")[0]
    assert parity, "the header names the parity test"
    assert (ROOT / "tests" / parity).is_file(), f"write tests/{parity}"


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    return registry.describe()


@every_file
def test_small_is_small_and_counted_on_the_meta_device(name: str, table: list[dict[str, Any]]) -> None:
    rows = {row["preset"]: row for row in table if row["name"] == name}
    assert {"small", "brief"} <= rows.keys()
    assert rows["small"]["parameters"] < 3_000_000
    built = registry.build(name, "small", 768)
    assert rows["small"]["parameters"] == sum(p.numel() for p in built.parameters())
