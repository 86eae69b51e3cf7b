"""The native routes over ASGI: rows, aggregations, errors, metrics, tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from prm.aggregation.objectives import WeightedSum
from prm.models.reward_model import ModelOutput, RewardModel
from prm.scoring.scorer import RewardScorer
from prm.spec import RewardSpec
from tests.unit.serve.conftest import Serve

PROMPT, STEPS = "2 + 3 * 4 = ?", ["3 * 4 = 12", "2 + 12 = 15"]
CHAIN = {"prompt": PROMPT, "completions": STEPS}
REPLY = {"prompt": PROMPT, "response": "It is 14."}


def ask(app: Any, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://prm") as client:
            return await client.request(method, path, json=body, **options)

    return asyncio.run(request())


def score(app: Any, *records: Any, **options: Any) -> Any:
    reply = ask(app, "POST", "/v1/score", {"records": records, **options})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_models(serve: Serve) -> None:
    first, second = ask(serve(), "GET", "/v1/models").json()["models"]
    assert first == {
        "name": "steps",
        "kind": "process",
        "objectives": [],
        "step_objectives": ["correctness"],
        "reward_objective": "correctness",
        "step_aggregation": {"name": "min"},
        "objective_aggregation": None,
        "shaping": {"center": 0.0, "scale": 1.0, "squash": "none", "clip": None},
        "version": 0,
        "max_length": 256,
        "separator": "\n",
    }
    assert second["objectives"] == ["helpfulness", "toxicity"]
    assert second["step_aggregation"] is None
    assert second["objective_aggregation"]["name"] == "weighted_sum"


def test_spec_is_that_of_the_model(serve: Serve, models: Mapping[str, RewardModel]) -> None:
    reply = ask(serve(), "GET", "/v1/models/replies/spec")
    assert RewardSpec.from_dict(reply.json()) == models["replies"].spec


def test_rows_are_those_of_the_offline_scorer(
    serve: Serve, models: Mapping[str, RewardModel]
) -> None:
    app = serve()
    chain = {**CHAIN, "id": "a", "group": "g"}
    for name, row in (("steps", chain), ("replies", REPLY)):
        (found,) = score(app, row, model=name)["results"]
        (expected,) = RewardScorer(models[name]).score([row])
        assert {**found, "group": ""} == {**expected.to_row(), "group": ""}
    assert score(app, chain)["results"][0]["group"] == "g"


def test_conversations_are_prompts(serve: Serve) -> None:
    app = serve()
    turns = [{"role": "user", "content": PROMPT}]
    assert score(app, {**CHAIN, "prompt": turns})["results"][0]["reward"] is not None


def test_no_records_give_no_rows(serve: Serve) -> None:
    assert score(serve())["results"] == []


def test_aggregations_of_one_request(serve: Serve) -> None:
    app = serve()
    probabilities = score(app, CHAIN)["results"][0]["step_probabilities"]["correctness"]
    reply = score(app, CHAIN, step_aggregation="mean")
    assert reply["results"][0]["reward"] == pytest.approx(sum(probabilities) / 2)
    assert reply["step_aggregation"] == {"name": "mean"}
    soft = score(app, CHAIN, step_aggregation={"name": "softmin", "beta": 5})
    assert soft["results"][0]["aggregation"] == "softmin"
    assert score(app, CHAIN)["step_aggregation"] == {"name": "min"}


def test_weights_and_applicable_objectives(serve: Serve) -> None:
    app = serve()
    (row,) = score(app, REPLY, model="replies", overrides={"weights.toxicity": 2})["results"]
    own = row["utilities"]
    assert row["reward"] == pytest.approx(own["helpfulness"] / 2 + 2 * own["toxicity"])
    only = {**REPLY, "applicable": ["helpfulness"]}
    (missing,) = score(app, only, model="replies")["results"]
    assert missing["reward"] is None
    assert missing["scores"]["toxicity"] is not None
    chosen = {"name": "weighted_sum", "missing": "renormalize"}
    (row,) = score(app, only, model="replies", objective_aggregation=chosen)["results"]
    assert row["reward"] == pytest.approx(own["helpfulness"])


def test_streams_are_rows_with_an_index(serve: Serve) -> None:
    app = serve()
    records = [{**CHAIN, "id": str(index)} for index in range(40)]
    reply = ask(app, "POST", "/v1/score", {"records": records, "stream": True})
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    rows = {row.pop("index"): row for row in map(json.loads, reply.text.splitlines())}
    assert [rows[index] for index in range(40)] == score(app, *records)["results"]


def test_streams_that_are_refused_have_a_status(serve: Serve) -> None:
    app = serve(max_record_tokens=4)
    reply = ask(app, "POST", "/v1/score", {"records": [CHAIN], "stream": True})
    assert reply.status_code == 413


def test_steps_of_a_text(serve: Serve) -> None:
    app = serve()
    text = "3 * 4 = 12\n\n  2 + 12 = 15\n"
    reply = ask(app, "POST", "/v1/steps", {"prompt": PROMPT, "response": text}).json()
    assert [text[step["start"] : step["end"]] for step in reply["steps"]] == STEPS
    (row,) = score(app, CHAIN)["results"]
    found = [step["probabilities"]["correctness"] for step in reply["steps"]]
    assert found == pytest.approx(row["step_probabilities"]["correctness"], abs=1e-5)
    assert reply["reward"] == pytest.approx(row["reward"], abs=1e-5)


def test_steps_of_a_list_and_the_threshold(serve: Serve) -> None:
    body = {"prompt": PROMPT, "steps": STEPS, "threshold": 1}
    reply = ask(serve(), "POST", "/v1/steps", body).json()
    assert reply["first_error"] == 0
    assert [step["text"] for step in reply["steps"]] == STEPS
    assert reply["steps"][0]["start"] is None


def test_rank_orders_responses(serve: Serve) -> None:
    app = serve()
    responses = ["20", "It is 14.", "3 * 4 = 12, so 14."]
    body = {"model": "replies", "prompt": PROMPT, "responses": responses}
    ranking = ask(app, "POST", "/v1/rank", body).json()["ranking"]
    rewards = [row["reward"] for row in ranking]
    assert rewards == sorted(rewards, reverse=True)
    assert [row["rank"] for row in ranking] == [0, 1, 2]
    assert sorted(row["index"] for row in ranking) == [0, 1, 2]
    assert ranking[0]["margin"] == pytest.approx(rewards[0] - rewards[1])
    top = ask(app, "POST", "/v1/rank", {**body, "top": 1}).json()["ranking"]
    assert [row["index"] for row in top] == [ranking[0]["index"]]


def test_rank_reads_responses_as_chains_for_a_process_model(serve: Serve) -> None:
    app = serve()
    body = {"prompt": PROMPT, "responses": ["\n".join(STEPS), "It is 14.", " \n"]}
    ranking = ask(app, "POST", "/v1/rank", body).json()["ranking"]
    rewards = {row["index"]: row["reward"] for row in ranking}
    assert rewards[0] == pytest.approx(score(app, CHAIN)["results"][0]["reward"], abs=1e-5)
    assert rewards[2] is None
    assert ranking[-1]["rank"] is None


@pytest.mark.parametrize(("name", "record"), [("steps", CHAIN), ("replies", REPLY)])
def test_reaggregation_needs_no_pass(serve: Serve, name: str, record: Any) -> None:
    app = serve()
    changes: dict[str, Any] = {"step_aggregation": "product"}
    if name == "replies":
        changes = {"objective_aggregation": "worst_case"}
    rows = score(app, record, model=name)["results"]
    expected = score(app, record, model=name, **changes)["results"]
    passes = metric(app, "prm_pass_seconds_count", name)
    body = {"model": name, "results": rows, **changes}
    assert ask(app, "POST", "/v1/reaggregate", body).json()["results"] == expected
    body["results"] = [{**row, "response_text": "kept by somebody"} for row in rows]
    assert ask(app, "POST", "/v1/reaggregate", body).json()["results"] == expected
    assert metric(app, "prm_pass_seconds_count", name) == passes


def test_aggregation_put_by_hand(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    app = serve()
    path = "/v1/models/replies/aggregation"
    with caplog.at_level("INFO", "prm.serve"):
        reply = ask(app, "PUT", path, {"overrides": {"weights.toxicity": 3}})
    weights = {"helpfulness": 0.5, "toxicity": 3.0}
    assert reply.json()["version"] == 1
    assert reply.json()["objective_aggregation"]["weights"] == weights
    logged = [record for record in caplog.records if record.getMessage() == "aggregation"]
    assert logged[0].data["objective_aggregation"]["weights"] == weights  # type: ignore[attr-defined]
    assert score(app, REPLY, model="replies")["version"] == 1
    assert app.state.pool.get("replies").spec.objective_aggregation == WeightedSum(weights)
    assert metric(app, "prm_aggregation_version", "replies") == 1
    shown = 'prm_objective_weight{model="replies",objective="toxicity"} 3.0'
    assert shown in ask(app, "GET", "/metrics").text
    assert ask(app, "PUT", path, {}).json()["version"] == 1


def test_shaping_can_be_changed_for_one_request_or_for_all(serve: Serve) -> None:
    app = serve()
    clip = {"clip": [-0.01, 0.01]}
    free = score(app, REPLY, model="replies")["results"][0]["reward"]

    once = score(app, REPLY, model="replies", shaping=clip)
    reply = ask(app, "PUT", "/v1/models/replies/aggregation", {"shaping": clip})
    after = score(app, REPLY, model="replies")

    assert abs(free) > 0.01 == abs(once["results"][0]["reward"])
    assert once["shaping"]["clip"] == reply.json()["shaping"]["clip"] == [-0.01, 0.01]
    assert after["results"][0]["reward"] == once["results"][0]["reward"]
    wrong = ask(app, "PUT", "/v1/models/replies/aggregation", {"shaping": {"clop": 1}})
    assert wrong.status_code == 422
    assert "clop" in wrong.text


def test_a_body_that_is_not_said_to_be_json_is_refused_with_the_way_out(serve: Serve) -> None:
    async def ask_plainly() -> httpx.Response:
        transport = httpx.ASGITransport(serve())
        async with httpx.AsyncClient(transport=transport, base_url="http://prm") as client:
            return await client.post("/v1/score", content=b'{"records": []}')

    reply = asyncio.run(ask_plainly())

    assert reply.status_code == 422
    assert "Content-Type: application/json" in reply.json()["error"]["fix"]


def metric(app: Any, name: str, model: str) -> float:
    lines = ask(app, "GET", "/metrics").text.splitlines()
    (value,) = [line.split()[-1] for line in lines if line.startswith(f'{name}{{model="{model}"}}')]
    return float(value)


def test_metrics_count_scores(serve: Serve) -> None:
    app = serve(reward_range=(2.0, 3.0))
    score(app, CHAIN, {**CHAIN, "prompt": "long " * 300})
    assert metric(app, "prm_reward_count", "steps") == 1
    assert metric(app, "prm_rewards_missing_total", "steps") == 1
    assert metric(app, "prm_rewards_out_of_range_total", "steps") == 1
    assert metric(app, "prm_pass_records_sum", "steps") == 2
    assert metric(app, "prm_tokens_total", "steps") > 10
    assert metric(app, "prm_queue_requests", "steps") == 0
    assert (
        'prm_requests_total{path="/v1/score",status="200"} 1.0' in ask(app, "GET", "/metrics").text
    )


def test_numbers_that_are_not_finite_are_counted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serve()
    scorer = app.state.pool.get("steps").scorer
    whole = scorer.outputs

    def broken(trees: Any) -> Any:
        return [ModelOutput(output.columns * float("nan"), None) for output in whole(trees)]

    monkeypatch.setattr(scorer, "outputs", broken)
    (row,) = score(app, CHAIN)["results"]
    assert row["reward"] is None
    assert "no finite number" in row["reason"]
    assert metric(app, "prm_nan_total", "steps") == 2


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "where"),
    [
        (422, "POST", "/v1/score", {}, "body.records"),
        (422, "POST", "/v1/score", {"records": [CHAIN], "recrods": 1}, "body.recrods"),
        (422, "POST", "/v1/score", {"records": [{"prompt": 1, "completions": ["a"]}]}, None),
        (422, "POST", "/v1/score", {"records": [REPLY]}, None),
        (422, "POST", "/v1/score", {"records": [{**CHAIN, "completions": []}]}, None),
        (422, "POST", "/v1/score", {"records": [{**CHAIN, "applicable": ["style"]}]}, None),
        (422, "POST", "/v1/score", {"records": [CHAIN], "step_aggregation": "max"}, None),
        (
            422,
            "POST",
            "/v1/score",
            {"records": [CHAIN], "step_aggregation": {"name": "softmin", "beta": "x"}},
            None,
        ),
        (422, "POST", "/v1/score", {"records": [CHAIN], "overrides": {"weights.a": 1}}, None),
        (404, "POST", "/v1/score", {"records": [CHAIN], "model": "other"}, None),
        (404, "GET", "/v1/models/other/spec", None, None),
        (404, "GET", "/v2/score", None, None),
        (405, "GET", "/v1/score", None, None),
        (422, "POST", "/v1/steps", {"prompt": "a", "response": "b", "steps": ["c"]}, None),
        (422, "POST", "/v1/steps", {"prompt": "a", "response": " "}, "response"),
        (422, "POST", "/v1/reaggregate", {"results": [{"id": ""}]}, None),
        (422, "PUT", "/v1/models/steps/aggregation", {"objective_aggregation": "worst_case"}, None),
    ],
)
def test_errors_have_one_form(
    serve: Serve, status: int, method: str, path: str, body: Any, where: str | None
) -> None:
    reply = ask(serve(), method, path, body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"type", "message", "expected", "got", "where", "fix"}
    assert error["message"]
    if where is not None:
        assert error["where"] == where


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 100_000, b'{"records": "\xff"}', b'{"records": [{"prompt": "\\ud800"}]}', b"NaN"],
)
def test_bodies_that_are_no_json(serve: Serve, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = ask(serve(), "POST", "/v1/score", content=body, headers=headers)
    assert reply.status_code in (400, 422)
    assert reply.json()["error"]["message"]


def test_a_lone_surrogate_is_refused(serve: Serve) -> None:
    body = b'{"records": [{"prompt": "\\ud800", "completions": ["a"]}]}'
    headers = {"Content-Type": "application/json"}
    reply = ask(serve(), "POST", "/v1/score", content=body, headers=headers)
    assert reply.status_code == 422


def test_a_failing_route_says_nothing_of_the_texts(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = serve()

    def fail(_: Any) -> Any:
        raise RuntimeError(f"cannot handle {PROMPT}")

    monkeypatch.setattr(app.state.pool.get("steps").scorer, "outputs", fail)
    with caplog.at_level("INFO", "prm.serve"):
        reply = ask(app, "POST", "/v1/score", {"records": [CHAIN]})
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "InternalError"
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "RuntimeError" in logged
    assert PROMPT not in logged
    assert PROMPT not in reply.text


def test_texts_are_logged_only_if_asked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    for log_texts in (False, True):
        caplog.clear()
        with caplog.at_level("INFO", "prm.serve"):
            score(serve(log_texts=log_texts), CHAIN)
        (record,) = [record for record in caplog.records if record.getMessage() == "request"]
        data = record.data  # type: ignore[attr-defined]
        assert data["path"] == "/v1/score"
        assert data["status"] == 200
        assert (PROMPT in str(data)) == log_texts


def test_request_ids_come_back(serve: Serve) -> None:
    app = serve()
    reply = ask(app, "GET", "/health", headers={"X-Request-Id": "a-1"})
    assert reply.headers["x-request-id"] == "a-1"
    assert len(ask(app, "GET", "/health").headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("Basic secret", 401),
        ("Bearer \xff", 401),
        ("Bearer secret", 200),
        ("bearer secret", 200),
    ],
)
def test_tokens(serve: Serve, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    reply = ask(serve(token="secret"), "GET", "/v1/models", headers=headers)
    assert reply.status_code == status
    if status == 401:
        assert reply.headers["www-authenticate"] == "Bearer"


def test_what_needs_no_token(serve: Serve) -> None:
    app = serve(token="secret")
    for path in ("/health", "/ready", "/"):
        assert ask(app, "GET", path).status_code == 200
    for path in ("/metrics", "/openapi.json", "/v1/models/steps/spec", "/static/../v1/models"):
        assert ask(app, "GET", path).status_code == 401


def test_ready_ends_when_the_server_drains(serve: Serve) -> None:
    app = serve()
    assert ask(app, "GET", "/ready").json() == {"status": "ready"}
    app.state.load.is_draining = True
    assert ask(app, "GET", "/health").status_code == 200
    for reply in (
        ask(app, "GET", "/ready"),
        ask(app, "POST", "/v1/score", {"records": [CHAIN]}),
    ):
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1


def test_every_route_documents_its_errors(serve: Serve) -> None:
    document = serve().openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/") and method in ("post", "put"):
                assert {"200", "401", "404", "413", "422", "429", "503"} <= set(
                    operation["responses"]
                ), path
