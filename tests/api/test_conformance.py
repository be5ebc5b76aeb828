"""schemathesis: requests made from docs/openapi.json, answers held against it. Seeded, so every run asks the same.

Every operation gets examples that keep to the document and examples that break it. Checked: never a 5xx (but 501, where
the document says that Alcor does not have what Octavia has), only
documented status codes and content types, bodies that keep to their schema, methods that are not there answered with
405, and broken requests refused.
"""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, CheckContext, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from alcor.api.openapi import document


@schemathesis.check
def no_fault_of_the_server(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """501 is an answer where it is a documented one."""
    if response.status_code != 501 or "501" not in case.operation.definition.raw["responses"]:
        not_a_server_error(ctx, response, case)


CHECKS = [
    no_fault_of_the_server,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_keep_to_the_document(case: Case[Any], server: str) -> None:
    """Whatever is asked, well or badly, the answer is one that the document promises."""
    case.call_and_validate(base_url=server, checks=CHECKS)


@pytest.fixture(scope="module")
def there(server: str) -> Iterator[dict[str, str]]:
    """A load balancer with one of everything: the parameters of paths, and whose ids they are. Gone afterwards: other
    tests share the server."""
    with httpx.Client(base_url=f"{server}/v2.0") as client:

        def make(path: str, one: str, **attributes: object) -> str:
            response = client.post(path, json={one: attributes})
            assert response.status_code == 201, response.text
            identifier: str = response.json()[one]["id"]
            return identifier

        network = make("networks", "network", cidr="10.0.0.0/16")
        subnet = make("subnets", "subnet", network_id=network, cidr="10.0.0.0/24", ip_version=4)
        balancer = make("lbaas/loadbalancers", "loadbalancer", vip_subnet_id=subnet)
        named = {"loadbalancer_id": balancer, "protocol": "TCP", "protocol_port": 80}
        listener = make("lbaas/listeners", "listener", **named)
        pool = make("lbaas/pools", "pool", listener_id=listener, protocol="TCP", lb_algorithm="SOURCE_IP")
        member = make(f"lbaas/pools/{pool}/members", "member", address="10.0.0.5", protocol_port=8080)
        probed = {"type": "HTTP", "delay": 5, "timeout": 5, "max_retries": 1}
        monitor = make("lbaas/healthmonitors", "healthmonitor", pool_id=pool, **probed)
        yield {
            "loadbalancer_id": balancer,
            "listener_id": listener,
            "pool_id": pool,
            "member_id": member,
            "healthmonitor_id": monitor,
        }
        for path in (f"lbaas/loadbalancers/{balancer}?cascade=true", f"networks/{network}"):
            client.delete(path).raise_for_status()


@schema.include(path_regex=r"/lbaas/.*\{").exclude(method="DELETE").parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_about_what_is_there_keep_to_the_document(case: Case[Any], server: str, there: dict[str, str]) -> None:
    """An id that is well made becomes that of a resource: views, and changes that are carried out, are seen as well."""
    case.path_parameters = {name: _there(name, value, there) for name, value in case.path_parameters.items()}
    case.call_and_validate(base_url=server, checks=CHECKS)


def _there(name: str, value: object, there: dict[str, str]) -> object:
    try:
        UUID(str(value))
    except ValueError:
        return value
    return there[name]
