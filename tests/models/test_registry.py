"""Names, presets, sizes and the errors for what does not exist."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nextvec.errors import ConfigError, ModelError, NextvecError
from nextvec.models import architectures, registry
from nextvec.models.base import NextVectorModel
from nextvec.models.heads import make_head
from nextvec.models.ops.parameters import count_parameters
from nextvec.models.residual import make_residual

# What the brief's own pictures add up to, at D = 768; and what it asks of the others (it names none for mlp).
EXACT = {"amn": 1_510_912, "lstm": 5_120_768, "gru": 7_095_552, "transformer": 17_867_520}
ASKED = {
    "distilgpt2": 82e6,
    "performer": 100e6,
    "linformer": 100e6,
    "s4": 100e6,
    "hyena": 125e6,
    "retnet": 125e6,
    "mamba2": 130e6,
    "hybrid": 150e6,
    "rwkv": 169e6,
    "lcm": 1.6e9,
}


def test_the_briefs_parameter_counts() -> None:
    counted = {r["name"]: r["parameters"] for r in registry.describe() if r["preset"] == "brief"}
    assert counted.keys() >= EXACT.keys() | ASKED.keys() | {"mlp"}
    assert {name: counted[name] for name in EXACT} == EXACT
    off = {name: counted[name] / requested - 1 for name, requested in ASKED.items()}
    assert {name: share for name, share in off.items() if abs(share) > 0.03} == {}


def test_the_task_lists_transformer_head() -> None:
    with torch.device("meta"):
        model = registry.build("transformer", "brief", 768, head="projection")
    assert count_parameters(model) == 18_195_968


def test_the_table_can_be_printed() -> None:
    rows = registry.describe()
    assert [(r["name"], r["preset"]) for r in rows] == [
        (name, preset) for name in registry.names() for preset in registry.presets(name)
    ]
    for row in rows:
        assert {"name", "preset", "parameters", "streaming"} <= row.keys()
        assert row["streaming"] in ("constant", "cache", "buffer")
        assert row["summary"].endswith(".")


def test_the_numbers_in_the_preset_files_are_counted() -> None:
    """Each file's comment gives its parameters at D = 768."""
    for row in registry.describe():
        text = (registry.PRESETS / row["name"] / f"{row['preset']}.toml").read_text(encoding="utf-8")
        assert f"{row['parameters']:,}" in text.splitlines()[0], f"{row['name']}/{row['preset']}.toml"


@pytest.mark.parametrize(
    ("arguments", "overrides", "error", "says"),
    [
        (("lstn",), {}, ModelError, "did you mean 'lstm'?"),
        (("zzz",), {}, ModelError, "known: amn"),
        (("lstm", "smal"), {}, ModelError, "did you mean 'small'?"),
        (("lstm",), {"hiden": 3}, ConfigError, "did you mean 'hidden'?"),
        (("lstm",), {"hidden": "3"}, ConfigError, "give a int"),
        (("lstm",), {"hidden": 0}, ConfigError, "must be between 1 and"),
        (("lstm", "small", 0), {}, ConfigError, "d_embed"),
        (("lstm",), {"dropout": 1.0}, ConfigError, "dropout"),
        (("lstm",), {"head": "liner"}, ConfigError, "linear, projection, compact"),
        (("lstm",), {"residual": "median"}, ConfigError, "none, mean, last"),
        (("transformer",), {"heads": 7}, ConfigError, "does not divide"),
    ],
)
def test_what_does_not_exist_is_an_error(
    arguments: tuple[object, ...], overrides: dict[str, object], error: type[NextvecError], says: str
) -> None:
    with pytest.raises(error) as caught:
        registry.build(*arguments, **overrides)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_unknown_presets_heads_and_residuals() -> None:
    with pytest.raises(ModelError, match="unknown architecture"):
        registry.presets("lstn")
    with pytest.raises(ModelError, match="unknown head"):
        make_head("square", 3, 3)
    with pytest.raises(ModelError, match="unknown residual"):
        make_residual("median", 3, 5)


SIXTEENTH = '''"""Echo: the last vector through one Linear."""
from dataclasses import dataclass
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.registry import architecture


@dataclass(frozen=True, kw_only=True)
class EchoConfig(ModelConfig):
    pass


@architecture("sixteenth")
class Echo(NextVectorModel):
    Config = EchoConfig
    streaming = "constant"
    paper = "Nobody, Nothing, 2026"
    complexity = "O(T)"
    best_for = "tests"

    def __init__(self, config):
        super().__init__(config, width=config.d_embed)

    def encode(self, x):
        return x

    def encoder_state(self, batch, device, dtype):
        return {}

    def encode_step(self, x_t, state):
        return x_t, {}
'''


def test_the_next_architecture_is_one_file_and_its_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/sixteenth.py").write_text(SIXTEENTH, encoding="utf-8")
    (tmp_path / "presets/sixteenth").mkdir(parents=True)
    (tmp_path / "presets/sixteenth/small.toml").write_text('residual = "last"\n', encoding="utf-8")
    monkeypatch.setattr(architectures, "__path__", [str(tmp_path / "code")])
    monkeypatch.setattr(registry, "PRESETS", tmp_path / "presets")
    registry.names.cache_clear()
    try:
        assert registry.names() == ("sixteenth",)
        model = registry.build("sixteenth", d_embed=4)
        assert model(torch.ones(1, 3, 4)).raw.shape == (1, 3, 4)
        assert [(r["name"], r["parameters"]) for r in registry.describe()] == [("sixteenth", 768 * 769)]
        chunked, _ = model.extend(torch.ones(1, 3, 4), model.init_state(1))  # comes with the base class
        torch.testing.assert_close(chunked.raw, model(torch.ones(1, 3, 4)).raw)
    finally:
        registry.names.cache_clear()
        sys.modules.pop("nextvec.models.architectures.sixteenth", None)


def test_a_name_other_than_the_files_is_refused() -> None:
    with pytest.raises(TypeError, match="its file's"):
        registry.architecture("other")(registry.get("lstm"))
    assert registry.get("lstm").architecture == "lstm"


def test_an_architecture_that_does_not_say_what_it_is_for_is_refused() -> None:
    class Mute(registry.get("lstm")):  # type: ignore[misc]
        best_for = None

    Mute.__module__ = "nextvec.models.architectures.mute"
    with pytest.raises(TypeError, match="Mute does not give its best_for"):
        registry.architecture("mute")(Mute)


def test_the_state_is_measured() -> None:
    before = torch.get_rng_state()
    assert registry.state_bytes("lstm", steps=(1, 3, 20)) == dict.fromkeys((1, 3, 20), 2 * 2 * 256 * 4)
    grown = registry.state_bytes("transformer", steps=(1, 40))
    per_vector = 2 * 2 * 2 * 256 * 4  # layers, attentions, keys and values, width, bytes
    assert 40 * per_vector <= grown[40] < 80 * per_vector + 64
    assert torch.equal(torch.get_rng_state(), before)


def test_an_architecture_without_a_step_form_is_refused() -> None:
    class Half(registry.get("lstm")):  # type: ignore[misc]
        encode_step = NextVectorModel.encode_step

    Half.__module__ = "nextvec.models.architectures.half"
    with pytest.raises(TypeError, match="Half lacks encode_step"):
        registry.architecture("half")(Half)
