"""docs/openapi.json: valid OpenAPI, up to date, and with every route of the application."""

import json
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from streams.application import build_app
from streams.views import openapi
from streams.views.__main__ import openapi_json
from streams.views.pages import attach
from streams.worker.clock import WorkerClock
from tests.support.paths import DOCS
from tests.support.stack import settings_with

COMMITTED = (DOCS / "openapi.json").read_text(encoding="utf-8")
PAGES = {"/", "/static/{name}"}  # the dashboard
UNKNOWN = "/api/{name}"  # the 404 of unknown paths


def test_the_committed_document_is_up_to_date() -> None:
    assert openapi_json() == COMMITTED, "run: python -m streams.views > docs/openapi.json"


@pytest.mark.parametrize("with_token", [True, False])
def test_it_is_valid_openapi(with_token: bool) -> None:
    validate(openapi.document(with_token=with_token))


def test_security_is_documented_if_a_token_is_required() -> None:
    guarded = openapi.document(with_token=True)
    assert guarded["security"] == [{"token": []}, {"cookie": []}]
    assert guarded["paths"]["/health/live"]["get"]["security"] == []
    assert "security" not in openapi.document(with_token=False)


def test_every_route_of_the_application_is_documented(tmp_path: Path) -> None:
    settings = settings_with({"BDI_STREAMS__DATA_DIR": str(tmp_path)})
    app = build_app(settings, WorkerClock.from_settings(settings))
    attach(app, settings, app.clock)
    app.web.init_server()
    routes = {resource.canonical for resource in app.web.web_app.router.resources()}
    assert routes - PAGES - {UNKNOWN} == set(json.loads(COMMITTED)["paths"])
    assert {UNKNOWN} | PAGES <= routes
