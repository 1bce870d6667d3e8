"""docs/openapi.json: valid OpenAPI, as the code says, and with every route of the application."""

import json
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from streams.application import build_app
from streams.views import attach, openapi
from streams.views.__main__ import openapi_json
from streams.worker.clock import WorkerClock
from tests.support.paths import DOCS
from tests.support.stack import settings_with

COMMITTED = (DOCS / "openapi.json").read_text(encoding="utf-8")
PAGES = {"/", "/static/{name}"}  # for people
NOTHING = "/api/{name}"  # answers what is not there


def test_the_committed_document_is_what_the_code_says() -> None:
    assert openapi_json() == COMMITTED, "run: python -m streams.views > docs/openapi.json"


@pytest.mark.parametrize("with_token", [True, False])
def test_it_is_openapi(with_token: bool) -> None:
    validate(openapi.document(with_token=with_token))


def test_security_is_told_where_a_token_is_asked_for() -> None:
    guarded = openapi.document(with_token=True)
    assert guarded["security"] == [{"token": []}, {"cookie": []}]
    assert guarded["paths"]["/health/live"]["get"]["security"] == []
    assert "security" not in openapi.document(with_token=False)


def test_every_route_of_the_application_stands_there(tmp_path: Path) -> None:
    settings = settings_with({"BDI_STREAMS__DATA_DIR": str(tmp_path)})
    app = build_app(settings, WorkerClock.from_settings(settings))
    attach(app, settings, app.clock)
    app.web.init_server()
    routes = {resource.canonical for resource in app.web.web_app.router.resources()}
    assert routes - PAGES - {NOTHING} == set(json.loads(COMMITTED)["paths"])
    assert {NOTHING} | PAGES <= routes
