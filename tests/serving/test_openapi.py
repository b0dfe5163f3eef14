"""What the OpenAPI description allows is answered as it says, what it does not is refused: asked by schemathesis."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, settings


@pytest.fixture
def described(server: str) -> object:
    return schemathesis.openapi.from_url(f"{server}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_keeps_to_its_description(case: object) -> None:
    case.call_and_validate()  # type: ignore[attr-defined]
