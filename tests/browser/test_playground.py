"""The playground in use: a text goes in; passages, a curve and attention come out; nothing goes elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from browser.viewports import DESKTOP, PHONE

pytestmark = pytest.mark.browser

CHUNKS = 9
"""Sentences of the page's example."""
KEY = "a-key-of-this-test"
EVIL = (
    '<img src=x onerror="document.title=1"> was written on the wall. The boats came in at noon with the tide.'
)
Open = Callable[..., Page]


@pytest.fixture
def playground(server: str, open_page: Open) -> Page:
    """The page, with its models loaded."""
    page = open_page(f"{server}/")
    expect(page.get_by_label("Model", exact=True).locator("option")).to_have_text(["amn", "gru"])
    return page


def ask(page: Page, *, model: str = "amn", beside: str = "") -> None:
    """Ask about the example and wait for the answer."""
    page.get_by_role("button", name="Use the example").click()
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Beside it").select_option(beside)
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("status")).to_have_text(re.compile("^Answered in"))


def prediction(page: Page, model: str) -> Locator:
    """What a model said."""
    return page.get_by_role("region", name=f"Prediction of {model}")


def test_a_text_gets_passages_with_scores(playground: Page) -> None:
    playground.get_by_label("Passages").fill("4")
    ask(playground)
    passages = prediction(playground, "amn").locator(".passages li")
    expect(passages).to_have_count(4)
    scores = [float(text) for text in passages.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    expect(passages.first).to_contain_text(re.compile(r"· chunk \d+"))
    expect(playground.get_by_role("region", name="For comparison").locator(".passages li")).to_have_count(4)


def test_the_curve_has_a_point_for_every_chunk_that_could_be_expected(playground: Page) -> None:
    ask(playground)
    curve = playground.get_by_role("region", name="Surprise", exact=True)
    expect(curve.get_by_role("img")).to_have_attribute("aria-label", re.compile(f"over {CHUNKS} chunks"))
    expect(curve.locator("circle.dot")).to_have_count(CHUNKS - 1)
    curve.get_by_text("As numbers").click()
    rows = curve.locator("tbody tr")
    expect(rows).to_have_count(CHUNKS)
    expect(rows.nth(0).locator(".number")).to_have_text("–")
    assert 0 <= float(rows.nth(5).locator(".number").inner_text()) <= 2


def test_attention_shades_what_was_read(playground: Page) -> None:
    ask(playground)
    shaded = prediction(playground, "amn").locator(".chunks li[data-weight]")
    weights = [float(item.get_attribute("data-weight") or "nan") for item in shaded.all()]
    assert len(weights) > 1
    assert sum(weights) == pytest.approx(1, abs=0.01)
    shades = shaded.evaluate_all("all => all.map(each => getComputedStyle(each).backgroundColor)")
    assert (len(set(shades)) > 1) == (len({round(weight, 3) for weight in weights}) > 1)


def test_two_models_side_by_side(playground: Page, keep_picture: Callable[..., Path]) -> None:
    ask(playground, model="amn", beside="gru")
    boxes = [prediction(playground, name).bounding_box() for name in ("amn", "gru")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    expect(playground.locator(".legend li:not(.boundary)")).to_have_text(["amn", "gru"])
    expect(playground.locator(".curve path")).to_have_count(2)
    expect(prediction(playground, "gru").locator("[data-weight]")).to_have_count(0)
    keep_picture(playground, "playground")


def test_models_that_cut_a_text_in_other_places_get_curves_of_their_own(playground: Page) -> None:
    chunk = {"end": 9, "text": "Everything.", "surprise": 0.5, "opens_segment": True}
    chunks = [{**chunk, "start": 0, "surprise": None}, {**chunk, "start": 3}]

    def cut_otherwise(route: Route) -> None:
        if route.request.post_data_json["model"] == "gru":
            route.fulfill(status=200, body=json.dumps({"chunks": chunks}))
        else:
            route.continue_()

    playground.route("**/v1/surprise", cut_otherwise)
    ask(playground, beside="gru")
    curves = playground.get_by_role("region", name="Surprise", exact=True)
    expect(curves).to_have_count(2)
    expect(curves.nth(0).locator("circle.dot")).to_have_count(CHUNKS - 1)
    expect(curves.nth(1).locator("rect.dot")).to_have_count(1)
    expect(curves.nth(1).locator(".boundary:not(li)")).to_have_count(1)


def test_no_request_leaves_the_server(server: str, open_page: Open) -> None:
    page = open_page("about:blank")
    requested: list[Request] = []
    page.on("request", lambda request: requested.append(request))
    answer = page.goto(f"{server}/")
    assert answer is not None
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    ask(page, beside="gru")
    routes = [request.url.removeprefix(server) for request in requested]
    assert all(route.startswith("/") for route in routes)
    assert {"/v1/models", "/v1/predict/text", "/v1/surprise", "/v1/retrieve", "/style.css"} <= set(routes)


def test_texts_are_shown_as_texts(playground: Page) -> None:
    playground.get_by_label("Text").fill(EVIL)
    playground.get_by_role("button", name="Predict").click()
    expect(prediction(playground, "amn").locator(".chunks")).to_contain_text("<img src=x onerror=")
    assert playground.locator("#results img").count() == 0
    assert playground.title() == "nextvec playground"


def test_code_keeps_its_line_breaks(playground: Page) -> None:
    code = "def sail(boat):\n    boat.leave(harbour)\n    return boat"
    playground.get_by_label("Text").fill(f"The boats came in at\nnoon with the tide.\n\n{code}")
    playground.get_by_role("button", name="Predict").click()
    written = prediction(playground, "amn").locator(".chunks code").first
    expect(written).to_have_css("white-space", "pre-wrap")
    assert "\n    boat.leave(harbour)" in written.inner_text()


def test_no_text_is_said_and_nothing_is_asked(playground: Page) -> None:
    requested: list[Request] = []
    playground.on("request", lambda request: requested.append(request))
    playground.get_by_label("Text").fill("  \n ")
    playground.get_by_role("button", name="Predict").click()
    expect(playground.get_by_role("alert")).to_contain_text("There is no text yet")
    expect(playground.get_by_label("Text")).to_be_focused()
    assert requested == []


REFUSALS: list[tuple[int, dict[str, Any], dict[str, str], str]] = [
    (429, {"message": "full"}, {"Retry-After": "3"}, "The server is busy. Try again in 3 seconds."),
    (409, {"message": "no store was given", "remedy": "start it with --store"}, {},
     "No store was given. Start it with --store."),
    (500, {}, {}, "The server failed (500)."),
]  # fmt: skip


@pytest.mark.parametrize(("status", "error", "headers", "message"), REFUSALS)
def test_refusals_are_said_in_words_and_the_rest_is_shown(
    playground: Page, status: int, error: dict[str, Any], headers: dict[str, str], message: str
) -> None:
    body = json.dumps({"error": error})
    playground.route("**/v1/retrieve", lambda route: route.fulfill(status=status, headers=headers, body=body))
    playground.get_by_role("button", name="Use the example").click()
    playground.get_by_role("button", name="Predict").click()
    expect(playground.get_by_role("alert")).to_have_text(message)
    expect(playground.get_by_role("status")).to_have_text("Not everything was answered.")
    expect(prediction(playground, "amn").locator(".passages li")).to_have_count(5)


def test_without_a_store_there_is_a_prediction_and_no_passages(playground: Page) -> None:
    refusal = json.dumps({"error": {"message": "no store was given", "code": "no_store"}})

    def without_store(route: Route) -> None:
        requested = route.request.post_data_json
        if requested.get("passages") == 0:
            route.continue_()
        else:
            route.fulfill(status=409, body=refusal)

    for name in ("predict/text", "retrieve"):
        playground.route(f"**/v1/{name}", without_store)
    playground.get_by_role("button", name="Use the example").click()
    playground.get_by_role("button", name="Predict").click()
    expect(playground.get_by_role("alert")).to_have_text("No store was given.")
    expect(prediction(playground, "amn").locator(".passages")).to_have_count(0)
    expect(prediction(playground, "amn").locator(".chunks li")).to_have_count(CHUNKS)


def test_a_server_that_is_gone_is_said(playground: Page) -> None:
    playground.route("**/v1/**", lambda route: route.abort())
    playground.get_by_role("button", name="Use the example").click()
    playground.get_by_role("button", name="Predict").click()
    expect(playground.get_by_role("alert")).to_have_text("The server cannot be reached. Is it still running?")


def test_a_key_is_asked_for_and_sent(server: str, open_page: Open) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            route.fulfill(status=401, body=json.dumps({"error": {"message": "no key"}}))

    page = open_page("about:blank")
    page.route("**/v1/**", guarded)
    page.goto(f"{server}/")
    expect(page.get_by_role("alert")).to_contain_text("asks for an API key")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill(KEY)
    field.press("Tab")
    ask(page)
    expect(page.get_by_role("alert")).to_be_empty()
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


@pytest.fixture
def held(playground: Page) -> Iterator[list[Route]]:
    """Requests for predictions, which wait until they are let go."""
    routes: list[Route] = []
    playground.route("**/v1/predict/text", lambda route: routes.append(route))
    yield routes
    playground.unroute_all(behavior="ignoreErrors")


def test_waiting_is_shown(playground: Page, held: list[Route]) -> None:
    playground.get_by_role("button", name="Use the example").click()
    with playground.expect_request("**/v1/predict/text"):
        playground.get_by_label("Text").press("Control+Enter")
    expect(playground.get_by_role("status")).to_have_text("Asking amn …")
    expect(playground.get_by_role("button", name="Predict")).to_be_disabled()
    expect(playground.locator("#results")).to_have_attribute("aria-busy", "true")
    held.pop().continue_()
    expect(playground.get_by_role("status")).to_have_text(re.compile("^Answered in"))
    expect(playground.get_by_role("button", name="Predict")).to_be_enabled()
    expect(playground.locator("#results")).to_have_attribute("aria-busy", "false")


def test_a_later_question_takes_the_place_of_an_earlier_one(playground: Page, held: list[Route]) -> None:
    text = playground.get_by_label("Text")
    for message in ("The first question. It is about bread.", "The second question. It is about the sea."):
        text.fill(message)
        with playground.expect_request("**/v1/predict/text"):
            text.press("Control+Enter")
    held.pop().continue_()
    expect(prediction(playground, "amn").locator(".chunks")).to_contain_text("about the sea")
    expect(playground.get_by_role("alert")).to_be_empty()
    assert "about bread" not in playground.locator("#results").inner_text()


def test_every_field_has_a_label_and_can_be_reached_by_keyboard(playground: Page) -> None:
    fields = playground.locator("textarea, select, input")
    assert fields.evaluate_all("all => all.every(each => each.labels.length === 1)")
    playground.get_by_label("Text").focus()
    reached = []
    for _ in range(fields.count() + 1):
        playground.keyboard.press("Tab")
        reached.append(playground.evaluate("document.activeElement.id || document.activeElement.type"))
    assert reached == ["model", "other", "strategy", "passages", "key", "submit", "example"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_nothing_is_wider_than_the_window(
    server: str, open_page: Open, keep_picture: Callable[..., Path], viewport: Any, scheme: str
) -> None:
    page = open_page(f"{server}/", viewport=viewport, color_scheme=scheme)
    ask(page, beside="gru")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    letters = page.locator(".curve text").first.bounding_box()
    assert letters is not None
    assert letters["height"] > 10
    keep_picture(page, f"playground-{viewport['width']}-{scheme}")
