"""Settings come from environment variables, and errors name the variable."""

from __future__ import annotations

import pytest

from config.paths import ROOT
from config.validation import SettingsError
from serving import settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in settings.ServerSettings.model_fields:
        monkeypatch.delenv(settings.variable(field), raising=False)


def test_by_default_the_server_listens_on_loopback_and_lives_inside_the_project() -> None:
    loaded = settings.load()
    assert loaded.inference_url == "http://127.0.0.1:8080"
    assert loaded.server_home == ROOT / "out" / "serving" / "torchserve"


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_MANAGEMENT_PORT", "9999")
    monkeypatch.setenv("TIDEGATE_WORKERS", "")  # empty counts as unset
    assert settings.load().management_url == "http://127.0.0.1:9999"
    assert settings.load().workers == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("TIDEGATE_INFERENCE_PORT", "70000"), ("TIDEGATE_WORKERS", "0"), ("TIDEGATE_START_SECONDS", "soon")],
)
def test_an_invalid_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name} is '{value}'; "):
        settings.load()


def test_two_services_on_one_port_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_METRICS_PORT", "8081")
    with pytest.raises(SettingsError, match="TIDEGATE_MANAGEMENT_PORT and TIDEGATE_METRICS_PORT are both 8081"):
        settings.load()
