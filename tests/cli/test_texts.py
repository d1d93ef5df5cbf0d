"""The text of a verb comes from one place, as `nextvec ingest` would read it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from nextvec.cli.text_flags import EncoderFlags, TextFlags, VectorFlags, open_text_reader, read_text
from nextvec.corpus.reading import Space
from nextvec.errors import ConfigError, DocumentError, EncoderError, NextvecError

TEXT = "Größe of a  line\r\n\r\n\r\nand\tanother \n"
NORMAL = "Größe of a  line\n\nand another"
RUN = Path("pretrained")


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_a_text_is_the_same_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    (tmp_path / "a.md").write_text("# Title\n\nGröße of a *line*.", encoding="utf-8")
    give(monkeypatch, TEXT.encode())
    assert read_text(TextFlags(text=TEXT), RUN) == (NORMAL, "--text")
    assert read_text(TextFlags(file=tmp_path / "a.txt"), RUN) == (NORMAL, str(tmp_path / "a.txt"))
    assert read_text(TextFlags(file=Path("-")), RUN) == (NORMAL, "standard input")
    assert read_text(TextFlags(file=tmp_path / "a.md"), RUN)[0] == "Größe of a line."


def test_what_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"good\nb\xe9d")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "two.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (tmp_path / "a.exe").write_text("text")
    cases: dict[str, TextFlags | None] = {
        "--text: no text given; give one of --text and --file": None,
        "--text: two texts given": TextFlags("a", Path("b")),
        "--text: no text in it; give a sentence": TextFlags(" \n"),
        "--text: character 3 is not UTF-8": TextFlags("ab\udce9"),
        "bytes.txt: byte 0xe9 in line 2 is not utf-8": TextFlags(file=tmp_path / "bytes.txt"),
        "empty.txt: document without text": TextFlags(file=tmp_path / "empty.txt"),
        "two.jsonl: holds several documents": TextFlags(file=tmp_path / "two.jsonl"),
        "a.exe: unknown extension '.exe'": TextFlags(file=tmp_path / "a.exe"),
        "gone.txt: no such file": TextFlags(file=tmp_path / "gone.txt"),
        "is a folder; name one file of it": TextFlags(file=tmp_path),
    }
    for says, flags in cases.items():
        with pytest.raises(NextvecError) as error:
            read_text(flags, RUN)
        assert says in str(error.value)
    with pytest.raises(ConfigError, match=r"empty\.txt is a file, not a run, and no text given; give --file"):
        read_text(None, tmp_path / "empty.txt")
    give(monkeypatch, b"b\xe9d")
    with pytest.raises(DocumentError, match="standard input: byte 0xe9 is not utf-8"):
        read_text(TextFlags(file=Path("-")), RUN)
    monkeypatch.setattr("nextvec.corpus.readers.base.MAX_DOCUMENT_BYTES", 8)
    give(monkeypatch, b"123456789")
    with pytest.raises(DocumentError, match="standard input: longer than"):
        read_text(TextFlags(file=Path("-")), RUN)


def described(**more: object) -> Space:
    encoder = {"name": "all-MiniLM-L6-v2", "kind": "sentence-transformers", "fingerprint": "f", **more}
    return Space(encoder, {"kind": "sentence"}, normalised=False)


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (EncoderFlags(encoder_option=("device=cpu",)), ("all-MiniLM-L6-v2", "cpu", 64)),
        (EncoderFlags(encoder_option=("max_tokens=32",)), ("all-MiniLM-L6-v2", "auto", 32)),
        (EncoderFlags("folder"), ("folder", "auto", None)),
    ],
)
def test_flags_go_over_what_the_space_says(
    monkeypatch: pytest.MonkeyPatch, flags: EncoderFlags, command: tuple[object, ...]
) -> None:
    seen: list[object] = []

    def load(config: object) -> object:
        seen.append(config)
        return SimpleNamespace(name="loaded", fingerprint={"fingerprint": "f"}, unit=False)

    monkeypatch.setattr("nextvec.corpus.reading.load_encoder", load)
    open_text_reader(described(max_tokens=64), flags)
    assert [(c.name, c.device, c.max_tokens) for c in seen] == [command]  # type: ignore[attr-defined]


def test_a_server_has_to_be_named() -> None:
    for flags in (EncoderFlags(), EncoderFlags(encoder_option=("batch_size=2",))):
        with pytest.raises(EncoderError, match="is a server's; name it: --endpoint"):
            open_text_reader(described(kind="openai"), flags)


def test_vectors_are_asked_for_in_full(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output-type: .*add --vector FILE"):
        VectorFlags(output_type="cosine").check()
    for path in (tmp_path, tmp_path / "v.txt"):
        with pytest.raises(ConfigError, match=r"--vector: .* is not an \.npy file"):
            VectorFlags(vector=path).check()
