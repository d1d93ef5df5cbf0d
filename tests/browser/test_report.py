"""The report as a person sees it: at a desk, on a phone, on paper, in the dark, and sorted by a click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from browser.viewports import DESKTOP, PAPER, PHONE
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.report import make_report

pytestmark = pytest.mark.browser

LONG = (
    "transformer, objective=mse-infonce, data.context=32, model.options.layers=2, model.options.residual=ema"
)


@pytest.fixture(scope="module")
def report(matrix: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report with everything in it."""
    return make_report(
        ReportInputs.of(matrix, deep=True), tmp_path_factory.mktemp("report"), quiet=True
    ).page.as_uri()


def sideways(page: Page) -> int:
    """Pixels that the page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


def column(page: Page, number: int) -> list[str]:
    """What a column of the main table shows, from above."""
    cells = page.locator(f"table.sortable >> nth=0 >> tbody tr > :nth-child({number})")
    return cells.all_inner_texts()


def test_at_a_desk(report: str, open_page: Callable[..., Page], keep_picture: Callable[..., Path]) -> None:
    page = open_page(report)
    assert sideways(page) == 0
    claims = page.locator(".claims li")
    assert claims.count() >= 2
    sizes = claims.evaluate_all("all => all.map(each => getComputedStyle(each).fontSize)")
    assert set(sizes) == {"16px"}
    keep_picture(page, "report", height=1500)


def test_on_a_phone(report: str, open_page: Callable[..., Page], keep_picture: Callable[..., Path]) -> None:
    page = open_page(report, viewport=PHONE)
    assert sideways(page) == 0
    table = page.locator(".wide").first
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")
    table.evaluate("each => each.scrollTo(each.scrollWidth, 0)")
    name = page.locator("table.sortable tbody th").first.bounding_box()
    assert name is not None
    assert 0 <= name["x"] < 60  # the names stay while the figures are scrolled
    table.evaluate("each => each.scrollTo(0, 0)")
    keep_picture(page, "report-phone", height=1500)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_long_names_leave_a_column_that_can_be_read(
    report: str, open_page: Callable[..., Page], viewport: Any
) -> None:
    page = open_page(report, viewport=viewport)
    name = page.locator("table.sortable tbody th").last
    name.evaluate("(each, text) => { each.textContent = text; }", LONG)
    box = name.bounding_box()
    assert box is not None
    assert viewport["width"] * 0.15 < box["width"] < viewport["width"] * 0.5
    assert box["height"] < 200
    assert sideways(page) == 0


def test_a_click_sorts_and_another_turns_it_round(report: str, open_page: Callable[..., Page]) -> None:
    page = open_page(report)
    before = column(page, 1)
    heading = page.get_by_role("button", name="cosine", exact=True).first
    heading.click()
    down = [float(text.rstrip("*+−")) for text in column(page, 2)]
    assert down == sorted(down, reverse=True)
    assert page.locator("th[aria-sort=descending]").count() == 1
    heading.press("Enter")
    up = [float(text.rstrip("*+−")) for text in column(page, 2)]
    assert up == sorted(up)
    page.get_by_role("button", name="predictor").first.click()
    assert column(page, 1) == sorted(before, key=str.lower)
    assert page.locator("th[aria-sort]").count() == 1


def test_on_paper_no_column_is_cut_off(report: str, open_page: Callable[..., Page]) -> None:
    page = open_page(report, viewport=PAPER)
    page.emulate_media(media="print", color_scheme="dark")
    assert sideways(page) == 0
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = page.locator(".wide").evaluate_all(
        "all => all.filter(each => each.scrollWidth > innerWidth).length"
    )
    assert cut == 0


def test_in_the_dark(report: str, open_page: Callable[..., Page]) -> None:
    page = open_page(report, color_scheme="dark")
    shades = page.evaluate("""() => {
        const light = colour => Math.max(...colour.match(/\\d+/g).slice(0, 3).map(Number)) / 255;
        const style = getComputedStyle(document.body);
        return [light(style.color), light(style.backgroundColor)];
    }""")
    assert shades[0] > 0.8
    assert shades[1] < 0.2
