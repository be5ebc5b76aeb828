"""schemathesis: requests made from docs/openapi.json, answers held against it. Seeded, so every run asks the same.

Every operation gets examples that keep to the document and examples that break it. Checked: never a 5xx, only
documented status codes and content types, bodies that keep to their schema, methods that are not there answered with
405, and broken requests refused.
"""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from alcor.api.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_keep_to_the_document(case: Case, server: str) -> None:
    """Whatever is asked, well or badly, the answer is one that the document promises."""
    case.call_and_validate(base_url=server, checks=CHECKS)
