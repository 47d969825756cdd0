"""A run says what was fitted, on which data, with what outcome, in the same words for every model."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from made_features import checkerboard, recipe, train_settings
from mlflow import MlflowClient
from mlflow.entities import Run

from config import params
from config.paths import ROOT
from training import mlflow_views, provenance, tracking
from training.fitting import FitError, FitResult, fit
from training.tracking import NOTE, param_text

SETTINGS = params.load(ROOT / "params.yaml")
HASH = "0123456789abcdef0123456789abcdef0123456789abcdef"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "checkout", lambda: ("abc", []))


def logged(label: str, values: dict) -> tuple[Run, FitResult]:
    """Fit a model under a run, as the stage does, and read the run back."""
    features = checkerboard()
    features.description["dataset_hash"] = HASH
    with tracking.training_run(label, values, features, SETTINGS) as run:
        result = fit(values, features, train_settings(), 0, run.log_epoch)
        run.log_fit(result)
    return MlflowClient().get_run(run.run_id), result


def artifacts_of(tracked: Path, run: Run) -> dict[str, bytes]:
    folder = tracked / "mlartifacts" / SETTINGS.dataset / run.info.run_id / "artifacts"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_counted_and_learned_models_share_their_names_and_tags(tracked: Path) -> None:
    counted, _ = logged("popularity_7d", recipe("popularity_7d"))
    learned, result = logged("two_tower", recipe("two_tower", max_epochs=3))

    common = {"fit_seconds", "valid/next_item/ndcg_10", "valid/horizon/ndcg_10"}
    assert set(counted.data.metrics) == common
    assert set(learned.data.metrics) - common == {
        "train/loss", "early_stopping/next_item/ndcg_10", "early_stopping/horizon/ndcg_10",
    }  # fmt: skip
    # The last look of early stopping must not stand where the finished fit's score belongs.
    assert learned.data.metrics["valid/next_item/ndcg_10"] == result.validation["next_item"]
    curve = MlflowClient().get_metric_history(learned.info.run_id, "early_stopping/next_item/ndcg_10")
    assert [(point.step, point.value) for point in curve] == [
        (row["step"], row["valid/next_item/ndcg_10"]) for row in result.curves
    ]

    for run, label, model in ((counted, "popularity_7d", "popularity"), (learned, "two_tower", "two_tower")):
        assert run.info.run_name == f"{label} · valid"
        assert run.info.status == "FINISHED"
        assert {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")} == {
            "dataset": SETTINGS.dataset, "split_id": "none", "dataset_hash": HASH, "commit": "abc",
            "label": label, "model": model, "cut": "valid", "stage": "train",
        }  # fmt: skip
        assert label in run.data.tags[NOTE]


def test_only_a_learned_model_has_a_learning_curve(tracked: Path) -> None:
    counted, _ = logged("popularity", recipe("popularity"))
    learned, _ = logged("two_tower", recipe("two_tower", max_epochs=2))

    assert artifacts_of(tracked, counted) == {}
    plots = artifacts_of(tracked, learned)
    assert set(plots) == {"plots/learning_curve.png"}
    assert plots["plots/learning_curve.png"].startswith(PNG)


def test_params_are_the_recipe_and_what_the_fit_settled_beyond_it(tracked: Path) -> None:
    ease, found = logged("ease", recipe("ease", l2=[200.0, 1000.0]))
    network, result = logged("two_tower", recipe("two_tower", max_epochs=1))

    assert ease.data.params == {
        "name": "ease", "l2": "200, 1000", "max_items": "20000", "chosen.l2": param_text(found.hyperparameters["l2"]),
    }  # fmt: skip
    assert network.data.params["channels"] == "all, half_life_1d"
    assert set(network.data.params) - set(recipe("two_tower")) == {"best_steps", "train_events"}
    assert network.data.params["best_steps"] == str(result.hyperparameters["best_steps"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (200.0, "200"),
        (0.0025, "0.0025"),
        (1 / 3, "0.333333333333333"),
        (["a", 1], "a, 1"),
    ],
)
def test_params_read_as_params_yaml_does(value: object, text: str) -> None:
    assert param_text(value) == text


def test_a_run_names_the_version_of_its_data(tracked: Path) -> None:
    ingested = {"path": "out/data/ingest", "hash": "md5", "md5": "d41d8.dir"}
    (tracked / "dvc.lock").write_text(
        yaml.safe_dump({"schema": "2.0", "stages": {"ingest": {"outs": [ingested]}}}), encoding="utf-8"
    )
    (tracked / "out/data/ingest").mkdir(parents=True)
    counts = {"events": 9, "users": 4, "items": 3}
    (tracked / "out/data/ingest/manifest.json").write_text(json.dumps({"counts": counts}), encoding="utf-8")

    (entry,) = logged("popularity", recipe("popularity"))[0].inputs.dataset_inputs

    assert (entry.dataset.name, entry.dataset.digest) == ("checkerboard", HASH[:36])
    assert entry.dataset.source_type == "dvc"
    assert json.loads(entry.dataset.source) == {"uri": "out/data/ingest", "dvc_md5": "d41d8.dir"}
    assert json.loads(entry.dataset.profile) == {
        "num_rows": 9, "num_users": 4, "num_items": 3, "dvc_md5": "d41d8.dir",
    }  # fmt: skip
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training (valid)"}


def test_without_dvc_the_manifest_hash_names_the_data(tracked: Path) -> None:
    (entry,) = logged("popularity", recipe("popularity"))[0].inputs.dataset_inputs

    assert json.loads(entry.dataset.source) == {"uri": "out/data/ingest", "dataset_hash": HASH}
    assert json.loads(entry.dataset.profile) == {"dataset_hash": HASH}


def test_a_fit_that_fails_leaves_a_failed_run_with_its_reason(tracked: Path) -> None:
    with pytest.raises(FitError):
        logged("ease", recipe("ease", max_items=1))

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(SETTINGS.dataset).experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("FitError: ")


def test_an_experiment_explains_itself_and_keeps_what_people_write(tracked: Path) -> None:
    client = MlflowClient()
    made = tracking.experiment_id(client, "shop")
    tags = client.get_experiment(made).tags
    shared = {key.removeprefix(mlflow_views.SHARED) for key in tags if key.startswith(mlflow_views.SHARED)}
    client.set_experiment_tag(made, NOTE, "our own words")

    assert shared == {"tidegate-models", "tidegate-recipes", "tidegate-trials"}
    assert all(f"viewStateShareKey={name})" in tags[NOTE] for name in shared)
    assert tracking.experiment_id(client, "shop") == made
    assert client.get_experiment(made).tags[NOTE] == "our own words"


def test_saved_views_filter_by_tags_and_order_by_metrics_that_runs_have(tracked: Path) -> None:
    run, _ = logged("popularity", recipe("popularity"))
    view = mlflow_views.VIEWS["recipes"]
    found = MlflowClient().search_runs([run.info.experiment_id], view[1], order_by=[f"metrics.`{view[2]}` DESC"])

    assert [entry.info.run_id for entry in found] == [run.info.run_id]
    assert view[2] in run.data.metrics


@pytest.mark.slow
def test_a_deleted_experiment_is_one_line_with_the_command_that_restores_it(tracked: Path) -> None:
    client = tracking.connect()
    made = tracking.experiment_id(client, "shop")
    client.delete_experiment(made)

    with pytest.raises(
        tracking.TrackingError, match=rf"^shop: the experiment {made} was deleted in MLflow; `"
    ) as caught:
        tracking.start_run("shop", "a run", {})
    command = str(caught.value).split("`")[1]
    subprocess.run(command, shell=True, cwd=ROOT, check=True, capture_output=True)
    assert tracking.experiment_id(client, "shop") == made


def test_a_run_that_is_deleted_while_it_is_open_is_one_line(tracked: Path) -> None:
    run = tracking.start_run("shop", "a run", {})

    with pytest.raises(tracking.TrackingError, match=rf"the run {run.run_id} was deleted in MLflow; `.*runs restore"):  # noqa: PT012, SIM117
        with tracking.closing(run):
            run.client.delete_run(run.run_id)
            run.log_metrics({"loss": 1.0})
    assert tracking.reopen_run(run.run_id) is None
    assert tracking.reopen_run("0" * 32) is None


def test_a_damaged_database_is_one_line(tracked: Path) -> None:
    (tracked / "other.db").write_bytes(b"no database " * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked}/other.db")
        with pytest.raises(tracking.TrackingError, match=r"other\.db is damaged; restore it from a backup"):
            tracking.connect()


@pytest.mark.slow
def test_a_writer_waits_for_the_lock_of_another_process(tracked: Path) -> None:
    run = tracking.start_run("shop", "a run", {})
    code = "from training import tracking; tracking.reopen_run(sys.argv[1]).log_metrics({'loss': 1.0})"
    with contextlib.closing(sqlite3.connect(tracked / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        writer = subprocess.Popen([sys.executable, "-c", f"import sys; {code}", run.run_id], cwd=ROOT)
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(15)  # importing MLflow takes seconds too
        holder.execute("COMMIT")

    assert writer.wait(120) == 0
    assert tracking.connect().get_run(run.run_id).data.metrics == {"loss": 1.0}


@pytest.mark.slow
def test_a_project_below_a_folder_with_a_percent_sign_can_track(tmp_path: Path, empty_registry: Path) -> None:
    folder = tmp_path / "100% real"
    (folder / "state").mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copyfile(empty_registry, folder / "state" / "mlflow.db")
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    code = "from training import tracking; tracking.start_run('shop', 'a run', {}).log_json({}, 'content')"
    command = [folder / ".venv/bin/python", "-c", code]
    subprocess.run(command, cwd=ROOT, env=env | {"TIDEGATE_STATE": str(folder / "state")}, check=True, timeout=120)

    assert len(list(folder.glob("state/mlartifacts/shop/*/artifacts/content.json"))) == 1


@pytest.mark.slow
def test_two_processes_may_meet_a_new_database_at_once(tmp_path: Path) -> None:
    code = "from training import tracking; c = tracking.connect(); print(tracking.experiment_id(c, 'both'))"
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new/mlflow.db"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8")
        for _ in range(2)
    ]
    ids = [one.communicate(timeout=120)[0].strip() for one in both]

    assert [one.returncode for one in both] == [0, 0]
    assert ids[0] == ids[1]


PASSWORD = "pl4nted-s3cret/x"
SERVED_RUNS = """
import os, subprocess, sys
import mlflow
from config.redact import install
from training import tracking
install()
for setting in ({}, {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "false"}):
    os.environ |= setting
    with tracking.closing(tracking.start_run("demo", "n", {})) as run:
        run.log_json({}, "facts")
    mlflow.artifacts.list_artifacts(run_id="r")
    print("MLflow's own:", mlflow.get_tracking_uri(), flush=True)
