"""MediaWiki dumps, the cleaning of wikitext, and the demo corpus. All texts are written for the tests."""

from __future__ import annotations

import bz2
import importlib.machinery
import importlib.util
import logging
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from nextvec.corpus.documents import DUMP, ReaderOptions, ReadReport, demo_options, demo_source, read_source
from nextvec.corpus.readers.wikitext import LinkPrefixes, clean_wikitext, is_balanced
from nextvec.errors import DocumentError, MissingDependencyError

SITE = """<siteinfo><dbname>dewiki</dbname><namespaces><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace><namespace key="1">Diskussion</namespace></namespaces></siteinfo>"""


def page(
    number: int, text: str, *, title: str = "", ns: int = 0, extra: str = "", model: str = "wikitext"
) -> str:
    return (
        f"<page><title>{title or f'Page {number}'}</title><ns>{ns}</ns><id>{number}</id>{extra}"
        f"<revision><id>{number}99</id><contributor><id>7</id></contributor><model>{model}</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>'
    )


def dump(path: Path, *pages: str, site: str = SITE, head: str = "") -> Path:
    xml = f'{head}<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{site}{"".join(pages)}</mediawiki>'
    path.write_bytes(bz2.compress(xml.encode()) if path.suffix == ".bz2" else xml.encode())
    return path


@pytest.mark.parametrize("name", ["dewiki.xml", "dewiki.xml.bz2", "dewiki-articles.xml-p1p3-shortened.bz2"])
def test_articles_are_read_and_the_rest_is_counted(tmp_path: Path, name: str) -> None:
    path = dump(
        tmp_path / name,
        page(
            1,
            "'''Moss''' is a [[plant]].[[Datei:Moss.jpg|mini|Some moss]]\n\n[[Kategorie:Plants]]",
            title="Moss",
        ),
        page(2, "x", extra='<redirect title="Moss" />'),
        page(3, "#REDIRECT [[Moss]]"),
        page(4, "Talk.", ns=1),
        page(5, "{{stub}}"),
        page(6, "{}", model="json"),
        page(7, "Fern & <i>tree</i>.", title="A &amp; B"),
    )
    report = ReadReport()
    documents = list(read_source(path, report=report))
    assert [(d.doc_id, d.source, d.title, d.text) for d in documents] == [
        ("dewiki/1", "dewiki", "Moss", "Moss is a plant."),
        ("dewiki/7", "dewiki", "A & B", "Fern & tree."),
    ]
    assert dict(report.skipped) == {
        "redirects": 2,
        "outside the main namespace": 1,
        "empty": 1,
        "no wikitext": 1,
    }


def test_a_dump_without_site_information_is_named_after_its_file(tmp_path: Path) -> None:
    path = dump(tmp_path / "frwiki-latest.xml", page(1, "Text."), site="")
    assert [d.doc_id for d in read_source(path)] == ["frwiki/1"]


def test_the_newest_revision_counts(tmp_path: Path) -> None:
    two = "<page><title>T</title><ns>0</ns><id>1</id><revision><text>Old.</text></revision>"
    path = dump(tmp_path / "w.xml", two + "<revision><text>New.</text></revision></page>")
    assert [d.text for d in read_source(path)] == ["New."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html><p>x</p></html>", r"w\.xml: is not a MediaWiki dump \(it begins with <html>\)"),
        ("<mediawiki><page><title>T</title>", r"w\.xml:1: is broken XML"),
        ("", r"w\.xml:1: is broken XML"),
        ("<mediawiki>" + "<a>" * 40, r"w\.xml: XML nested too deeply"),
        (
            "<mediawiki><page><title>T</title><revision><text>x</text></revision></page></mediawiki>",
            "without id",
        ),
        (
            '<!DOCTYPE m [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><mediawiki>&b;</mediawiki>',
            r"w\.xml:1: has a document type declaration",
        ),
        ("<mediawiki>&undefined;</mediawiki>", r"w\.xml:1: is broken XML"),
    ],
)
def test_xml_that_is_no_dump_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "w.xml").write_text(content)
    with pytest.raises(DocumentError, match=message):
        list(read_source(tmp_path / "w.xml"))


def test_a_page_above_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextvec.corpus.readers.mediawiki.MAX_DOCUMENT_BYTES", 100)
    path = dump(tmp_path / "w.xml", page(1, "word " * 50))
    with pytest.raises(DocumentError, match="longer than"):
        list(read_source(path))


