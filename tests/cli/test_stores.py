"""ingest, info, export-npz and models through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.corpus.store import Store

SENTENCE = "The harbour of number {} lies behind the old lighthouse, and {} ships wait there for the tide."


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three files of 12 sentences."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(3):
        lines = [SENTENCE.format(i, 100 * i + k) for k in range(12)]
        (folder / f"{'abc'[i]}.txt").write_text("\n\n".join(lines))
    return folder


def ingest_sentences(cli, texts: Path, out: Path, *more: str):
    return cli("ingest", texts, "--out", out, "--chunker", "paragraph", "--dtype", "float32", *more)


@pytest.mark.usefixtures("hash_encoder")
def test_ingest_and_ingest_again(cli, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    done = ingest_sentences(cli, texts, out, "--json", "-")
    assert done.code == 0
    assert done.json["documents"] == 3
    assert done.json["store"] == str(out)
    assert done.json["path"] == "cpu float32"
    assert "encoding on cpu float32" in done.err
    store = Store.open(out, verify=True)
    assert [d.doc_id for d in store.documents] == ["a.txt", "b.txt", "c.txt"]
    assert store.document_text("b.txt") == (texts / "b.txt").read_text()
    assert len(store) == done.json["chunks"]
    (texts / "d.md").write_text("# One more\n\n" + SENTENCE.format(9, 9))
    again = ingest_sentences(cli, texts, out, "--quiet")
    assert again.code == 0
    assert again.out.startswith(f"1 document, 1 chunk added to {out}\n  skipped: 3 in the store already\n")
    assert "encode:" not in again.err
    assert len(Store.open(out)) == len(store) + 1


@pytest.mark.usefixtures("hash_encoder")
def test_ingest_in_two_phases(cli, tmp_path: Path) -> None:
    text = " ".join(f"Sentence {k} says something of its own." for k in range(60))
    (tmp_path / "long.txt").write_text(text)
    done = cli("ingest", tmp_path / "long.txt", "--out", tmp_path / "store", "--phases", "2")
    assert done.out.startswith("1 document and 1 view of documents, ")
    shown = cli("info", tmp_path / "store")
    assert "documents    1 with " in shown.out
    assert "views        1 with " in shown.out
    assert [d.view_of for d in Store.open(tmp_path / "store").documents] == [None, "long.txt"]


@pytest.mark.usefixtures("hash_encoder")
def test_ingest_reads_texts_in_the_encoding_named(cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Überall rauscht das Meer an die Küste.".encode("latin-1"))
    done = cli("ingest", tmp_path / "a.txt", "--out", tmp_path / "store", "--text-encoding", "latin-1")
    assert done.code == 0
    assert Store.open(tmp_path / "store").document_text("a.txt") == "Überall rauscht das Meer an die Küste."


@pytest.mark.usefixtures("hash_encoder")
def test_ingest_reads_tables_with_options(cli, tmp_path: Path) -> None:
    rows = [{"key": str(i), "body": SENTENCE.format(i, i), "kind": "x"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = cli(
        "ingest", tmp_path / "rows.jsonl", "--out", tmp_path / "store", "--id-column", "key",
        "--text-column", "body", "--source-column", "kind", "--limit", "4", "--qualify-ids",
    )  # fmt: skip
    assert done.code == 0
    store = Store.open(tmp_path / "store")
    assert [d.doc_id for d in store.documents] == ["x/0", "x/1", "x/2", "x/3"]
    assert store.sources == ("x",)


def test_ingest_of_ready_made_vectors(cli, world: Store, tmp_path: Path) -> None:
    chunks = world.chunks.select(["doc_id", "position", "text", "source", "title"])
    pq.write_table(chunks, tmp_path / "chunks.parquet")
    np.save(tmp_path / "vectors.npy", np.asarray(world.vectors))
    done = cli(
        "ingest", "--vectors", tmp_path / "vectors.npy", "--chunks", tmp_path / "chunks.parquet",
        "--encoder", "world", "--out", tmp_path / "store", "--shard-chunks", "100",
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code == 0
    assert done.out == f"40 documents, 480 chunks added to {tmp_path / 'store'}\n"
    assert json.loads((tmp_path / "r.json").read_text())["normalised"] is True
    store = Store.open(tmp_path / "store", verify=True)
    assert store.encoder["name"] == "world"
    assert len(store.info["shards"]) == 5
    assert [d.title for d in store.documents] == [d.title for d in world.documents]
    np.testing.assert_array_equal(store.vectors, world.vectors)


def test_ready_made_vectors_are_of_an_unknown_encoder_unless_one_is_named(
    cli, world: Store, tmp_path: Path
) -> None:
    chunks = world.chunks.select(["doc_id", "position", "text", "source", "title"])
    pq.write_table(chunks, tmp_path / "chunks.parquet")
    np.save(tmp_path / "vectors.npy", np.asarray(world.vectors))
    ready = ("--vectors", tmp_path / "vectors.npy", "--chunks", tmp_path / "chunks.parquet")
    assert cli("ingest", *ready, "--out", tmp_path / "store").code == 0
    assert "encoder      unknown encoder, " in cli("info", tmp_path / "store").out
    refused = cli("ingest", *ready, "--out", tmp_path / "other", "--verify-encoder")
    assert (refused.code, "add --encoder NAME" in refused.err) == (2, True)
    assert cli("export-npz", world.path, tmp_path / "w.npz").code == 0
    assert cli("ingest", tmp_path / "w.npz", "--out", tmp_path / "back").code == 0
    assert "encoder      unknown encoder, " in cli("info", tmp_path / "back").out


def test_npz_there_and_back(cli, world: Store, tmp_path: Path) -> None:
    file, back = tmp_path / "windows.npz", tmp_path / "back"
    done = cli("export-npz", world.path, file, "--context", "4", "--sources", "web")
    assert done.code == 0
    assert done.out.startswith(f"160 windows of 20 documents written to {file}; 0 documents are too short")
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["context_sequences"].shape == (160, 4, 16)
        assert arrays["concept_texts"][0] == world.texts([4])[0]
    again = cli("ingest", file, "--out", back, "--encoder", "world")
    assert again.code == 0
    store = Store.open(back)
    assert [d.doc_id for d in store.documents] == [f"doc-{i}" for i in range(0, 40, 2)]
    first = world.find("doc-2")
    np.testing.assert_array_equal(
        store.vectors[12:24], world.vectors[first.first : first.first + first.count]
    )


def test_export_of_a_split(cli, world: Store, tmp_path: Path) -> None:
    split = {"train": [f"doc-{i}" for i in range(38)], "test": ["doc-38", "doc-39"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    done = cli(
        "export-npz",
        world.path,
        tmp_path / "t.npz",
        "--split",
        "test",
        "--split-file",
        tmp_path / "split.json",
    )
    assert done.code == 0
    with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
        assert set(arrays["doc_ids"].tolist()) == {"doc-38", "doc-39"}


def test_info(cli, world: Store) -> None:
    output = cli("info", world.path)
    assert output.code == 0
    assert "documents    40 with 480 chunks (12 to 12 each, median 12)" in output.out
    assert "16-dimensional float32, unit length" in output.out
    assert "checksum" not in output.out
    assert "shards       2, every checksum agrees" in cli("info", world.path, "--verify").out
    figures = cli("info", world.path, "--json", "-").json
    assert figures["sources"] == {
        "books": {"documents": 20, "chunks": 240},
        "web": {"documents": 20, "chunks": 240},
    }
    assert (figures["dimension"], figures["fingerprint"]) == (16, world.fingerprint)


def test_models(cli) -> None:
    rows = cli("models", "--json", "-").json
    assert all({"name", "preset", "parameters", "streaming"} <= row.keys() for row in rows)
    brief = {row["name"]: row["parameters"] for row in rows if row["preset"] == "brief"}
    assert (
        brief.items()
        >= {
            "amn": 1_510_912,
            "lstm": 5_120_768,
            "gru": 7_095_552,
            "transformer": 17_867_520,
        }.items()
    )
    for name in brief:
        assert {row["preset"] for row in rows if row["name"] == name} >= {"brief", "small"}
    assert {row["streaming"] for row in rows} <= {"constant", "cache", "buffer"}
    table = cli("models").out.splitlines()
    assert len(table) == len(rows) + 2
    assert any(line.split()[:3] == ["transformer", "brief", "17,867,520"] for line in table)


def test_the_packaged_encoder_says_nothing_of_its_own(cli, texts: Path, tmp_path: Path) -> None:
    """The libraries behind it show a bar of their own while they load."""
    done = cli("ingest", texts, "--out", tmp_path / "store", "--encoder-option", "precision=float32",
               "--encoder-option", "device=cpu")  # fmt: skip
    assert done.code == 0
    lines = done.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["read", "encoding on cpu float32", "encode"]
    store = Store.open(tmp_path / "store")
    assert store.dimension == 384
    assert pa.types.is_string(store.chunks["text"].type)
    assert store.encoder["name"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_servers_tokenizer_is_named_and_not_looked_for(cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A sentence.")
    command = ("ingest", tmp_path / "a.txt", "--out", tmp_path / "store")
    served = ("--endpoint", "http://127.0.0.1:9", "--encoder", "private/model")
    done = cli(*command, *served, "--chunker", "tokens")
    assert done.code == 2
    assert "the tokenizer of the server's 'private/model' is not here" in done.err
    assert "--tokenizer FILE" in done.err
    done = cli(*command, "--tokenizer", tmp_path / "a.txt")
    assert "the chunker words counts no tokens" in done.err
    done = cli(*command, "--chunker", "tokens", "--tokenizer", tmp_path / "a.txt")
    assert "is not a tokenizer" in done.err


def test_documents_are_listed_replaced_deleted_and_compacted(cli, hash_encoder: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.txt").write_text(f"The first text of {name}. It has a second sentence.")
    (tmp_path / "in" / "c.txt").write_bytes(b"\xff\xfe\xff")
    store = tmp_path / "store"
    command = ("ingest", tmp_path / "in", "--out", store, "--quiet")
    refused = cli(*command, "--strict")
    assert (refused.code, store.exists()) == (2, False)
    assert "c.txt: byte 0xff in line 1 is not utf-8" in refused.err
    done = cli(*command)
    assert done.code == 0
    assert "skipped: 1 files that could not be read" in done.out
    assert "c.txt: byte 0xff in line 1 is not utf-8" in done.out
    (tmp_path / "in" / "c.txt").unlink()
    (tmp_path / "in" / "a.txt").write_text("Another text of a.")
    assert "put it in the old one's place with --replace" in cli(*command).err
    replaced = cli(*command, "--replace", "--json", "-").json
    assert (replaced["documents"], replaced["replaced"]) == (1, 1)
    assert "1 of them in the place of" not in cli(*command, "--replace").out  # nothing has changed since
    gone = cli("delete", store, "b.txt")
    assert (gone.code, gone.out.partition(";")[0]) == (0, "1 document deleted, views included")
    output = cli("info", store, "--json", "-").json
    assert (output["documents"], output["chunks"], output["deleted"]) == (1, 1, 2)
    assert "deleted      2 chunks, until nextvec compact" in cli("info", store).out
    assert cli("compact", store).out == f"2 chunks removed from {store}\n"
    assert Store.open(store, verify=True).texts([0]) == ["Another text of a."]
    assert len(Store.open(store)) == 1
    assert cli("delete", store, "nobody").code == 2


@pytest.mark.usefixtures("hash_encoder")
def test_documents_too_short_for_a_window_are_told_and_what_is_advised_works(
    cli, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """Thirty documents of 4 or 6 chunks; two of the four that are tested on have a window."""
    folder, store = tmp_path / "texts", tmp_path / "store"
    folder.mkdir()
    for i in range(30):
        lines = [" ".join(f"{word}{i}-{k}" for word in "abcdefgh") + "." for k in range(6 if i % 3 else 4)]
        (folder / f"{i:02d}.txt").write_text("\n\n".join(lines))
    made = ingest_sentences(cli, folder, store, "--quiet")
    assert "few documents: of 30 the default split keeps 19 for training, 7 for validation and 4" in made.out
    assert (
        "fewer than 6 chunks, too few for a window of the default recipe or of the evaluation: 10 of 30"
        in (made.out)
    )
    assert "nextvec train --set data.min_context=3; nextvec evaluate --judge-context 3" in made.out
    ids = [d.doc_id for d in Store.open(store).documents]
    split = {"train": [*ids[1:21], *ids[25:]], "validation": [ids[21]], "test": [ids[0], ids[22], ids[24]]}
    split["train"].append(ids[23])
    (tmp_path / "split.json").write_text(json.dumps(split))
    residual = ("train", store, "--model", "lstm", *tiny, "--quiet")
    divided = (*residual, "--split-file", tmp_path / "split.json", "--out", tmp_path / "run")
    refused = cli(*divided)
    assert refused.code == 2
    assert "no target in 1 document: " in refused.err
    assert "the longest document has 4; lower what is read before a target: --set data.min_context=3, or" in (
        refused.err
    )
    trained = cli(*divided, "--set", "data.min_context=3")
    assert trained.code == 0
    assert (
        "the test split is 1 document (1 window), over which no interval says much (2 more have"
        in trained.err
    )
    assert "data.split.test" not in trained.err
    assert "--folds 5" in trained.err
    evaluated = ("evaluate", tmp_path / "run", "--store", store, "--judge-context", "3", "--no-speed")
    assert cli(*evaluated, "--quiet").code == 0
