"""Every resource as a client uses it: create, read, list, change, archive."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from tests.api.conftest import RECORDS, Served, a_benchmark, a_dataset, a_model, created, unique


def test_a_model_is_created_read_changed_and_deleted(owner: httpx.Client) -> None:
    model = a_model(owner, input_price="0.15", output_price="0.60", capabilities=["text-generation"])
    found = owner.get(f"/v1/models/{model['name']}")
    assert found.json() == model
    changed = owner.patch(f"/v1/models/{model['id']}", json={"status": "deprecated", "tags": ["old"]}).json()
    assert (changed["status"], changed["tags"]) == ("deprecated", ["old"])
    assert changed["deprecated_at"] is not None
    assert owner.delete(f"/v1/models/{model['id']}").status_code == 204
    assert owner.get(f"/v1/models/{model['id']}").status_code == 404


def test_what_results_hang_on_is_archived_and_not_deleted(owner: httpx.Client) -> None:
    dataset, model = a_dataset(owner), a_model(owner)
    benchmark = a_benchmark(owner, dataset["name"])
    created(owner, "/v1/evaluation-runs", {"model": model["name"], "benchmark": benchmark["name"]})
    for path, row in (("models", model), ("benchmarks", benchmark), ("datasets", dataset)):
        answer = owner.delete(f"/v1/{path}/{row['id']}")
        assert answer.status_code == 200, answer.text
        listed = owner.get(f"/v1/{path}", params={"name": row["name"]}).json()["items"]
        assert listed == [], path
        assert owner.get(f"/v1/{path}/{row['id']}").status_code == 200


def test_a_provider_key_is_stored_for_one_origin_and_never_shown(owner: httpx.Client) -> None:
    model = a_model(owner, api_key="sk-nobody-sees-this")
    assert model["has_credential"]
    stored = owner.get(f"/v1/provider-credentials/{model['credential_id']}")
    assert "sk-nobody" not in stored.text
    assert stored.json()["origin"] == "https://llm.example.com:443"
    other = owner.post(
        "/v1/models",
        json={
            "name": unique("thief"),
            "platform": "openai",
            "model_id": "x",
            "base_url": "https://evil.example.com/v1",
            "credential_id": model["credential_id"],
        },
    )
    assert other.status_code == 422
    assert other.json()["field"] == "credential_id"
    assert owner.delete(f"/v1/provider-credentials/{model['credential_id']}").status_code == 409


def test_an_uploaded_file_becomes_a_dataset(owner: httpx.Client, served: Served) -> None:
    content = "\n".join(json.dumps({"q": f"{i}+{i}", "a": str(2 * i)}) for i in range(1000)).encode()
    name = unique("file") + ".jsonl"
    assert owner.put(f"/v1/dataset-files/{name}", content=content).json() == {"name": name, "bytes": len(content)}
    body = {"name": unique("uploaded"), "file_path": name, "mapping": {"input": "q", "expected": "a"}}
    dataset = created(owner, "/v1/datasets", body)
    assert (dataset["total_test_cases"], dataset["file_format"]) == (1000, "jsonl")
    page = owner.get(f"/v1/datasets/{dataset['id']}/test-cases", params={"start": 998}).json()
    assert [case["input"] for case in page["items"]] == ["998+998", "999+999"]
    assert page["next_start"] is None
    assert owner.delete(f"/v1/dataset-files/{name}").status_code == 204


@pytest.mark.parametrize("path", ["../secret.key", "/etc/passwd", "..", "a/b.jsonl", "a\\b", ".hidden", "x\0y", ""])
def test_a_path_is_no_file_name(owner: httpx.Client, path: str) -> None:
    answer = owner.post("/v1/datasets", json={"name": unique("hostile"), "file_path": path, "file_format": "jsonl"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "file_path"


def test_a_link_in_the_uploads_is_not_followed(owner: httpx.Client, served: Served) -> None:
    folder = served.data_root / str(served.mine.organization) / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    (served.data_root / "outside.jsonl").write_text('{"input": "secret"}\n')
    (folder / "link.jsonl").symlink_to(served.data_root / "outside.jsonl")
    answer = owner.post("/v1/datasets", json={"name": unique("linked"), "file_path": "link.jsonl"})
    assert answer.status_code == 422
    assert "no link" in answer.json()["detail"]


def test_bad_records_are_told_with_line_and_field(owner: httpx.Client) -> None:
    answer = owner.post("/v1/datasets", json={"name": unique("bad"), "test_cases": [*RECORDS, {"output": 1}]})
    assert answer.status_code == 422
    assert answer.json()["records"] == [
        {"line": 6, "field": "input", "problem": answer.json()["records"][0]["problem"]}
    ]
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_hold_every_item_once_in_order(owner: httpx.Client) -> None:
    dataset = a_dataset(owner)
    names = [a_benchmark(owner, dataset["name"])["name"] for _ in range(7)]
    for sort, wanted in (("-created_at", names[::-1]), ("created_at", names)):
        found: list[str] = []
        params: dict[str, Any] = {"limit": 2, "sort": sort}
        while True:
            page = owner.get("/v1/benchmarks", params=params).json()
            found += [item["name"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert [name for name in found if name in names] == wanted
        assert len(found) == len(set(found))


@pytest.mark.parametrize("cursor", ["x", "bnVsbA", "WzFd", "%00", "eyJhIjoxfQ"])
def test_a_cursor_that_is_none_is_refused(owner: httpx.Client, cursor: str) -> None:
    answer = owner.get("/v1/models", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["field"] == "cursor"


def test_a_change_to_another_version_than_was_read_is_refused(owner: httpx.Client) -> None:
    model = a_model(owner)
    path = f"/v1/models/{model['id']}"
    tag = owner.get(path).headers["etag"]
    assert owner.patch(path, json={"tags": ["a"]}, headers={"If-Match": tag}).status_code == 200
    assert owner.patch(path, json={"tags": ["b"]}, headers={"If-Match": tag}).status_code == 412
    assert owner.get(path).json()["tags"] == ["a"]


def test_what_the_client_has_already_is_not_sent_again(owner: httpx.Client) -> None:
    model = a_model(owner)
    tag = owner.get(f"/v1/models/{model['id']}").headers["etag"]
    again = owner.get(f"/v1/models/{model['id']}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_repeated_post_is_done_once(owner: httpx.Client) -> None:
    key, body = unique("key"), {"name": unique("once"), "test_cases": RECORDS}
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(owner.post("/v1/datasets", json=body, headers={"Idempotency-Key": key}))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = owner.post("/v1/datasets", json={**body, "name": unique("other")}, headers={"Idempotency-Key": key})
    assert other.status_code == 422


def test_a_run_is_made_watched_and_cancelled(owner: httpx.Client) -> None:
    dataset, model = a_dataset(owner), a_model(owner)
    benchmark = a_benchmark(owner, dataset["name"])
    run = created(owner, "/v1/evaluation-runs", {"model": model["id"], "benchmark": benchmark["id"], "limit": 3})
    assert (run["status"], run["total_test_cases"], run["model"]) == ("pending", 3, model["name"])
    events: list[str] = []

    def watch() -> None:
        with owner.stream("GET", f"/v1/evaluation-runs/{run['id']}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events.extend(line for line in stream.iter_lines() if line.startswith("event:"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert owner.post(f"/v1/evaluation-runs/{run['id']}/cancel").json()["status"] == "cancelled"
    watcher.join(timeout=20)
    assert events[-1] == "event: end"
    assert owner.post(f"/v1/evaluation-runs/{run['id']}/resume").json()["status"] == "pending"
    assert owner.post(f"/v1/evaluation-runs/{run['id']}/cancel").json()["status"] == "cancelled"
    assert owner.post(f"/v1/evaluation-runs/{run['id']}/cancel").status_code == 409


def test_a_key_is_shown_once_rotated_and_revoked(owner: httpx.Client, served: Served) -> None:
    key = unique("idempotent")
    made = created(owner, "/v1/api-keys", {"name": unique("ci"), "scopes": ["read"]}, **{"Idempotency-Key": key})
    body = {"name": made["name"], "scopes": ["read"]}
    assert owner.post("/v1/api-keys", json=body, headers={"Idempotency-Key": key}).json()["key"] is None

    def status(secret: str) -> int:
        return httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code

    rotated = created(owner, f"/v1/api-keys/{made['id']}/rotate", {"grace_seconds": 60})
    assert (rotated["name"], status(made["key"]), status(rotated["key"])) == (made["name"], 200, 200)
    assert owner.delete(f"/v1/api-keys/{made['id']}").json()["revoked_at"] is not None
    assert (status(made["key"]), status(rotated["key"])) == (401, 200)
    assert made["key"] not in owner.get("/v1/api-keys").text


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("viewer", "GET", "/v1/models", 200),
        ("viewer", "POST", "/v1/models", 403),
        ("member", "GET", "/v1/api-keys", 403),
        ("member", "POST", "/v1/provider-credentials", 403),
        ("member", "POST", "/v1/models", 403),
        ("admin", "GET", "/v1/api-keys", 200),
    ],
)
def test_a_role_does_what_it_may(served: Served, role: str, method: str, path: str, status: int) -> None:
    bodies = {
        "/v1/models": {
            "name": "x",
            "platform": "openai",
            "model_id": "x",
            "base_url": "https://a.example/v1",
            "api_key": "s",
        },
        "/v1/provider-credentials": {"name": "x", "base_url": "https://a.example", "secret": "s"},
    }
    with served.client(served.mine, role) as client:
        answer = client.request(method, path, json=bodies[path] if method == "POST" else None)
    assert answer.status_code == status, answer.text


def test_an_admin_makes_no_owner_and_no_key_for_another(served: Served) -> None:
    members = f"/v1/organizations/{served.mine.organization}/members"
    with served.client(served.mine, "admin") as admin:
        assert admin.post(members, json={"username": unique("u"), "role": "owner"}).status_code == 403
        viewer = created(admin, members, {"username": unique("u"), "role": "viewer"})
        assert admin.post("/v1/api-keys", json={"name": "x", "user_id": viewer["user_id"]}).status_code == 403


def test_a_name_with_a_slash_is_found_like_any_other(owner: httpx.Client) -> None:
    name = f"{unique('meta-llama')}/Llama-3"
    model = a_model(owner, name=name)
    path = f"/v1/models/{name.replace('/', '%2F')}"
    assert owner.get(path).json()["id"] == model["id"]
    dataset = created(owner, "/v1/datasets", {"name": name, "test_cases": [{"input": "a"}]})
    assert owner.get(f"/v1/datasets/{name.replace('/', '%2F')}").json()["id"] == dataset["id"]
    assert len(owner.get(f"/v1/datasets/{dataset['id']}/test-cases").json()["items"]) == 1
    assert owner.delete(path).status_code == 204


def test_the_last_owner_stays_one(served: Served) -> None:
    members = f"/v1/organizations/{served.theirs.organization}/members"
    with served.client(served.theirs) as owner:
        owners = [m["user_id"] for m in owner.get(members).json()["items"] if m["role"] == "owner"]
        answers = [owner.patch(f"{members}/{user}", json={"role": "owner"}).status_code for user in owners]
        assert answers == [200, 200]
        assert owner.delete(f"{members}/{owners[-1]}").status_code == 204
        last = owner.patch(f"{members}/{owners[0]}", json={"role": "viewer"})
    assert last.status_code == 409, last.text


def test_what_is_archived_is_used_by_nothing_new(owner: httpx.Client) -> None:
    dataset, model = a_dataset(owner), a_model(owner)
    benchmark = a_benchmark(owner, dataset["name"])
    run = {"model": model["name"], "benchmark": benchmark["id"]}
    created(owner, "/v1/evaluation-runs", run)
    for path in (f"datasets/{dataset['id']}", f"benchmarks/{benchmark['id']}"):
        assert owner.delete(f"/v1/{path}").json()["archived_at"] is not None
    assert owner.post("/v1/evaluation-runs", json=run).json()["field"] == "benchmark"
    criteria = {"scorers": ["numeric_match"]}
    body = {"name": unique("b"), "dataset": dataset["id"], "category": "qa", "evaluation_criteria": criteria}
    assert owner.post("/v1/benchmarks", json=body).json()["field"] == "dataset"


def test_a_fault_of_ours_is_a_problem_with_the_requests_id_and_nothing_of_the_inside(owner: httpx.Client) -> None:
    benchmark = a_benchmark(owner, a_dataset(owner)["name"])
    model = a_model(owner, name=unique("faulty"))
    answer = owner.post("/v1/evaluation-runs", json={"model": model["name"], "benchmark": benchmark["name"]})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"] != ""
    assert "secret" not in answer.text
    assert owner.get("/v1/evaluation-runs", params={"model": model["name"]}).json()["items"] == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"name": "' + b"x" * (33 << 20) + b'"}', 413),
        (b'{"name": "a\\u0000b", "platform": "openai", "model_id": "x"}', 422),
        (b'{"name": "a", "platform": "openai", "model_id": "x", "unknown": 1}', 422),
        (b'{"name": "a", "platform": "openai", "model_id": "x", "base_url": "http://127.0.0.1:1/v1"}', 422),
        (b'{"name": "a", "platform": "openai", "model_id": "x", "base_url": "http://169.254.169.254/"}', 422),
    ],
)
def test_a_hostile_body_is_a_problem_and_no_fault(owner: httpx.Client, content: bytes, status: int) -> None:
    answer = owner.post("/v1/models", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_health_needs_no_key_and_readiness_tells_the_truth(served: Served) -> None:
    with served.client() as stranger:
        assert stranger.get("/healthz").json() == {"status": "alive"}
        assert stranger.get("/readyz").json() == {"status": "ready", "parts": {"postgres": "ok"}}


def test_a_model_without_a_key_can_be_selected_but_not_run(owner: httpx.Client) -> None:
    body = {"name": unique("keyless"), "platform": "openai", "platform_model_id": unique("gpt")}
    assert created(owner, "/v1/models", body)["has_credential"] is False