subprocess.run([sys.executable, "-c", "import os; print('child:', os.environ['MLFLOW_TRACKING_URI'])"])
"""


class TrackingServer(BaseHTTPRequestHandler):
    """As much of MLflow's REST API as a run needs that is started and closed."""

    def do_GET(self) -> None:
        place = {"artifact_uri": "mlflow-artifacts:/1/r/artifacts", "lifecycle_stage": "active"}
        info = {"run_id": "r", "run_uuid": "r", "run_name": "n", "experiment_id": "1", "status": "RUNNING", **place}
        experiment = {"experiment_id": "1", "name": "demo", "lifecycle_stage": "active"}
        body = {"experiment": experiment, "run": {"info": info, "data": {}}, "run_info": info, "files": []}
        expected = base64.b64encode(f"me@x:{PASSWORD}".encode()).decode()
        self.send_response(200 if self.headers["Authorization"] == f"Basic {expected}" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    do_PUT = do_POST

    def log_message(self, *_: object) -> None: ...


def test_mlflow_gets_no_password_in_a_url_that_it_could_print_and_prints_none() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), TrackingServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{server.server_port}"
        env = {**os.environ, "MLFLOW_TRACKING_URI": place.replace("//", f"//me%40x:{quote(PASSWORD, safe='')}@")}
        command = [sys.executable, "-c", SERVED_RUNS]
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=120)
        server.shutdown()
        thread.join()

    assert ended.returncode == 0, ended.stderr
    assert "pl4nted" not in ended.stdout + ended.stderr
    first, *with_urls, after, child = ended.stdout.splitlines()
    assert first == after == f"MLflow's own: {place}"
    assert with_urls[0] == f"🏃 View run n at: {place}/#/experiments/1/runs/r"  # where a user lets MLflow print URLs
    assert child == f"child: {place}"