def test_unbalanced_markup_is_skipped_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = dump(tmp_path / "w.xml", page(1, "{{a|" * 500, title="Bad"), page(2, "Good."))
    report = ReadReport()
    with caplog.at_level(logging.WARNING, "nextvec.corpus"):
        assert [d.text for d in read_source(path, report=report)] == ["Good."]
    assert report.skipped["unbalanced markup"] == 1
    assert "page 'Bad' has unbalanced markup" in caplog.text
    assert is_balanced("{{a}} [[b]] <b>c</b><br>" * 1000)
    assert not is_balanced("<b>" * 500)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''[[Target|shown]]''s, [[plain]].", "Bold and showns, plain."),
        ("A fact.<ref>Source</ref><ref name=x /> More.<!-- hidden -->", "A fact. More."),
        ("Open.<ref name=a> Two.<ref>gone</ref> Three.", "Open. Two. Three."),
        ("[[File:a.jpg|thumb|A [[caption]] here]]Text.\n[[Category:X]]", "Text."),
        ("[[:Category:X|Shown]] and [[fr:Autre]]", "Shown and"),
        ("Broken [[File:a.jpg|thumb|200px|caption", "Broken caption"),
        ("{{Infobox|a=1}}\nText {{citation needed}}.", "Text."),
        ("{|\n! head\n|-\n| cell\n|}\nText.", "Text."),
        ("| left over\n|}\nText.", "Text."),
        ("<gallery>\nA.jpg|x\n</gallery>Text.", "Text."),
        ("One line\nsame paragraph.\n\nNext.", "One line same paragraph.\n\nNext."),
        ("They are:\n* one\n** two\n# three\nAfter.", "They are:\n- one\n- two\n- three\n\nAfter."),
        ("* {{dropped}}\n* kept", "- kept"),
        ("; Term : meaning\n: indented", "Term: meaning\nindented"),
        ("x<br />y&nbsp;&ndash; z&#xD800;&#2; é&eacute;", "x y – z éé"),
        ("Greek {{lang|grc|λόγος}}, ''{{transl|grc|logos}}''", "Greek λόγος, logos"),
        ("{{lang-fr|mot}} of {{convert|5|km|mi}}, {{convert|5|to|8|m|ft}}", "mot of 5 km, 5 to 8 m"),
        ("{{frac|1|2}} {{frac|3|1|4}} {{frac|8}} {{as of|2015}}", "1/2 3 1/4 1/8 As of 2015"),
        ("Before\n{{quote|Said so.|author=X}}\nAfter", "Before\n\nSaid so.\n\nAfter"),
        ("10<sup>5</sup> on the 5<sup>th</sup>, H<sub>2</sub>O", "10^5 on the 5th, H2O"),
        ("so <math>x_{y_{z}}^{{2}}</math> holds", "so x_{y_{z} }^{ {2} } holds"),
        ("Name ({{IPAc-en|a}}; born 1900) and (, or ) x", "Name (born 1900) and x"),
        ("A ( {{dropped}} ) , b {{dropped}}. c, .", "A, b. c."),
        ("(pronounced {{dropped}}) Yes", "Yes"),
        ("[http://example.org shown] http://example.org/bare [http://example.org]", "shown"),
        ("__NOTOC__\nText.", "Text."),
        ("<blockquote>Words</blockquote>", "Words"),
    ],
)
def test_wikitext_becomes_prose(wikitext: str, text: str) -> None:
    assert clean_wikitext(wikitext)[0] == text


def test_headings_and_the_sections_after_the_article() -> None:
    article = (
        "Lead.\n== History ==\nPast.\n=== Notes ===\nOut.\n=== Later ===\nNow.\n"
        "== See also ==\n* [[Other]]\n=== More ===\nOut.\n== Legacy ==\nEnd."
    )
    assert clean_wikitext(article) == ("Lead.\n\nPast.\n\nNow.\n\nEnd.", 6)
    kept = "Lead.\n\nHistory\n\nPast.\n\nLater\n\nNow.\n\nLegacy\n\nEnd."
    assert clean_wikitext(article, keep_headings=True) == (kept, 3)


def test_headings_inside_an_unclosed_tag_are_seen() -> None:
    assert clean_wikitext("<div>Lead.\n== Notes ==\nOut.\n== Past ==\nIn.")[0].split("\n\n")[-1] == "In."


def test_headings_are_an_option_and_counted(tmp_path: Path) -> None:
    path = dump(tmp_path / "w.xml", page(1, "Lead.\n== Past ==\nThen."))
    report = ReadReport()
    assert [d.text for d in read_source(path, report=report)] == ["Lead.\n\nThen."]
    assert report.headings == 1
    (kept,) = read_source(path, options=ReaderOptions(headings=True))
    assert kept.text == "Lead.\n\nPast\n\nThen."


def test_link_prefixes_of_the_wiki() -> None:
    prefixes = LinkPrefixes().with_namespace("6", "Datei").with_namespace("0", "Haupt")
    assert clean_wikitext("[[Datei:a.png|b]][[Haupt:x]]", prefixes=prefixes)[0] == "Haupt:x"


def test_a_line_of_commas_takes_no_quadratic_time() -> None:
    assert clean_wikitext("a " + ", " * 50_000)[0].startswith("a")


def test_the_demo_finds_the_dump_without_importing_gensim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.machinery.ModuleSpec("gensim", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(MissingDependencyError, match=r"carries no test data.*; pip install nextvec\[demo\]"):
        demo_source()
    (tmp_path / DUMP).parent.mkdir(parents=True)
    dump(tmp_path / DUMP, page(1, "Long text. " * 300), page(2, "Stub."))
    report = ReadReport()
    documents = list(read_source(demo_source(), options=demo_options(), report=report))
    assert [d.title for d in documents] == ["Page 1"]
    assert report.skipped == {"shorter than 2000 characters": 1}


def test_the_demo_says_how_to_get_its_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"not installed; pip install nextvec\[demo\]"):
        demo_source()
