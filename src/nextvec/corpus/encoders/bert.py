"""Plain BERT encoders with mean pooling, all-MiniLM-L6-v2 among them, in torch and tokenizers alone.

Why our own: of the 6.6 seconds of the processor that `nextvec predict --file` took, sentence-transformers
took 4.3; and texts run here without padding, attention in pieces that stay in the cache (docs/speed.md).
Whatever is not known to be computed alike, down to a key of a configuration, is left to the library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from nextvec.corpus.layout import FloatArray
from nextvec.disk import read_json
from nextvec.errors import EncoderError

log = logging.getLogger("nextvec.corpus")

SCORES = 2**18
"""Attention scores computed at once: 1 MiB, so that they stay in a core's cache."""
SPECIAL = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}


def _allowed(free: str, **fixed: Any) -> dict[str, Any]:
    return {**dict.fromkeys(free.split()), **{key: (value,) for key, value in fixed.items()}}


# Per file: the keys that may stand in it, and where it matters, the value that each must then have.
CONFIG = _allowed(
    "_name_or_path architectures attention_probs_dropout_prob bos_token_id classifier_dropout dtype"
    " eos_token_id gradient_checkpointing hidden_dropout_prob hidden_size initializer_range intermediate_size"
    " is_matryoshka layer_norm_eps matryoshka_dimensions max_position_embeddings num_attention_heads"
    " num_hidden_layers pad_token_id tie_word_embeddings torch_dtype transformers_version type_vocab_size"
    " use_cache vocab_size",
    model_type="bert", hidden_act="gelu", position_embedding_type="absolute", is_decoder=False,
    add_cross_attention=False,
)  # fmt: skip
MODULE = _allowed(
    "max_seq_length", do_lower_case=False, transformer_task="feature-extraction",
    modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    module_output_name="token_embeddings",
)  # fmt: skip
POOLING = _allowed(
    "embedding_dimension word_embedding_dimension", pooling_mode="mean", include_prompt=True,
    pooling_mode_mean_tokens=True, pooling_mode_cls_token=False, pooling_mode_max_tokens=False,
    pooling_mode_mean_sqrt_len_tokens=False, pooling_mode_weightedmean_tokens=False,
    pooling_mode_lasttoken=False,
)  # fmt: skip
NORMALIZE = _allowed("", module_input_name="sentence_embedding", module_output_name="sentence_embedding")
WHOLE = _allowed(
    "__version__ default_prompt_name prompts similarity_fn_name", model_type="SentenceTransformer"
)
TOKENIZER = _allowed(
    "clean_up_tokenization_spaces do_lower_case is_local local_files_only max_length model_max_length"
    " name_or_path pad_to_multiple_of pad_token_type_id special_tokens_map_file strip_accents stride"
    " tokenize_chinese_chars tokenizer_class tokenizer_file truncation_strategy",
    **SPECIAL, backend="tokenizers", do_basic_tokenize=True, never_split=None, padding_side="right",
    truncation_side="right",
)  # fmt: skip
NONE_OF = "added_tokens.json adapter_config.json preprocessor_config.json processor_config.json"


class _UnlikeError(Exception):
    """A folder that is left to the library."""


def _read(file: Path, allowed: Mapping[str, Any], *, needed: bool = True) -> dict[str, Any]:
    if not needed and not file.exists():
        return {}
    found: dict[str, Any] = read_json(file, EncoderError)
    for key, value in found.items():
        if key not in allowed or not (allowed[key] is None or value in allowed[key]):
            raise _UnlikeError(f"{file.name}: {key}")
    return found


