"""Saving and loading: what was saved comes back, and whatever is damaged is named."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from by_hand import by_hand
from nextvec.errors import ModelError, RunError
from nextvec.models import registry, saving
from nextvec.models.architectures.gru import GRU
from nextvec.models.architectures.lstm import LSTM
from nextvec.models.base import NextVectorModel
from nextvec.models.ops.parameters import hints_of
from nextvec.models.saving import code_version, load_model, save_model

FULL = {"d_embed": 8, "hidden": 6, "layers": 2, "dropout": 0.2, "head": "projection", "residual": "mean"}


@pytest.fixture
def model() -> NextVectorModel:
    torch.manual_seed(0)
    built = registry.build("lstm", d_embed=8, hidden=6, head="projection", residual="mean")
    with torch.no_grad():
        for parameter in built.head.parameters():  # beside a residual a fresh head says nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
        built.scale.fill_(2.5)
    return built


@pytest.fixture
def folder(tmp_path: Path, model: NextVectorModel) -> Path:
    save_model(tmp_path / "run", model, {"encoder": {"fingerprint": "abc"}})
    return tmp_path / "run"


def edit_weights(folder: Path, name: str = "model.safetensors", **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / name)
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            tensors.pop(key)
        else:
            tensors[key] = value
    save_file({key: value.clone() for key, value in tensors.items()}, folder / name)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(by_hand(path)), **changes}))


def test_what_was_saved_comes_back(folder: Path, model: NextVectorModel) -> None:
    loaded, info = load_model(folder)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "golden.safetensors"}
    assert loaded.config == model.config
    assert loaded.scale == 2.5
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert info["encoder"] == {"fingerprint": "abc"}
    assert info["architecture"] == "lstm"
    assert info["config"]["head"] == "projection"
    assert info["scale"] == 2.5
    assert info["code_version"] == code_version(LSTM)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(loaded(x).raw, model.eval()(x).raw, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", registry.names())
def test_a_loaded_model_trains_on(tmp_path: Path, name: str) -> None:
    save_model(tmp_path, registry.build(name, d_embed=8))
    loaded = load_model(tmp_path)[0].train()
    x = torch.randn(2, 5, 8)
    before = loaded(x).raw.square().mean()
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.01)
    before.backward()
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    optimizer.step()
    assert loaded.eval()(x).raw.square().mean() != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(tmp_path: Path, model: NextVectorModel, dtype: torch.dtype) -> None:
    save_model(tmp_path, model.to(dtype))
    loaded, info = load_model(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert info["dtype"] == str(dtype).removeprefix("torch.")


def test_neither_saving_nor_loading_draws_random_numbers(tmp_path: Path, model: NextVectorModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    save_model(tmp_path, model)
    load_model(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_saving_again_replaces(folder: Path, model: NextVectorModel) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    (folder / "history.jsonl").write_text("{}\n")
    save_model(folder, model)
    assert torch.equal(next(load_model(folder)[0].parameters()), next(model.parameters()))
    assert (folder / "history.jsonl").read_text() == "{}\n"


def test_a_model_that_answers_nan_is_not_saved(folder: Path, model: NextVectorModel) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        save_model(folder, model)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_model_saved_before_there_were_options_still_loads(folder: Path, model: NextVectorModel) -> None:
    config = json.loads((folder / "config.json").read_text())["config"]
    old = ("d_embed", "head", "residual", "hidden", "layers", "dropout")
    edit_config(folder, config={key: config[key] for key in old})
    assert load_model(folder)[0].config == model.config


EVERYTHING = {"residual": "ridge", "gate": True, "standardise": True, "horizons": 3, "conditional": True}


def test_queries_horizons_and_confidence_are_in_the_golden_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = registry.build("lstm", d_embed=8, hidden=6, confidence=True, **EVERYTHING)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(tmp_path, model)
    golden = load_file(tmp_path / "golden.safetensors")
    shapes = {name: list(value.shape) for name, value in golden.items()}
    assert shapes == {
        "input": [2, 8, 8],
        "query": [2, 8],
        "raw": [2, 8, 8],
        "ahead": [2, 8, 3, 8],
        "continuation": [2, 8],
    }
    loaded, _ = load_model(tmp_path)
    prediction = loaded(golden["input"], query=golden["query"])
    torch.testing.assert_close(prediction.ahead, golden["ahead"], rtol=0, atol=1e-6)
    hints = {name: hints_of(parameter) for name, parameter in loaded.named_parameters()}
    assert hints["residual.weights"] == {"weight_decay": 0.0}
    assert not any(hint for name, hint in hints.items() if name != "residual.weights")
    for name in ("further_heads.1.weight", "confidence.judge.bias", "condition.weight"):
        value = load_file(tmp_path / "model.safetensors")[name]
        edit_weights(tmp_path, **{name.replace(".", "__"): value + 1e-2})
        with pytest.raises(RunError, match="off by"):
            load_model(tmp_path)
        edit_weights(tmp_path, **{name.replace(".", "__"): value})
    edit_weights(tmp_path, "golden.safetensors", query=None)
    with pytest.raises(RunError, match="not a golden file"):
        load_model(tmp_path)


def test_an_altered_weight_is_noticed(folder: Path) -> None:
    bias = load_file(folder / "model.safetensors")["head.3.bias"]
    edit_weights(folder, head__3__bias=bias + 1e-3)
    with pytest.raises(RunError, match=r"model\.safetensors: .*off by .*restore the folder"):
        load_model(folder)


def test_a_nan_in_the_weights_is_noticed(folder: Path) -> None:
    edit_weights(folder, head__3__bias=torch.full((8,), float("nan")))
    with pytest.raises(RunError, match="off by nan"):
        load_model(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, head__3__bias=None)
    with pytest.raises(RunError, match=r"model\.safetensors: tensor 'head\.3\.bias' is missing"):
        load_model(folder)


def test_a_renamed_tensor_is_named(folder: Path) -> None:
    edit_weights(folder, stranger=torch.zeros(1))
    with pytest.raises(RunError, match=r"tensor 'stranger' is not part of lstm"):
        load_model(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    edit_weights(folder, head__3__bias=torch.zeros(9))
    with pytest.raises(RunError, match=r"tensor 'head\.3\.bias' is \[9\] where .* \[8\]"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 200])
def test_a_truncated_file_is_named(folder: Path, name: str, keep: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=rf"{name}: is not a complete safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "golden.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: not found"):
        load_model(folder)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"input": torch.zeros(2, 8, 8)}, "not a golden file"),
        ({"input": torch.zeros(2, 8, 8), "raw": torch.zeros(2, 8, 7)}, "not a golden file"),
        ({"input": torch.zeros(2, 8, 7), "raw": torch.zeros(2, 8, 7)}, r"the input is float32 \[2, 8, 7\]"),
    ],
)
def test_a_strange_golden_file_is_named(folder: Path, tensors: dict[str, torch.Tensor], says: str) -> None:
    save_file(tensors, folder / "golden.safetensors")
    with pytest.raises(RunError, match=says):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "lstn"}, "did you mean 'lstm'"),
        ({"architecture": None}, "not the configuration"),
        ({"architecture": "../lstm"}, "unknown architecture"),
        ({"architecture": "gru"}, "is missing|unknown key|not part of"),
        ({"config": {"d_embed": 8}}, "key 'hidden' is missing"),
        ({"config": {"d_embed": 8, "hidden": 6, "layers": 2, "dropout": 0.0, "colour": 1}}, "unknown key"),
        (
            {"config": {"d_embed": 8, "hidden": 10**9, "layers": 2, "dropout": 0.0}},
            "must be between 1 and 65536",
        ),
        ({"config": {"d_embed": 8, "hidden": 6, "layers": 2, "dropout": 0.0}}, "is missing"),
        ({"config": {**FULL, "hidden": 7}}, "where the configuration"),
        ({"config": 3}, "not the configuration"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder: Path, changes: dict[str, object], says: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(RunError, match=says):
        load_model(folder)


def test_a_config_that_is_not_ours(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(RunError, match="not the configuration of a nextvec model"):
        load_model(folder)


def test_other_code_with_the_same_answer_is_only_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, code_version="0123456789abcdef")
    with caplog.at_level(logging.INFO, "nextvec.models"):
        load_model(folder)
    assert "saved by another version of lstm; its output is the same" in caplog.text


def test_other_code_with_another_answer_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LSTM.encode
    monkeypatch.setattr(LSTM, "encode", lambda self, x: plain(self, x).flip(-1))
    monkeypatch.setattr(saving, "code_version", lambda cls: "another")
    version = json.loads((folder / "config.json").read_text())["code_version"]
    with pytest.raises(RunError, match=f"install the code of version {version} or retrain"):
        load_model(folder)


def test_the_code_version_follows_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: code_version(registry.get(name)) for name in registry.names()}
    assert len(set(versions.values())) == len(versions)
    use = {
        name
        for name in versions
        if "ops.attention" in inspect.getsource(inspect.getmodule(registry.get(name)))
    }
    assert {"amn", "transformer"} <= use < versions.keys()
    read = Path.read_bytes

    def touched(self: Path) -> bytes:
        return read(self) + (b"\n" if self.name == "attention.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", touched)
    changed = {name for name in versions if code_version(registry.get(name)) != versions[name]}
    assert use <= changed < versions.keys()
    assert not {"lstm", "gru", "mlp"} & changed


def test_speed_settings_do_not_disturb_the_check(folder: Path) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            load_model(folder)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_hugging_face_layout(tmp_path: Path, model: NextVectorModel) -> None:
    model.save_pretrained(tmp_path / "card")
    names = {p.name for p in (tmp_path / "card").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "golden.safetensors"}
    card = (tmp_path / "card/README.md").read_text()
    assert "library_name: nextvec" in card
    loaded = NextVectorModel.from_pretrained(tmp_path / "card")
    assert isinstance(loaded, LSTM)
    assert isinstance(LSTM.from_pretrained(str(tmp_path / "card")), LSTM)
    with pytest.raises(ModelError, match="holds a lstm, not a gru"):
        GRU.from_pretrained(tmp_path / "card")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for source in (tmp_path / "none", str(tmp_path / "none"), "none", "./none/none", "tests/none"):
        with pytest.raises(RunError, match="no such folder"):
            load_model(source)


def test_a_hub_id_that_cannot_be_had() -> None:
    with pytest.raises(RunError, match="not a folder, and cannot be fetched from the Hub"):
        load_model("nobody-at-all/no-such-model", local_files_only=True)


def test_matrices_in_bytes(tmp_path: Path) -> None:
    """Each weight is off by half a step of its row at most, and the golden output is of what was written."""
    torch.manual_seed(0)
    model = registry.build("mlp", "small", 8)
    names = [name for name, value in model.named_parameters() if value.ndim == 2]
    save_model(tmp_path / "plain", model)
    save_model(tmp_path / "small", model, bytes_of=names)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "small")]
    assert sizes[1] < 0.5 * sizes[0]
    found, _ = load_model(tmp_path / "small")
    for name, value in model.state_dict().items():
        got = found.state_dict()[name]
        assert got.dtype == torch.float32
        if name in names:
            assert ((got - value).abs() <= value.abs().amax(-1, keepdim=True) / 254 + 1e-7).all()
        else:
            assert torch.equal(got, value)


def test_steps_of_another_shape_are_refused(tmp_path: Path) -> None:
    """They would spread a small file over all of the memory."""
    model = registry.build("mlp", "small", 8)
    name = next(name for name, value in model.named_parameters() if value.ndim == 2)
    save_model(tmp_path, model, bytes_of=[name])
    weights = load_file(tmp_path / "model.safetensors")
    weights[name + ".steps"] = torch.ones(70_000, 1)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_model(tmp_path)
