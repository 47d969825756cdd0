"""Secrets are hidden in errors, log lines and tracebacks, whatever form they have."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.command import UserError
from config.redact import HIDDEN, RedactedRecord, install, redact, without_credentials
from features.feast_server import ServerEngine
from features.online.connect import StoreSettings, connect
from features.online.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "pl4nted-s3cret"
URL = f"http://me:{PLANTED}@127.0.0.1:1"

TEXTS = [
    (f"postgresql://me:{PLANTED}@db/mlflow", "postgresql://me:***@db/mlflow"),
    (f"redis://:{PLANTED}@cache:6379/0 refused", "redis://:***@cache:6379/0 refused"),
    (f"redis://:{PLANTED}/with@slash#and@cache/0", "redis://:***@cache/0"),
    (f"https://{PLANTED}@github.com/x", "https://***@github.com/x"),
    (f"url=redis%3A%2F%2Fme%3A{PLANTED}%40cache", "url=redis%3A%2F%2Fme%3A***%40cache"),
    (
        f"postgresql://db/x?sslpassword={PLANTED}&connect_timeout=1",
        "postgresql://db/x?sslpassword=***&connect_timeout=1",
    ),
    (f"next=%2F%3Ftoken%3D{PLANTED}%26k%3D1", "next=%2F%3Ftoken%3D***%26k%3D1"),
    (f"host=db password='{PLANTED} {PLANTED}' port=1", "host=db password=*** port=1"),
    (f"{{'password': '{PLANTED}', 'port': 1}}", "{'password': ***, 'port': 1}"),
    (f"Authorization: Bearer {PLANTED}", "Authorization: Bearer ***"),
    (f"aws_secret_access_key = {PLANTED}", "aws_secret_access_key = ***"),
    (f"s3://b/k?X-Amz-Signature={PLANTED}&X-Amz-Date=1", "s3://b/k?X-Amz-Signature=***&X-Amz-Date=1"),
    ("for AKIAIOSFODNN7EXAMPLE:", "for ***:"),
    (f"redis://me:s'w\"o<r>d1/{PLANTED}@cache/0", "redis://me:***@cache/0"),
    (f"next=redis%253A%252F%252Fme%253A{PLANTED}%2540cache", "next=redis%253A%252F%252Fme%253A***%2540cache"),
    (f"next=password%253D{PLANTED}%2526k%253D1", "next=password%253D***%2526k%253D1"),
    (f"password=ab,cd;{PLANTED}), port=1", "password=***), port=1"),
    (f"AccountName=x;AccountKey={PLANTED}==;EndpointSuffix=core", "AccountName=x;AccountKey=***"),
    (f"user: me\npassword: {PLANTED}\nport: 1", "user: me\npassword: ***\nport: 1"),
    (f"X-API-Key: {PLANTED}", "X-API-Key: ***"),
    (f"{{'x-api-key': '{PLANTED}'}}", "{'x-api-key': ***}"),
    (f"refused tidegate_0123abcd_{PLANTED}_x!", "refused ***!"),
    (f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY----- was read", "*** was read"),
    (f"-----BEGIN EC PRIVATE KEY-----\\n{PLANTED}", "***"),
]


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_only_the_secret_is_hidden_and_hiding_twice_changes_nothing(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/state/mlflow.db",
        "TIDEGATE_GATE_KEY_FILE is /etc/gate; passed=3, token_minutes=60",
        "http://127.0.0.1:8081/models?limit=100",
        "unix:///run/redis.sock?db=1",
        "next: make restore REPLACE=1",
        "user_secret: should have at least 16 characters",
    ],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Z")), min_size=1))
def test_whatever_characters_a_password_has_it_is_hidden_in_a_url(password: str) -> None:
    url = f"redis://me:{password}@cache/0"

    assert redact(url) == "redis://me:***@cache/0"
    assert without_credentials(url) == "redis://cache/0"


def test_a_secret_of_the_environment_is_hidden_however_it_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PLANTED)
    monkeypatch.setenv("TIDEGATE_STUDY_STORAGE", "postgresql://me:hush%2Fhush@db/x")

    assert redact(f"user me with {PLANTED} was refused; tried hush/hush") == "user me with *** was refused; tried ***"


def test_an_address_is_shown_without_user_password_and_parameters() -> None:
    assert without_credentials(f"redis://me:{PLANTED}@cache/0?password=x") == "redis://cache/0"


def test_every_error_of_ours_hides_passwords_wherever_its_text_goes() -> None:
    assert str(UserError(f"{URL} cannot be reached")) == "http://me:***@127.0.0.1:1 cannot be reached"


def test_log_messages_and_tracebacks_of_any_library_are_redacted() -> None:
    code = f"""
import logging, threading
from config.redact import install
install()
logging.basicConfig()
logging.getLogger("a.library").warning("refused by %s", "{URL}")
try:
    raise KeyError("{URL}")
except KeyError:
    logging.getLogger("a.library").exception("failed")
