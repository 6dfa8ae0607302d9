"""`/v1/webhooks`: alerts reach a real receiver at least once, signed, and nothing that must not be reached."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest

import cluster.webhooks
from cluster.webhooks import send_due
from evalservice.comparisons.signing import signed_headers
from evalservice.comparisons.webhooks import BACKOFF, MOST_ATTEMPTS, MOST_WEBHOOKS, create_webhook
from evalservice.database import tenant_transaction
from tests.api.conftest import Served, created, unique
from tests.api.test_regressions import GOOD, Watched, flipped
from tests.receiver import Receiver, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@dataclass
class Hook:
    """A webhook of the first organization at the receiver, and an alert that it is to be told of."""

    served: Served
    watched: Watched
    id: str
    secret: str
    private: bool = True

    def alert(self) -> dict[str, Any]:
        self.watched.start()
        self.watched.checked(GOOD)
        self.watched.checked(flipped(GOOD, 60, 1))
        [alert] = self.watched.alerts()
        return alert

    def turn(self) -> None:
        """What a supervisor does every second."""
        wiring, settings = self.served.wiring, SimpleNamespace(private_addresses=self.private)
        send_due(SimpleNamespace(engine=wiring.engine, box=wiring.box, settings=settings))  # type: ignore[arg-type]

    def make_due(self) -> None:
        with psycopg.connect(self.served.database) as connection:
            connection.execute("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE status = 'pending'")

    def delivery(self) -> dict[str, Any]:
        [item] = self.watched.client.get(f"/v1/webhooks/{self.id}/deliveries").json()["items"]
        assert isinstance(item, dict)
        return item


@pytest.fixture
def hook(served: Served, owner: httpx.Client, receiver: Receiver) -> Iterator[Hook]:
    with psycopg.connect(served.database) as connection:
        connection.execute("DELETE FROM webhooks WHERE organization_id = %s", (served.mine.organization,))
    made = _hook(served, owner, receiver.url)
    yield made
    assert owner.delete(f"/v1/webhooks/{made.id}").status_code == 204


def _hook(served: Served, owner: httpx.Client, url: str) -> Hook:
    """As the API makes it, at an address that this service would refuse."""
    with tenant_transaction(served.wiring.engine, served.mine.organization) as session:
        row, secret = create_webhook(session, served.wiring.box, served.mine.organization, url, user_id=None)
        return Hook(served, Watched(served, owner), str(row.id), secret)


def test_an_alert_is_sent_signed_with_the_webhooks_secret_and_once_only(hook: Hook, receiver: Receiver) -> None:
    alert = hook.alert()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: hook.turn(), range(4)))
    [(path, headers, body)] = receiver.got
    document = json.loads(body)
    assert (path, headers["content-type"]) == ("/hook", "application/json")
    assert (document["type"], document["data"]) == ("regression_alert.created", alert)
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(hook.secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    done = hook.delivery()
    assert (done["status"], done["attempts"], done["response_status"]) == ("delivered", 1, 204)
    assert done["delivered_at"]


def test_the_signature_is_that_of_the_specifications_example() -> None:
    found = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_tried_again_under_its_id_after_a_while_up_to_a_limit(hook: Hook, receiver: Receiver) -> None:
    hook.alert()
    receiver.answers = [500, 302, *[503] * MOST_ATTEMPTS]
    for attempt in range(1, MOST_ATTEMPTS + 1):
        hook.make_due()
        hook.turn()
        hook.turn()  # it is not due
        assert len(receiver.got) == attempt
        found = hook.delivery()
        if attempt < MOST_ATTEMPTS:
            assert (found["status"], found["attempts"]) == ("pending", attempt)
            assert _wait_of(hook) == pytest.approx(BACKOFF[attempt - 1].total_seconds(), abs=3)
    assert (found["status"], found["next_attempt_at"], found["error"]) == ("failed", None, "answered 503")
    assert {path for path, _, _ in receiver.got} == {"/hook"}
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1


def _wait_of(hook: Hook) -> float:
    with psycopg.connect(hook.served.database) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM webhook_deliveries WHERE webhook_id = %s",
            (hook.id,),
        ).fetchone()
        assert row is not None
        return float(row[0])


def test_an_attempt_whose_sender_died_is_made_again(hook: Hook, receiver: Receiver) -> None:
    hook.alert()
    real = cluster.webhooks.note_outcome

    def dies(*_: object) -> None:
        raise SystemExit

    cluster.webhooks.note_outcome = dies  # type: ignore[assignment]
    try:
        with pytest.raises(SystemExit):
            hook.turn()
    finally:
        cluster.webhooks.note_outcome = real
    hook.turn()
    assert len(receiver.got) == 1  # while the attempt may still be under way it is nobody else's
    hook.make_due()
    hook.turn()
    assert (len(receiver.got), hook.delivery()["status"]) == (2, "delivered")


def test_a_receiver_that_is_gone_is_asked_no_more(hook: Hook, receiver: Receiver) -> None:
    hook.alert()
    receiver.answers = [410]
    hook.turn()
    assert hook.delivery()["status"] == "failed"


def test_a_receiver_that_does_not_answer_is_left_after_the_timeout(
    hook: Hook, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.webhooks, "TIMEOUT_SECONDS", 0.5)
    hook.alert()
    receiver.delay = 20.0
    hook.turn()
    assert (hook.delivery()["status"], hook.delivery()["error"]) == ("pending", "no answer within 0.5 s")


def test_where_a_name_leads_is_asked_again_when_it_is_connected_to(
    served: Served, owner: httpx.Client, receiver: Receiver
) -> None:
    made = _hook(served, owner, receiver.url.replace("127.0.0.1", "localhost"))
    made.private = False
    made.alert()
    made.turn()
    assert receiver.got == []
    assert "not reached" in made.delivery()["error"]
    owner.delete(f"/v1/webhooks/{made.id}")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://2130706433/",
        "https://localhost/",
        "http://169.254.169.254/latest",
        "ftp://hooks.example.com/",
        "https://user:pw@hooks.example.com/",
        "https://hooks.example.com/?token=1",
    ],
)
def test_an_address_that_must_not_be_reached_is_refused(owner: httpx.Client, url: str) -> None:
    answer = owner.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["field"]) == (422, "url"), answer.text
    assert "pw" not in answer.json()["detail"]


def test_a_webhooks_secret_is_shown_once_and_stored_sealed(served: Served, owner: httpx.Client) -> None:
    body, key = {"url": "https://hooks.example.com/evals"}, {"Idempotency-Key": unique("key")}
    made = created(owner, "/v1/webhooks", body, **key)
    again = created(owner, "/v1/webhooks", body, **key)
    assert made["secret"].startswith("whsec_")
    assert (again["id"], again["secret"]) == (made["id"], None)
    assert made["secret"] not in owner.get("/v1/webhooks").text
    with psycopg.connect(served.database) as connection:
        row = connection.execute("SELECT encrypted_secret FROM webhooks WHERE id = %s", (made["id"],)).fetchone()
    assert row is not None
    assert made["secret"].encode() not in row[0]
    with served.client(served.mine, "member") as member:
        assert member.get("/v1/webhooks").status_code == 403
        assert member.post("/v1/webhooks", json=body).status_code == 403
    assert owner.delete(f"/v1/webhooks/{made['id']}").status_code == 204
    assert owner.get(f"/v1/webhooks/{made['id']}/deliveries").status_code == 404


def test_an_organization_has_so_many_webhooks_and_no_more(owner: httpx.Client) -> None:
    answers = [owner.post("/v1/webhooks", json={"url": f"https://h{i}.example.com/"}) for i in range(MOST_WEBHOOKS + 1)]
    assert answers[-1].status_code == 409
    for answer in answers:
        if answer.status_code == 201:
            owner.delete(f"/v1/webhooks/{answer.json()['id']}")
