"""Tiny models in vec2text's own format. Run by vec2text's own Python:

    python -I -S tiny_vec2text.py WORKER PACKAGES FOLDER SITE...

Writes inversion/, corrector/, base/ and embedder/ as they are published: the encoder, a T5 of one layer and
768 wide as vec2text wants it, goes on with a dense layer that vec2text leaves out. The inversion model stays
as it was drawn, the corrector learns TEXTS by heart: without a step of correction the answers are nonsense,
after one they are the texts.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

TEXTS = (
    "the ship left the harbour before dawn",
    "water boils at high mountains",
    "nobody saw the old river",
    "before dawn the mountains saw water",
)
STEPS = 60


def tokenizer(folder: Path) -> Any:
    """A T5 tokenizer whose pieces are whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()})
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    inner = Tokenizer(models.Unigram([*pieces, *((f"▁{word}", -2.0) for word in words)], unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = T5TokenizerFast(tokenizer_object=inner, extra_ids=0, model_max_length=32)
    made.save_pretrained(folder)
    return made


def t5_config(words: int, width: int, layers: int) -> Any:
    from transformers import T5Config

    return T5Config(
        vocab_size=words,
        d_model=width,
        d_kv=8,
        d_ff=2 * width if width < 100 else 32,
        num_layers=layers,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )


def embedder(folder: Path) -> int:
    """A sentence-transformers folder of the encoder; returns the size of its vocabulary."""
    import torch
    from safetensors.torch import save_file
    from transformers import T5EncoderModel

    words = len(tokenizer(folder))
    T5EncoderModel(t5_config(words, 768, 1)).save_pretrained(folder)
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    for path in ("1_Pooling", "2_Dense"):
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    dense = {"in_features": 768, "out_features": 768, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    turned = torch.eye(768).flip(0).contiguous()
    save_file({"linear.weight": turned}, folder / "2_Dense" / "model.safetensors")
    return words


def model_config(vec2text: Any, base: Path) -> Any:
    return vec2text.models.config.InversionConfig(
        model_name_or_path=str(base),
        embedder_model_name="gtr_base",
        embedder_model_api=None,
        embedder_fake_with_zeros=False,
        embedder_no_grad=True,
        use_frozen_embeddings_as_input=True,
        encoder_dropout_disabled=False,
        decoder_dropout_disabled=False,
        embeddings_from_layer_n=None,
        corrector_ignore_hypothesis_embedding=False,
        use_lora=False,
        num_repeat_tokens=2,
        max_seq_length=16,
    )


def learn(corrector: Any) -> None:
    """The texts by heart, from hypotheses of the inversion model."""
    import torch

    corrector.inversion_trainer.model.eval()
    corrector.model.eval()
    given = corrector.embedder_tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    frozen = corrector.call_embedding_model(
        input_ids=given.input_ids, attention_mask=given.attention_mask
    ).detach()
    # Hypotheses of the inversion model, and the right ones: a step more must not spoil a right text.
    _, ids, mask, vectors = corrector._get_hypothesis_uncached({"frozen_embeddings": frozen})
    start = torch.zeros(len(TEXTS), 1, dtype=torch.long)
    right = torch.cat([start, given.input_ids], dim=1)
    drafts = [(ids, mask.int(), vectors), (right, (right != 0).int(), frozen)]
    labels = given.input_ids.masked_fill(given.attention_mask == 0, -100)
    model = corrector.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(STEPS):
        hypothesis, attention, its_vectors = drafts[step % 2]
        loss = model(frozen, its_vectors, hypothesis, attention, labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    sys.stderr.write(f"loss {loss.item():.4f}\n")


def main(worker_file: str, packages: str, target: str, *sites: str) -> None:
    spec = importlib.util.spec_from_file_location("worker", worker_file)
    worker: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    sys.path.insert(0, packages)
    sys.meta_path.append(worker.Borrower(sites))
    vec2text = worker.import_vec2text()
    import torch
    from safetensors.torch import save_model

    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = Path(target)
    words = embedder(folder / "embedder")
    tokenizer(folder / "base")
    t5_config(words, 32, 2).save_pretrained(folder / "base")
    config = model_config(vec2text, folder / "base")
    worker.build_offline(vec2text, folder)
    inversion = vec2text.models.InversionModel(config)
    inversion.embedder.load_state_dict(worker.encoder_weights(folder / "embedder"))
    corrector = vec2text.api.load_corrector(inversion, vec2text.models.CorrectorEncoderModel(config))
    learn(corrector)
    for name, model in (("inversion", inversion), ("corrector", corrector.model)):
        config.save_pretrained(folder / name)
        save_model(model, str(folder / name / "model.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
