"""/v1/openapi.json is true to the routes: schemathesis asks what it allows and what it forbids, and reads every answer against it."""

from __future__ import annotations

import asyncio
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Route

from realtime.gateway.api import make_app
from realtime.gateway.openapi import document
from tests.api_node import configured, feature, join, on_port, open_gate

pytestmark = pytest.mark.usefixtures("engine_kind")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    allow_header_conformance,
    unsupported_method,
]
EXAMPLES = 25


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_document_has_the_routes_and_no_others() -> None:
    async with open_gate(configured()) as gate:
        routes = {
            (route.path.replace(":path", ""), method.lower())
            for route in make_app(gate).routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
    paths = document(configured())["paths"]
    assert routes == {(path, method) for path, item in paths.items() for method in item}


def test_the_schemas_are_schemas() -> None:
    for name, schema in document(configured())["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert schema["title"] == name


@pytest.mark.parametrize("mode", list(GenerationMode))
async def test_answers_are_as_described(mode: GenerationMode) -> None:
    async with on_port() as (server, gate):
        gate.node.publish([feature("a/b", 1, 2, kind="bus", properties={"n": [1, {"x": None}]}), feature("c")])
        join(gate)
        with requests.Session() as session:
            found = await asyncio.to_thread(lambda: session.get(f"{server.url}/v1/openapi.json").json())
            await asyncio.to_thread(_ask, found, server.url, mode, session)
        assert not [name for name in gate.node.counters.events if name.startswith("http_5")]
        # Whatever was made up, some of it reached the publish path, beside the two from above.
        assert gate.node.counters.updates.total() > 2


def _ask(found: dict[str, Any], url: str, mode: GenerationMode, session: requests.Session) -> None:
    asked = 0
    for result in schemathesis.openapi.from_dict(found).get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not list(operation.iter_parameters()) and not operation.body:
            continue  # there is nothing to get wrong

        @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(base_url=url, session=session, checks=CHECKS)

        ask()
    assert asked > EXAMPLES
