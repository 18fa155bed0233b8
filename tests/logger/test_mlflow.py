"""MLflow: its own client finds in the store what the run directory holds."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from recorder import untimed

import recexp
from recexp.error import ConfigError
from recexp.logger.mlflow import MLflow
from recexp.terminal import log_to_terminal

pytest.importorskip("mlflow", reason="mlflow is not installed")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a store')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


@pytest.fixture
def config(uri):
    return MLflow.Config(name="mlflow", tracking_uri=uri, experiment="direct", run_name=None, tags={})


@pytest.fixture
def logged(train, uri):
    """logged("run.dir=a"): trained with the logger on."""
    return lambda *overrides: train("logger=mlflow", f"logger.tracking_uri='{uri}'", *overrides)


def the_run(client, path: str | Path):
    return client.get_run(json.loads(Path(path, "mlflow.json").read_text())["run_id"])


def points(client, run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


def test_the_store_holds_every_figure_and_option_of_the_directory(empty, client, logged, held):
    metrics = logged("run.dir=a", "logger.experiment=whole", "+logger.tags.team=search", "model.embedding_dim=4")
    run = the_run(client, "a")
    assert points(client, run, "losses/target") == held("a", "losses/target")
    assert points(client, run, "valid/auc") == held("a", "valid/auc")
    assert points(client, run, "valid/f1_at_best") == held("a", "valid/f1@best")
    assert [value for _, value in points(client, run, "stage")] == [1, 2, 2, 2, 2]
    assert points(client, run, "final/test/auc") == [(5, metrics["test"]["auc"])]
    assert run.data.params["model.embedding_dim"] == "4" and run.data.params["model.hidden_sizes"] == "[128, 64]"
    assert run.data.params["seed"] == "0" and "logger.name" not in run.data.params
    assert run.info.status == "FINISHED" and run.info.run_name == "a"
    assert run.data.tags["team"] == "search" and run.data.tags["directory"] == str(empty / "a")
    assert client.get_experiment(run.info.experiment_id).name == "whole"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.yaml", "curves.png"]
    copied = client.download_artifacts(run.info.run_id, "config.yaml", str(empty))
    assert Path(copied).read_bytes() == Path("a/config.yaml").read_bytes()


def test_the_figures_are_those_of_a_run_without_logger(train, logged):
    assert untimed(logged("run.dir=a")) == untimed(train("run.dir=b"))
    assert Path("a/predictions.parquet").read_bytes() == Path("b/predictions.parquet").read_bytes()


def test_a_run_that_goes_on_is_the_same_run_with_every_point_once(client, logged, stopping, held):
    with stopping():
        logged("run.dir=a")
    before = the_run(client, "a")
    assert before.info.status == "FAILED" and len(points(client, before, "valid/auc")) == 4
    logged("run.dir=a", "run.resume=true")
    after = the_run(client, "a")
    assert after.info.run_id == before.info.run_id and after.info.status == "FINISHED"
    assert points(client, after, "valid/auc") == held("a", "valid/auc")
    assert len(points(client, after, "valid/auc")) == 5


def test_a_server_that_is_away_costs_one_warning(train, capfd):
    log_to_terminal()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"http://bob:secret@127.0.0.1:{taken.getsockname()[1]}"
        metrics = train("logger=mlflow", f"logger.tracking_uri='{address}'", "run.dir=a")
    (told,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("WARNING: data:")]
    assert told.startswith("WARNING: logger=mlflow: ") and "the run goes on" in told and "secret" not in told
    assert json.loads(Path("a/status.json").read_text())["state"] == "finished"
    assert untimed(metrics) == untimed(train("run.dir=b"))


@pytest.mark.parametrize(
    ("state", "told"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED"), ("pruned", "KILLED")],
)
def test_the_status_is_told_in_words_of_mlflow(empty, client, config, state, told):
    Path("config.yaml").touch()
    logger = MLflow(config, empty, {"seed": 0})
    logger.begin([])
    assert the_run(client, empty).info.status == "RUNNING"
    logger.end(0, {}, state)
    assert the_run(client, empty).info.status == told


def test_long_values_are_cut_and_many_are_told(empty, client, config):
    Path("config.yaml").touch()
    options = {"long": "x" * 7000, **{f"dataset.features.item.column {n}": "numeric" for n in range(250)}}
    MLflow(config, empty, options).begin([])
    found = the_run(client, empty).data.params
    assert found.keys() == options.keys() and found["long"] == "x" * 6000


def test_a_run_deleted_there_or_of_another_store_begins_anew(empty, client, config):
    Path("config.yaml").touch()
    MLflow(config, empty, {}).begin([])
    first = the_run(client, empty).info.run_id
    client.delete_run(first)
    MLflow(config, empty, {}).begin([{"epoch": 1, "valid/auc": 0.5}])
    second = the_run(client, empty)
    assert second.info.run_id != first and points(client, second, "valid/auc") == [(1, 0.5)]
    MLflow(replace(config, tracking_uri=f"sqlite:///{empty}/other.db"), empty, {}).begin([])
    assert json.loads(Path("mlflow.json").read_text())["run_id"] not in (first, second.info.run_id)


def test_the_environment_is_left_as_it_was(empty, config):
    Path("config.yaml").touch()
    before = dict(os.environ)
    MLflow(config, empty, {}).begin([])
    assert dict(os.environ) == before


def test_where_nothing_is_typed_the_store_is_the_environments_or_a_file_here(empty, monkeypatch):
    assert recexp.load_config(["logger=mlflow"]).logger.tracking_uri == f"sqlite:///{empty}/outputs/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:secret@there")
    assert recexp.load_config(["logger=mlflow"]).logger.tracking_uri is None


def test_a_local_store_needs_sqlalchemy_and_a_server_does_not(empty, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    recexp.load_config(["logger=mlflow", "logger.tracking_uri=http://there"])
    with pytest.raises(ConfigError, match="needs the package sqlalchemy; pip install 'recexp\\[mlflow\\]'"):
        recexp.load_config(["logger=mlflow"])


@pytest.mark.slow
def test_four_processes_share_a_store_that_none_has_made_before(empty):
    code = (
        "import sys; from pathlib import Path; from recexp.logger.mlflow import MLflow\n"
        "path = Path(sys.argv[1]); path.mkdir(); (path / 'config.yaml').touch()\n"
        "config = MLflow.Config(name='mlflow', tracking_uri=None, experiment='e', run_name=None, tags={})\n"
        "logger = MLflow(config, path, {'seed': 0}); logger.begin([])\n"
        "for step in range(1, 21): logger.epoch(step, {'epoch': step})\n"
        "logger.end(20, {}, 'finished')\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE) for name in "abcd"]
    assert [job.communicate(timeout=120)[1] for job in jobs] == [b""] * 4
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{empty}/outputs/mlflow/mlflow.db")
    runs = [the_run(client, name) for name in "abcd"]
    assert {run.info.status for run in runs} == {"FINISHED"} and len({run.info.experiment_id for run in runs}) == 1
    assert all(len(points(client, run, "epoch")) == 20 for run in runs)


def test_no_file_of_a_run_holds_the_password_of_a_server(empty, monkeypatch, capsys):
    from recexp.cli import run

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    address = "http://me:hush@127.0.0.1:9"
    typed = ["+experiment=smoke", "model=popularity", "trainer.threads=1", "logger=mlflow"]
    monkeypatch.setattr(sys, "argv", ["recexp", *typed, f'logger.tracking_uri="{address}"'])
    assert run([*typed, f'logger.tracking_uri="{address}"', "run.dir=a"]) == 0
    assert all(b"hush" not in path.read_bytes() for path in empty.rglob("*") if path.is_file())
    assert "tracking_uri: http://***@127.0.0.1:9" in Path("a/config.yaml").read_text()
    assert os.environ["MLFLOW_TRACKING_URI"] == address  # what a sweep's jobs and a resumed run read it from


def test_an_address_whose_password_is_lost_is_completed_by_the_environment(empty, config, monkeypatch):
    lost = MLflow(replace(config, tracking_uri="http://***@host"), empty, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@elsewhere")
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI to the address"):
        lost.begin([])
