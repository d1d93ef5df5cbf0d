"""/v1/embeddings as other people's clients use it: openai, LangChain and LlamaIndex with their own settings,
and what they are told where a request cannot be meant."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI, UnprocessableEntityError
from tokenizers import Tokenizer

from nextvec.corpus.reading import TextReader
from nextvec.errors import ConfigError
from nextvec.serving.errors import Refusal
from nextvec.serving.routes.coding import EmbeddingsRequest, EncodeRequest, encoded
from nextvec.serving.settings import Settings
from nextvec.serving.token_input import CACHED, OWN, TokenVocabulary

TEXTS = ["The mill stood by the river.", "Then it froze: 3 °C below zero, naïve or not."]
# "The mill stood by the river." by cl100k_base.
MILL = [791, 2606, 14980, 555, 279, 15140, 13]
FULL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def expected(reader: TextReader) -> Any:
    """Unit vectors of TEXTS."""
    return reader.encode(TEXTS).unit().values


@pytest.fixture
def openai(server: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0)


def ask(reader: TextReader, value: Any, given: str | None = OWN, **fields: Any) -> dict[str, Any]:
    """The answer to an input, in this process."""
    model: Any = SimpleNamespace(name="m", pipeline=SimpleNamespace(reader=reader))
    request = EmbeddingsRequest(input=value, **fields)
    found: dict[str, Any] = json.loads(encoded(model, request, Settings(), TokenVocabulary(given), "m"))
    return found


def refused(reader: TextReader, value: Any, given: str | None = OWN, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        ask(reader, value, given, **fields)
    return found.value


def test_the_openai_client_gets_unit_vectors_and_the_tokens_read(openai: OpenAI, expected: Any) -> None:
    for more in ({}, {"encoding_format": "float"}):
        answer = openai.embeddings.create(input=TEXTS, model="gru", **more)
        found = np.array([item.embedding for item in answer.data])
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    # The ids of the tokenizer with [CLS] and [SEP]: 7 words and marks, and 13.
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 9 + 15
    assert abs(answer.created - time.time()) < 3600  # type: ignore[attr-defined]
    raw = openai.embeddings.create(input=TEXTS[0], model="gru", extra_body={"output_type": "decoder"})
    assert raw.output_type == "decoder"  # type: ignore[attr-defined]


def test_so_does_its_asynchronous_one(server: str, key: str, expected: Any) -> None:
    async def work() -> Any:
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0) as client:
            return await client.embeddings.create(input=TEXTS[0], model="gru")

    np.testing.assert_allclose(asyncio.run(work()).data[0].embedding, expected[0], atol=1e-4)


@pytest.mark.parametrize("name", [FULL, "all-MiniLM-L6-v2"])
def test_the_encoders_own_name_is_a_model(openai: OpenAI, expected: Any, name: str) -> None:
    answer = openai.embeddings.create(input=TEXTS[0], model=name)
    np.testing.assert_allclose(answer.data[0].embedding, expected[0], atol=1e-4)
    assert answer.model == FULL
    with pytest.raises(NotFoundError, match="no such model"):
        openai.embeddings.create(input=TEXTS[0], model="text-embedding-3-small")
    assert all(isinstance(model.created, int) for model in openai.models.list())


def test_token_arrays_are_taken(openai: OpenAI, expected: Any) -> None:
    for given in (MILL, [MILL, MILL]):
        answer = openai.embeddings.create(input=given, model="gru")
        for item in answer.data:
            np.testing.assert_allclose(item.embedding, expected[0], atol=1e-4)


def test_2048_texts_are_taken(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader.encoder, "encode", lambda texts, _: np.ones((len(texts), 384), np.float32))
    answer = ask(reader, ["ice " * 200] * 2048, encoding_format="base64")
    assert [item["index"] for item in answer["data"]] == list(range(2048))
    assert "2049 texts, 2048 are taken" in refused(reader, ["ice"] * 2049).message


def test_langchain_as_it_comes(server: str, key: str, expected: Any, tiktoken_cache: Path) -> None:
    """By default it sends ids of cl100k_base, whatever the server."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model="gru", base_url=f"{server}/v1", api_key=key)  # type: ignore[arg-type]
    assert embeddings.check_embedding_ctx_length
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-4)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[1]), expected[1], atol=1e-4)
    with pytest.raises(UnprocessableEntityError, match="input is an empty text"):
        embeddings.embed_documents([TEXTS[0], ""])


