"""The API is what its OpenAPI document says: schemathesis makes the requests, good and bad, and checks the answers."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from evalservice.api import create_app
from evalservice.web.context import Wiring
from tests.api.conftest import Served, a_benchmark, a_dataset, a_model

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def _document() -> dict[str, Any]:
    parts: Any = None
    return create_app(Wiring(engine=parts, box=parts, data_root="", platforms={}, check_run=parts)).openapi()


schema = schemathesis.openapi.from_dict(_document())


@pytest.fixture(scope="module")
def something(served: Served) -> None:
    """What lists and names find."""
    with served.client(served.mine) as client:
        a_model(client)
        a_benchmark(client, a_dataset(client)["name"])


@pytest.mark.usefixtures("something")
@schema.exclude(path_regex="/events$").parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_tells_of(case: Any, served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.mine.keys['owner']}"}
    case.call_and_validate(base_url=served.url, headers=headers, checks=CHECKS)
