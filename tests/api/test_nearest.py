"""`nearest`: decisions by the request's text, from the test cases that were evaluated."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.api.conftest import Served, a_benchmark, a_dataset, a_tenant
from tests.api.test_selections import Router, chosen
from tests.postgres import as_organization

SUMS = ("add up", "the total of", "the sum of", "how much is")
POEMS = ("write a poem about", "rhyme about", "a haiku on", "verses on")
WORDS = ("apples", "trains", "clouds", "prices", "rivers", "songs", "houses", "stars")


@pytest.fixture
def router(served: Served) -> Iterator[Router]:
    """An organization without a row in any table but its own two models."""
    router = Router(served, a_tenant(served.database, served.wiring.engine))
    with as_organization(served.database, router.tenant.organization) as connection:
        connection.execute("UPDATE evaluation_models SET status = 'archived'")
        connection.commit()
    router.model("calculator", price=1.0)
    router.model("poet", price=1.0)
    yield router
    router.client.close()


def evaluated(router: Router, quality: Callable[[str, bool], float], n: int = 600) -> None:
    """Both models' completed runs on one benchmark; half of its test cases are sums, half are about poems."""
    rng = random.Random(3)
    benchmark = a_benchmark(router.client, a_dataset(router.client)["name"])["name"]
    texts = []
    for case in range(n):
        poem = case % 2 == 1
        texts.append((f"{rng.choice(POEMS if poem else SUMS)} {' and '.join(rng.sample(WORDS, 3))}", poem))
    with as_organization(router.served.database, router.tenant.organization) as connection:
        for name in ("calculator", "poet"):
            run = uuid.uuid4()
            connection.execute(
                """
                INSERT INTO evaluation_runs (id, organization_id, model_id, benchmark_id, dataset_id, status,
                    total_test_cases, completed_test_cases, completed_at, total_cost)
                SELECT %s, m.organization_id, m.id, b.id, b.dataset_id, 'completed', %s, %s, now(), 0.6
                FROM evaluation_models AS m, benchmark_suites AS b WHERE m.name = %s AND b.name = %s
                """,
                (run, n, n, name, benchmark),
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    """
                    INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, input_data,
                                                    actual_output, metrics, cost)
                    VALUES (gen_random_uuid(), %s, %s, %s, %s, '""', %s, 0.001)
                    """,
                    [
                        (
                            router.tenant.organization,
                            run,
                            case,
                            Jsonb(given),
                            Jsonb({"numeric_match": float(rng.random() < quality(name, poem))}),
                        )
                        for case, (given, poem) in enumerate(texts)
                    ],
                )
        connection.commit()


def asked(router: Router, request: str, **more: Any) -> dict[str, Any]:
    return router.select(policy="nearest", text=request, constraints={"models": ["calculator", "poet"]}, **more)


def test_the_text_decides_where_evaluations_say_that_it_matters(router: Router) -> None:
    evaluated(router, lambda name, poem: 0.9 if (name == "poet") == poem else 0.3)
    poem, total = asked(router, "write a poem about rivers"), asked(router, "the sum of apples and trains")
    assert (chosen(poem), chosen(total)) == ("poet", "calculator")
    logged = router.client.get(f"/v1/selections/{poem['id']}").json()
    assert len(logged["neighbours"]) == 10
    assert router.client.get(f"/v1/selections/{poem['id']}/replay").json()["same"]


def test_the_text_is_not_gone_by_where_that_gains_nothing_and_the_decision_says_so(router: Router) -> None:
    evaluated(router, lambda name, poem: 0.8 if name == "poet" else 0.5)
    answer = asked(router, "the sum of apples and trains")
    assert "going by the text gains nothing sure" in answer["explanation"]
    assert router.client.get(f"/v1/selections/{answer['id']}").json()["neighbours"] == []


def test_too_few_evaluated_test_cases_are_said_to_be_too_few(router: Router) -> None:
    evaluated(router, lambda name, poem: 0.5, n=20)
    assert "too few" in asked(router, "anything")["explanation"]


def test_an_unknown_embedder_is_refused_with_those_that_there_are(router: Router) -> None:
    answer = router.ask(policy="nearest", parameters={"embedder": "word2vec"}, text="x")
    assert answer.status_code == 422
    assert "hashed" in answer.json()["accepted"]