def _check_modules(folder: Path) -> bool:
    """Transformer, mean pooling, and maybe Normalize: whether it is there."""
    listed = read_json(folder / "modules.json", EncoderError)
    kinds = [module["type"].rpartition(".")[2] for module in listed]
    own, pooling, *last = (folder / module["path"] for module in listed)
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"} or own != folder:
        raise _UnlikeError(f"modules {kinds}")
    _read(pooling / "config.json", POOLING)
    for normalize in last:
        _read(normalize / "config.json", NORMALIZE, needed=False)
    return bool(last)


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer, if its own file says what tokenizer_config.json does: the library reads both."""
    file, flags = folder / "tokenizer.json", ("single_word", "lstrip", "rstrip", "normalized")
    parts = read_json(file, EncoderError)
    vocabulary = parts["model"].pop("vocab")
    expected = {
        "added_tokens": [
            {"id": vocabulary[token], "content": token, "special": True, **dict.fromkeys(flags, False)}
            for token in sorted(SPECIAL.values(), key=vocabulary.__getitem__)
        ],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "lowercase": settings.get("do_lower_case", True),
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }  # fmt: skip
    made = Tokenizer.from_file(str(file))
    made.no_padding()
    made.no_truncation()
    around = [vocabulary[token] for token in ("[CLS]", "a", "[SEP]")]
    known = settings["tokenizer_class"] in ("BertTokenizer", "BertTokenizerFast")
    if not known or made.encode("a").ids != around or any(parts[key] != expected[key] for key in expected):
        raise _UnlikeError(file.name)
    return made


def plain_bert(folder: Path, precision: str, most: int | None) -> PlainBert | None:
    """The encoder of a checked folder, or None where it is not surely one of this kind.

    Args:
        precision: of the transformer's products, "float32" or "bfloat16".
        most: texts are cut after so many tokens, if not earlier.
    """
    try:
        return PlainBert(folder, getattr(torch, precision), most)
    except Exception as error:  # noqa: BLE001 - what is wrong with the folder, if anything is, the library says
        log.debug("%s: left to sentence-transformers (%s: %s)", folder, type(error).__name__, error)
        return None


class PlainBert:
    """A folder's transformer and mean pooling on the CPU. Attributes as `LibraryModel` has them.

    The stream between the layers, its norms and the softmax are float32 in every precision.
    """

    modules = ({"type": "Transformer"}, {"type": "Pooling", "modes": ["mean"], "prompt": True})

    def __init__(self, folder: Path, dtype: torch.dtype, most: int | None) -> None:
        if any((folder / name).exists() for name in NONE_OF.split()):
            raise _UnlikeError("files beside")
        self.normalises = _check_modules(folder)
        settings = _read(folder / "tokenizer_config.json", TOKENIZER)
        _read(folder / "special_tokens_map.json", _allowed("", **SPECIAL), needed=False)
        self._tokenizer = _tokenizer(folder, settings)
        self._unknown: Any = self._tokenizer.token_to_id("[UNK]")
        config = _read(folder / "config.json", CONFIG)
        whole = _read(folder / "config_sentence_transformers.json", WHOLE, needed=False)
        self.prompts: dict[str, str] = whole.get("prompts") or {}
        self.default_prompt_name: str | None = whole.get("default_prompt_name")
        reach = config["max_position_embeddings"]
        own = _read(folder / "sentence_bert_config.json", MODULE).get("max_seq_length")
        own = min(settings["model_max_length"], reach) if own is None else own
        self.max_tokens: int = min(most or own, own)
        self._heads, self._eps = config["num_attention_heads"], float(config["layer_norm_eps"])
        if (
            not 3 <= self.max_tokens <= reach
            or config["hidden_size"] % self._heads
            or self.default_prompt_name not in {None, *self.prompts}
            or not all(isinstance(prompt, str) for prompt in self.prompts.values())
        ):
            raise _UnlikeError("settings")
        self._dtype = dtype
        self._take(load_file(folder / "model.safetensors"), config)

    def _take(self, weights: dict[str, Tensor], config: Mapping[str, Any]) -> None:
        """Raises _UnlikeError, KeyError: a tensor too many, too few or of another shape."""
        width, wide = config["hidden_size"], config["intermediate_size"]
        # As the library loads it, whatever the file holds
        loaded = getattr(torch, config.get("dtype", config.get("torch_dtype", "float32")))

        def one(name: str, *shape: int) -> Tensor:
            found = weights.pop(name)
            if found.shape != shape:
                raise _UnlikeError(name)
            return found.to(loaded).float()

        def pair(name: str, *shape: int) -> tuple[Tensor, Tensor]:
            return one(f"{name}.weight", *shape), one(f"{name}.bias", shape[0])

        def linear(shape: tuple[int, int], *names: str) -> Callable[[Tensor], Tensor]:
            weights, biases = zip(*(pair(name, *shape) for name in names), strict=True)
            return _product(torch.cat(weights), torch.cat(biases), self._dtype)

        inner = "embeddings"
        self._words = one(f"{inner}.word_embeddings.weight", config["vocab_size"], width)
        places = one(f"{inner}.position_embeddings.weight", config["max_position_embeddings"], width)
        kinds = one(f"{inner}.token_type_embeddings.weight", config["type_vocab_size"], width)
        self._places, self._norm, self._layers = places + kinds[0], pair(f"{inner}.LayerNorm", width), []
        for layer in (f"encoder.layer.{i}" for i in range(config["num_hidden_layers"])):
            own = f"{layer}.attention"
            self._layers.append((
                linear((width, width), *(f"{own}.self.{part}" for part in ("query", "key", "value"))),
                linear((width, width), f"{own}.output.dense"),
                pair(f"{own}.output.LayerNorm", width),
                linear((wide, width), f"{layer}.intermediate.dense"),
                linear((width, wide), f"{layer}.output.dense"),
                pair(f"{layer}.output.LayerNorm", width),
            ))  # fmt: skip
        if left := weights.keys() - {f"{inner}.position_ids", "pooler.dense.weight", "pooler.dense.bias"}:
            raise _UnlikeError(min(left))

    def count_tokens(self, texts: list[str]) -> list[tuple[int, int]]:
        """Tokens of each text before any cutting, and the unknown ones among them."""
        found = self._tokenizer.encode_batch_fast(texts)
        return [(len(one.ids), one.ids.count(self._unknown)) for one in found]

    def forward(self, batch: list[str], prompt: str) -> FloatArray:
        """Vectors float32 [n, D] of n texts.

        Threads share the texts, not the products: where another process takes a core, threads that wait for
        each other after every product encode 2 chunks a second in place of 60 (LOG.md).
        """
        found = [one.ids for one in self._tokenizer.encode_batch_fast([prompt + text for text in batch])]
        cut = self.max_tokens - 1
        found = [ids if len(ids) <= cut else [*ids[:cut], ids[-1]] for ids in found]
        order = sorted(range(len(found)), key=lambda i: len(found[i]))
        threads = torch.get_num_threads()
        count = min(threads, len(order))
        parts = [order[i::count] for i in range(count)]
        texts = [[found[i] for i in part] for part in parts]
        if count == 1:
            means = self._means(texts[0])
        else:
            try:
                with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    means = torch.cat(list(pool.map(self._means, texts)))
            finally:  # the number of any thread that is yet to start is the last one set
                torch.set_num_threads(threads)
        out = torch.empty_like(means)
        out[torch.tensor([i for part in parts for i in part])] = means
        vectors: FloatArray = out.numpy()
        return vectors

    @torch.inference_mode()
    def _means(self, texts: list[list[int]]) -> Tensor:
        """[n, D] of the tokens of n texts, shortest first. All stand in one row, without padding."""
        groups: list[tuple[int, int]] = []  # so many texts of so many tokens
        for length, same in groupby(map(len, texts)):
            count, most = len(list(same)), max(1, SCORES // (self._heads * length**2))
            groups += [(min(most, count - done), length) for done in range(0, count, most)]
        places = torch.cat([torch.arange(length).repeat(count) for count, length in groups])
        tokens = torch.tensor([token for text in texts for token in text])
        x = self._words[tokens] + self._places[places]
        x = self._run(F.layer_norm(x, x.shape[1:], *self._norm, self._eps), groups)
        return torch.cat([part.view(*group, -1).mean(1) for part, group in _split(x, groups)])

    def _run(self, x: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """The layers (Devlin et al., 2019; Vaswani et al., 2017, section 3), x [tokens, D] float32."""
        for inputs, output, norm, up, down, last in self._layers:
            rows = inputs(x.to(self._dtype))
            attended = torch.cat([self._attend(part, *group) for part, group in _split(rows, groups)])
            x = F.layer_norm(x + output(attended), x.shape[1:], *norm, self._eps)
            hidden = F.gelu(up(x.to(self._dtype)))
            x = F.layer_norm(x + down(hidden), x.shape[1:], *last, self._eps)
        return x

    def _attend(self, rows: Tensor, count: int, length: int) -> Tensor:
        """[count * length, 3 D] -> [count * length, D]. Two products and a softmax take down to 40 % of
        the time of torch's fused attention in bfloat16, while the scores stay in the cache."""
        parts = rows.view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.reshape(3, count * self._heads, length, -1)
        scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
        shares = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        heads = torch.bmm(shares, value).view(count, self._heads, length, -1)
        return heads.transpose(1, 2).reshape(count * length, -1)


def _product(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """x -> x W^T + b. In float32 by oneDNN too: torch takes MKL there, of half the speed on AMD's AVX-512."""
    weight, bias = weight.to(dtype), bias.to(dtype)
    if dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return partial(F.linear, weight=weight, bias=bias)
    weight, bias = weight.to_mkldnn(), bias.to_mkldnn()
    return lambda x: F.linear(x.to_mkldnn(), weight, bias).to_dense()


def _split(x: Tensor, groups: list[tuple[int, int]]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    start = 0
    for count, length in groups:
        yield x[start : start + count * length], (count, length)
        start += count * length
