"""The page at `/` in a real browser, against a real server with tiny models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from prm.aggregation.objectives import OBJECTIVE_AGGREGATIONS, WeightedSum
from prm.aggregation.steps import STEP_AGGREGATIONS
from prm.models import checkpoint
from prm.scores.reaggregate import reaggregate, with_aggregations
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec, Shaping
from tests.outcome_models import RESPONSES, SPREAD_OBJECTIVES, outcome_model, save_joint_model
from tests.tiny_models import CHAINS, TWO_OBJECTIVES, tiny_model

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

PROMPT = "What is 2 + 3 * 4?"
ANSWERS = [rating.response for rating in RESPONSES]
CHAIN = CHAINS[4]
TOKEN = "open sesame"
PHONE = {"width": 360, "height": 740}


@dataclass
class Visit:
    """A page that is open, and what happened while it was."""

    page: Any
    problems: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def posted(self, path: str) -> int:
        """Return how often a path was asked for."""
        return sum(urlsplit(url).path == path for url in self.urls)

    def choose(self, model: str, mode: str) -> None:
        self.page.select_option("#model", model)
        self.page.get_by_role("radio", name=mode).check(force=True)

    def write_answers(self, texts: list[str]) -> None:
        self.page.get_by_label("Prompt").fill(PROMPT)
        while self.page.locator("#answers textarea").count() < len(texts):
            self.page.get_by_role("button", name="Add an answer").click()
        for index, text in enumerate(texts):
            self.page.locator(f"#answer-{index}").fill(text)

    def score_answers(self, texts: list[str]) -> None:
        self.write_answers(texts)
        self.page.keyboard.press("Control+Enter")
        self.page.locator(".card").nth(len(texts) - 1).wait_for()

    def score_chain(self, steps: tuple[str, ...]) -> None:
        self.page.get_by_label("Prompt").fill(PROMPT)
        self.page.locator("#chain").fill("\n".join(steps))
        self.page.keyboard.press("Control+Enter")
        self.page.locator(".step").nth(len(steps) - 1).wait_for()

    @property
    def order(self) -> str:
        """The letters of the answers, the best first."""
        return "".join(
            card.get_attribute("data-answer") for card in self.page.locator(".card").all()
        )

    def reranked(self, count: int) -> None:
        """Wait until the server has aggregated again so many times."""
        self.says("#status", "without running the model")
        assert self.posted("/v1/reaggregate") == count

    def says(self, selector: str, text: str) -> None:
        """Wait until a text is there."""
        self.page.locator(selector).filter(has_text=text).wait_for()


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RewardScorer]:
    """Return a process model, an outcome model and one that is both."""
    joint = save_joint_model(tmp_path_factory.mktemp("joint") / "model")
    spec = RewardSpec(
        step_heads=TWO_OBJECTIVES, chain_reward=TWO_OBJECTIVES[0].name, max_length=256
    )
    models = {
        "steps": tiny_model(spec=spec),
        "answers": outcome_model(response_heads=SPREAD_OBJECTIVES),
        "both": checkpoint.load(joint, "cpu"),
    }
    shapings = {"both": Shaping(squash="tanh", clip=(-0.5, 0.5))}
    return {name: RewardScorer(model, shaping=shapings.get(name)) for name, model in models.items()}


def running(scorers: dict[str, RewardScorer], **options: Any) -> Iterator[str]:
    """Serve models in a thread; yield the address."""
    from prm.serve.app import create_app
    from prm.serve.options import ServeOptions
    from prm.serve.pool import ModelPool
    from prm.serve.run import Server, open_socket

    chosen = ServeOptions(**options)
    server = Server(create_app(ModelPool(scorers, chosen)), chosen)
    with open_socket("127.0.0.1", 0, chosen) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def address(scorers: dict[str, RewardScorer]) -> Iterator[str]:
    yield from running(scorers)


@pytest.fixture(scope="module")
def guarded(scorers: dict[str, RewardScorer]) -> Iterator[str]:
    """Address of a server that asks for a token and takes small bodies only."""
    yield from running({"steps": scorers["steps"]}, token=TOKEN, max_body_bytes=2000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


def opened(browser: Any, address: str, **context: Any) -> Visit:
    page = browser.new_page(**context)
    page.set_default_timeout(10_000)
    visit = Visit(page)
    visit.listen()
    page.goto(address)
    return visit


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    """The page, which asks nobody else and has nothing to complain about."""
    visit = opened(browser, address)
    visit.page.wait_for_selector("#score:enabled")
    yield visit
    assert visit.problems == []
    assert {urlsplit(url).netloc for url in visit.urls} == {urlsplit(address).netloc}
    visit.page.close()


def test_nothing_comes_from_elsewhere_or_inline(address: str) -> None:
    import httpx

    from prm.serve.page import FILES

    reply = httpx.get(address)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", reply.text)
    for name, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert httpx.get(f"{address}static/{name}").text == text
    assert httpx.get(f"{address}static/page.py").status_code == 404
    assert httpx.get(f"{address}static/..%2fpage.py").status_code == 404


def test_the_menu_has_every_aggregation(visit: Visit) -> None:
    def offered() -> list[str]:
        options = visit.page.locator("#aggregation option").all()
        return [option.get_attribute("value") for option in options]

    visit.choose("steps", "Steps of a chain")
    assert offered() == list(STEP_AGGREGATIONS)
    visit.choose("answers", "Several answers")
    assert offered() == list(OBJECTIVE_AGGREGATIONS)


def test_a_chain_is_scored_and_its_first_error_marked(
    visit: Visit, scorers: dict[str, RewardScorer]
) -> None:
    (score,) = scorers["steps"].score([(PROMPT, CHAIN.completions)])
    assert score.first_error() == 2
    visit.score_chain(tuple(CHAIN.completions))
    steps = visit.page.locator(".step").all()
    assert [step.locator(".text").inner_text() for step in steps] == list(CHAIN.completions)
    shown = [step.locator(".score").inner_text().split()[-1] for step in steps]
    assert [float(number) for number in shown] == pytest.approx(score.probabilities, abs=6e-4)
    assert [step.get_attribute("data-side") for step in steps] == ["high", "high", "low", "low"]
    flagged = [step.get_by_text("First error").count() for step in steps]
    assert flagged == [0, 0, 1, 0]
    assert visit.page.get_by_text("First error: step 3").is_visible()
    assert "redundancy" in steps[0].inner_text()
    reward = visit.page.locator(".summary strong").inner_text()
    assert float(reward) == pytest.approx(score.reward, abs=6e-4)


def test_steps_are_aggregated_again_without_scoring(
    visit: Visit, scorers: dict[str, RewardScorer]
) -> None:
    visit.score_chain(tuple(CHAIN.completions))
    visit.page.get_by_label("Aggregation").select_option("softmin")
    visit.reranked(1)
    spec = with_aggregations(scorers["steps"].spec, "softmin", None)
    (score,) = scorers["steps"].score([(PROMPT, CHAIN.completions)])
    reward = visit.page.locator(".summary strong").inner_text()
    assert float(reward) == pytest.approx(reaggregate(score, spec).reward, abs=6e-4)
    assert "β = 10" in visit.page.locator("#formula").inner_text()
    assert visit.posted("/v1/score") == 1


def test_a_slider_moved_by_keyboard_ranks_again_without_scoring(
    visit: Visit, scorers: dict[str, RewardScorer]
) -> None:
    scorer = scorers["answers"]
    scores = scorer.score([(PROMPT, answer) for answer in ANSWERS])

    def expected(weights: dict[str, float] | None) -> str:
        spec = with_aggregations(scorer.spec, None, WeightedSum(weights))
        rewards = [reaggregate(score, spec).reward for score in scores]
        places = sorted(range(len(rewards)), key=lambda index: -rewards[index])
        return "".join("ABCDE"[index] for index in places)

    visit.choose("answers", "Several answers")
    visit.score_answers(ANSWERS)
    assert visit.order == expected(None)
    slider = visit.page.get_by_label("Weight of helpfulness")
    slider.focus()
    slider.press("Home")
    visit.reranked(1)
    without = {"helpfulness": 0, "safety": 1 / 3, "length": 1 / 3}
    assert visit.order == expected(without) != expected(None)
    assert "R = 0 · helpfulness + 0.333 · safety" in visit.page.locator("#formula").inner_text()
    assert "on this page only" in visit.page.locator("#force-note").inner_text()
    visit.page.get_by_role("button", name="Reset").press("Enter")
    visit.says("#force-note", "what everyone gets")
    assert visit.order == expected(None)
    assert visit.posted("/v1/score") == 1


def test_objectives_are_bars_with_numbers(visit: Visit, scorers: dict[str, RewardScorer]) -> None:
    visit.choose("answers", "Several answers")
    visit.score_answers(ANSWERS[:2])
    (score,) = scorers["answers"].score([(PROMPT, ANSWERS[0])])
    card = visit.page.locator("[data-answer=A]")
    numbers = [item.inner_text().replace("−", "-") for item in card.locator(".number").all()]
    assert [float(number) for number in numbers] == pytest.approx(
        list(score.utilities.values()), abs=6e-3
    )
    widths = [item.bounding_box()["width"] for item in card.locator(".fill").all()]
    sizes = [abs(value) for value in score.utilities.values()]
    assert [a / b for a, b in pairwise(widths)] == pytest.approx(
        [a / b for a, b in pairwise(sizes)], rel=0.05
    )
    assert card.get_by_text("±").count() == 2


def test_every_aggregation_of_the_menu_is_taken(visit: Visit) -> None:
    """Each with the parameters that the page starts it with, by a server that checks them."""
    visit.choose("answers", "Several answers")
    visit.score_answers(ANSWERS[:3])
    for count, name in enumerate(list(OBJECTIVE_AGGREGATIONS)[1:-1], start=1):
        with visit.page.expect_response("**/v1/reaggregate") as reply:
            visit.page.get_by_label("Aggregation").select_option(name)
        assert reply.value.ok, reply.value.text()
        assert reply.value.json()["objective_aggregation"]["name"] == name
        visit.says("#force-note", f"{name}, on this page only")
        assert visit.posted("/v1/reaggregate") == count
    assert visit.page.locator('option[value="gated"]').is_disabled()
    assert visit.page.locator("#error").inner_text() == ""


def test_what_the_server_has_may_change_meanwhile(visit: Visit) -> None:
    import httpx

    visit.choose("both", "Several answers")
    visit.says("#force-note", "weighted_sum: what everyone gets")
    place = f"{visit.page.url}v1/models/both/aggregation"
    assert httpx.put(place, json={"objective_aggregation": "worst_case"}).is_success
    visit.score_answers(ANSWERS[:2])
    visit.says("#force-note", "worst_case: what everyone gets")
    assert visit.page.get_by_label("Aggregation").input_value() == "worst_case"
    assert httpx.put(place, json={"objective_aggregation": "weighted_sum"}).is_success


def test_chains_can_be_compared_too(visit: Visit, scorers: dict[str, RewardScorer]) -> None:
    chains = [tuple(chain.completions) for chain in CHAINS]
    rewards = [score.reward for score in scorers["steps"].score([(PROMPT, c) for c in chains])]
    visit.choose("steps", "Several answers")
    visit.score_answers(["\n".join(chain) for chain in chains])
    places = sorted(range(len(rewards)), key=lambda index: -rewards[index])
    assert visit.order == "".join("ABCDE"[index] for index in places)
    assert visit.page.locator(".step").count() == sum(map(len, chains))


def test_a_joint_model_has_both_sides(visit: Visit) -> None:
    visit.choose("both", "Steps of a chain")
    visit.score_chain(tuple(CHAIN.completions))
    visit.page.get_by_role("radio", name="Several answers").check(force=True)
    assert visit.page.get_by_text("From 2 objectives to one reward").is_visible()
    visit.score_answers(ANSWERS[:2])
    assert "; then tanh, clipped to −0.5 … 0.5" in visit.page.locator("#formula").inner_text()
    visit.page.get_by_role("radio", name="Steps of a chain").check(force=True)
    assert visit.page.locator(".step").count() == len(CHAIN.completions)
    assert visit.posted("/v1/score") == 2


def test_what_is_not_scored_says_why(visit: Visit) -> None:
    visit.page.get_by_label("Prompt").fill(PROMPT)
    steps = ["3 * 4 = 12"] * 40
    visit.page.locator("#chain").fill("\n".join(steps))
    visit.page.get_by_role("button", name="Score").click()
    last = visit.page.locator(".step").nth(39)
    assert "not scored: cut off at 256 tokens" in last.inner_text()
    assert last.get_attribute("data-side") == "none"
    visit.page.get_by_label("Prompt").fill("1 + " * 300)
    visit.page.keyboard.press("Control+Enter")
    notice = visit.page.locator(".notice").filter(has_text="Not scored: ")
    notice.wait_for()
    assert visit.page.locator(".summary strong").inner_text() == "none"


def test_empty_input_is_refused_kindly_and_not_sent(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Score").click()
    prompt = visit.page.get_by_label("Prompt")
    assert prompt.evaluate("element => element === document.activeElement")
    assert prompt.get_attribute("aria-invalid") == "true"
    assert visit.page.locator("#prompt-problem").inner_text().startswith("Please")
    prompt.fill(PROMPT)
    visit.choose("answers", "Several answers")
    visit.page.locator("#answer-0").fill("14")
    visit.page.keyboard.press("Control+Enter")
    assert visit.page.locator("#answer-1-problem").inner_text().startswith("Please")
    assert visit.posted("/v1/score") == 0
    visit.page.get_by_role("button", name="Remove Answer B").click()
    visit.page.keyboard.press("Control+Enter")
    visit.page.locator(".card").wait_for()


def test_copies_give_what_was_scored(visit: Visit) -> None:
    import httpx

    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.choose("answers", "Several answers")
    visit.page.get_by_role("button", name="Use an example").click()
    visit.page.keyboard.press("Control+Enter")
    visit.page.locator(".card").nth(2).wait_for()
    visit.page.get_by_role("button", name="Copy JSON").click()
    visit.page.get_by_text("Copied the scores").wait_for()
    copied = visit.page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
    assert len(copied["results"]) == len(copied["records"]) == 3
    visit.page.get_by_role("button", name="Copy curl").click()
    visit.page.get_by_text("Copied the request").wait_for()
    command = visit.page.evaluate("navigator.clipboard.readText()")
    assert command.startswith(f"curl {visit.page.url}v1/score")
    assert "neighbor'\\''s dog" in command
    body = shlex.split(command)[shlex.split(command).index("-d") + 1]
    again = httpx.post(f"{visit.page.url}v1/score", json=json.loads(body)).json()
    rewards = [[row["reward"] for row in reply["results"]] for reply in (again, copied)]
    assert rewards[0] == pytest.approx(rewards[1])


def test_a_token_is_asked_for_and_errors_are_shown(browser: Any, guarded: str) -> None:
    visit = opened(browser, guarded, viewport=PHONE)
    error = visit.page.get_by_role("alert")
    error.get_by_text("the bearer token is missing or wrong").wait_for()
    token = visit.page.get_by_label("Bearer token")
    assert token.evaluate("element => element === document.activeElement")
    token.fill(TOKEN)
    token.press("Enter")
    visit.page.wait_for_selector("#score:enabled")
    assert error.inner_text() == ""
    visit.page.keyboard.press("Escape")
    visit.score_chain(tuple(CHAIN.completions))
    visit.page.locator("#chain").fill("1 + 1 = 2\n" * 400)
    visit.page.keyboard.press("Control+Enter")
    error.get_by_text("too large").wait_for()
    assert "expected\nat most 2,000 bytes" in error.inner_text()
    assert "from before" in error.inner_text()
    assert 0 <= error.bounding_box()["y"] < PHONE["height"]
    assert TOKEN not in visit.page.evaluate(
        "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    )
    assert all("Failed to load resource" in problem for problem in visit.problems)
    visit.page.close()


def test_a_server_that_is_gone_is_reported(visit: Visit) -> None:
    visit.page.route("**/v1/score", lambda route: route.abort())
    visit.page.get_by_role("button", name="Use an example").click()
    visit.page.get_by_role("button", name="Score").click()
    visit.page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    assert visit.page.locator("#results").get_attribute("aria-busy") == "false"
    visit.problems.clear()


def test_a_long_request_can_be_cancelled(visit: Visit) -> None:
    visit.page.route("**/v1/score", lambda route: None)
    visit.page.get_by_role("button", name="Use an example").click()
    visit.page.get_by_role("button", name="Score").click()
    visit.page.get_by_role("button", name="Cancel").click()
    assert visit.page.locator("#status").inner_text() == "Cancelled."
    assert visit.page.locator("#results").get_attribute("aria-busy") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: Any, address: str, scheme: str
) -> None:
    visit = opened(browser, address, viewport=PHONE, color_scheme=scheme)
    visit.page.wait_for_selector("#score:enabled")
    wide = "document.documentElement.scrollWidth > innerWidth"
    visit.score_chain(("A step of words " * 20, "x" * 400))
    assert not visit.page.evaluate(wide)
    visit.choose("answers", "Several answers")
    visit.score_answers([*ANSWERS[:2], "y" * 500])
    for name in list(OBJECTIVE_AGGREGATIONS)[:-1]:
        visit.page.get_by_label("Aggregation").select_option(name)
        assert not visit.page.evaluate(wide), name
    assert visit.problems == []
    visit.page.close()


def test_every_control_has_a_name_and_shows_its_focus(visit: Visit) -> None:
    visit.choose("answers", "Several answers")
    visit.score_answers(ANSWERS[:2])
    visit.page.get_by_label("Aggregation").select_option("augmented_chebyshev")
    visit.page.locator("body").click(position={"x": 1, "y": 1})
    seen = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        found = visit.page.evaluate(
            """() => {
              const element = document.activeElement;
              if (element === document.body) return null;
              const shown = element.type === "radio" ? element.nextElementSibling : element;
              const outline = getComputedStyle(shown).outlineStyle;
              const label = element.labels?.[0]?.textContent ?? element.ariaLabel;
              return [element.id || element.textContent, label || element.textContent, outline];
            }"""
        )
        if found is None:
            break
        assert found[1].strip(), found
        assert found[2] != "none", found
        seen.add(found[0])
    wanted = {"model", "prompt", "answer-0", "score", "aggregation", "weight-safety", "copy-json"}
    assert wanted <= seen


def test_ranking_again_moves_nothing_else(visit: Visit) -> None:
    visit.choose("answers", "Several answers")
    visit.score_answers(ANSWERS)
    before = visit.page.locator(".ranking").bounding_box()
    slider = visit.page.get_by_label("Weight of length")
    slider.focus()
    slider.press("End")
    visit.reranked(1)
    assert visit.page.locator(".ranking").bounding_box() == before
    assert slider.evaluate("element => element === document.activeElement")


def test_package_holds_the_files(repository: Path) -> None:
    import tomllib

    with (repository / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]["prm"]
    assert "serve/static/*" in data