def test_llama_index_as_it_comes(server: str, key: str, expected: Any) -> None:
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedding = OpenAIEmbedding(model_name="gru", api_base=f"{server}/v1", api_key=key, max_retries=0)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), expected, atol=1e-4)
    np.testing.assert_allclose(embedding.get_query_embedding(TEXTS[1]), expected[1], atol=1e-4)


def test_dimensions_are_for_encoders_that_declare_them(
    reader: TextReader, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(reader, TEXTS, dimensions=64)
    assert (error.status, error.param) == (422, "dimensions")
    assert "does not declare that they may be cut" in error.message
    assert len(ask(reader, TEXTS, dimensions=384)["data"][0]["embedding"]) == 384
    monkeypatch.setattr(reader.encoder, "lengths_to_cut", frozenset({64, 128}), raising=False)
    found = np.array([item["embedding"] for item in ask(reader, TEXTS, dimensions=64)["data"]])
    cut = expected[:, :64]
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-5)
    assert "may be cut to 64, 128" in refused(reader, TEXTS, dimensions=65).message


def test_an_encoder_without_a_normalisation_gives_what_it_publishes(
    reader: TextReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.encoder, "normalises", False)
    answer = ask(reader, TEXTS)
    assert answer["output_type"] == "decoder"
    found = np.array([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(found, reader.encode(TEXTS).values, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        (["a", "b", "", "d"], "input[2]", "input[2] is an empty text"),
        (["a", " \n "], "input[1]", "input[1] is an empty text"),
        ("", "input", "input is an empty text"),
        ([], "input", "input is an empty list"),
        (5, "input", "input is neither a text nor a list"),
        ({"a": 1}, "input", "input is neither a text nor a list"),
        (["a", 5], "input[1]", "input[1] is not a text"),
        ([None], "input[0]", "input[0] is not a text"),
        ([[1, 2], []], "input[1]", "input[1] is an empty token array"),
        ([[1, 2], "a"], "input[1]", "input[1] is not a token array"),
        ([1, -2], "input", "holds something not a token id"),
        ([1, 2.5], "input", "holds something not a token id"),
        ([True], "input", "holds something not a token id"),
        ([[2000], [2001, 99999]], "input[1]", "input[1] holds the id 99999"),
        (["a" * 1_000_001], "input[0]", "1000001 characters"),
    ],
)
def test_what_is_wrong_with_an_input_is_named(
    reader: TextReader, value: Any, param: str, message: str
) -> None:
    error = refused(reader, value)
    assert (error.status, error.param) == (422, param)
    assert message in error.message


def test_token_arrays_mean_what_the_server_was_told(
    reader: TextReader, expected: Any, tiktoken_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer.from_file(str(reader.encoder.tokenizer_file)).encode(TEXTS[0])  # type: ignore[attr-defined]
    own = [token for token, kept in zip(own.ids, own.attention_mask, strict=True) if kept]
    for given, ids in ((OWN, own), (None, MILL), (str(tiktoken_cache / CACHED), MILL)):
        found = ask(reader, [ids], given)["data"][0]["embedding"]
        np.testing.assert_allclose(found, expected[0], atol=1e-4)
    assert "holds the id 100257" in refused(reader, [100257], None).message
    # Half of a character is no error: clients cut long texts between tokens.
    assert len(ask(reader, [[*MILL, 64856]], None)["data"]) == 1
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    error = refused(reader, MILL, None)
    assert (error.status, error.code) == (409, "no_token_vocabulary")
    (tmp_path / CACHED).write_bytes(b"YQ== 0\n")
    assert refused(reader, MILL, None).status == 409, "what is not cl100k_base is not taken for it"
    for file, message in ((tmp_path / "none", "no file"), (tmp_path, "is not a .tiktoken vocabulary")):
        with pytest.raises(ConfigError, match=message):
            TokenVocabulary(str(file))


def test_our_own_route_gives_raw_vectors_under_the_models_name(reader: TextReader) -> None:
    model: Any = SimpleNamespace(name="m", pipeline=SimpleNamespace(reader=reader))
    answer = json.loads(encoded(model, EncodeRequest(input=TEXTS), Settings(), TokenVocabulary(OWN), "m"))
    assert (answer["model"], answer["output_type"]) == ("m", "decoder")
    found = np.array([item["embedding"] for item in answer["data"]])
    np.testing.assert_allclose(found, reader.encode(TEXTS).values, atol=1e-5)