thread = threading.Thread(target=lambda: int("{URL}"))
thread.start()
thread.join()
raise RuntimeError("{URL}")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")

    assert ended.returncode == 1
    assert PLANTED not in ended.stderr.replace(f'"{URL}"', "")  # a line of source may be shown
    assert ended.stderr.count(HIDDEN) >= 4
    assert ended.stderr.endswith("RuntimeError: http://me:***@127.0.0.1:1\n")


def test_a_stack_that_a_record_shows_is_redacted() -> None:
    record = RedactedRecord(True, "a.library", logging.INFO, "file", 1, "where", (), None, None, f"connect('{URL}')")

    assert logging.Formatter().format(record) == "where\nconnect('http://me:***@127.0.0.1:1')"


def test_a_spawned_worker_of_the_edge_ends_with_a_redacted_traceback(tmp_path: Path) -> None:
    code = f"""
from serving.edge.app import create_app
from serving.edge import service
service.EdgeService.__init__ = lambda *_: int("{URL}")
create_app()
"""
    env = {**os.environ, "TIDEGATE_STATE": str(tmp_path), "TIDEGATE_EDGE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=120)

    assert ended.returncode == 1
    assert ended.stderr.endswith("'http://me:***@127.0.0.1:1'\n")


def test_the_worker_logs_where_an_error_was_raised_and_not_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("of_this_test")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        install(error_texts=False)
        try:
            raise KeyError("user-7")
        except KeyError:
            logger.exception("the model failed")
    finally:
        logger.removeHandler(handler)
    logged = capsys.readouterr().err

    assert "test_redact.py" in logged
    assert logged.endswith("KeyError\n")
    assert "user-7" not in logged.partition('raise KeyError("user-7")')[2]


@pytest.mark.parametrize(
    "url",
    [
        f"redis://me:{PLANTED}@127.0.0.1:1/0",
        f"redis://me:{PLANTED}/x@127.0.0.1:1/0",  # not percent-encoded: the parser sees a port
        f"rediss://127.0.0.1:1/0?password={PLANTED}",
    ],
)
def test_an_online_store_that_fails_is_named_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", url)
    with pytest.raises(StoreError) as error:
        connect("d", StoreSettings(url)).policy()

    assert PLANTED not in str(error.value)
    assert PLANTED not in connect("d", StoreSettings("redis://127.0.0.1/0")).engine.location


def test_a_feast_server_that_fails_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as error:
        ServerEngine(f"feast+http://me:{PLANTED}@127.0.0.1:1", 1).get([b"tidegate:d:profile:a"])

    assert PLANTED not in str(error.value)


REGISTRY = ("MLFLOW_TRACKING_URI", URL)
# (module, arguments, variable, its URL): commands that read the setting before anything else is needed.
COMMANDS = [
    ("serving.deploy", [], *REGISTRY),
    ("serving.deploy", ["--status"], *REGISTRY),
    ("serving.rollout", [], *REGISTRY),
    ("experiments.gate", [], *REGISTRY),
    ("experiments.impact", ["--dataset", "0" * 64], *REGISTRY),
    ("serving.edge.serve", [], "TIDEGATE_EDGE_CACHE", f"mysql://me:{PLANTED}@127.0.0.1:1"),
    ("serving.edge.serve", [], "TIDEGATE_EDGE_UPSTREAM", f"{URL}/path"),
    ("features.materialize", [], "TIDEGATE_STORE", f"redis://me:{PLANTED}@127.0.0.1:1/0"),
    ("features.materialize", [], "TIDEGATE_STORE", f"mysql://me:{PLANTED}@127.0.0.1:1/0"),
]


@pytest.mark.parametrize(("module", "arguments", "variable", "url"), COMMANDS)
def test_a_command_whose_connection_fails_prints_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    module: str, arguments: list[str], variable: str, url: str,
) -> None:  # fmt: skip
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):  # set from the URL, until this test ends
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(variable, url)
    code = importlib.import_module(module).main(arguments)
    printed = "".join(capfd.readouterr())

    assert code == 2
    assert PLANTED not in printed
    assert "127.0.0.1:1" in printed or "'mysql'" in printed  # it failed because of this URL


def test_the_reason_of_a_failed_run_is_kept_without_passwords(tracked: Path) -> None:
    from training import tracking

    run = tracking.start_run("demo", "fails", {})
    with pytest.raises(RuntimeError), tracking.closing(run):
        raise RuntimeError(f"{URL} refused")

    assert (
        tracking.connect().get_run(run.run_id).data.tags["error"] == "RuntimeError: http://me:***@127.0.0.1:1 refused"
    )


def test_help_with_a_database_names_the_variable_instead_of_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    from training.tracking import TrackingError, mlflow_errors

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{PLANTED}@db/mlflow")
    expected = pytest.raises(TrackingError, match=r'mlflow db upgrade "\$MLFLOW_TRACKING_URI"')
    with expected as error, mlflow_errors("MLflow cannot be used"):
        raise MlflowException("Detected out-of-date database schema (found version 1)")

    assert PLANTED not in str(error.value)
