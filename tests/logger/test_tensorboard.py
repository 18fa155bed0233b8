"""TensorBoard: its own reader finds in the event files what the run directory holds."""

from pathlib import Path

import pytest
from recorder import untimed

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def read(folder: str | Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def points(found, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def close(points: list[tuple[int, float]]) -> list:
    """Equal to those of 32-bit floats."""
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


def test_event_files_hold_every_figure_of_the_directory(train, held):
    metrics = train("logger=tensorboard", "run.dir=a")
    found = read("a/tensorboard")
    assert points(found, "losses/target") == close(held("a", "losses/target"))
    for name in ("auc", "gauc", "logloss", "f1@best"):
        assert points(found, f"valid/{name}") == close(held("a", f"valid/{name}"))
    assert [value for _, value in points(found, "stage")] == [1, 2, 2, 2, 2]
    assert points(found, "final/test/auc") == [(5, pytest.approx(metrics["test"]["auc"], rel=1e-6))]
    assert len(points(found, "samples_per_second")) == len(points(found, "seconds")) == 5


def test_options_and_status_are_told_too(train):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    train("logger=tensorboard", "run.dir=a", "model.embedding_dim=4")
    found = read("a/tensorboard")
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["model.embedding_dim"].number_value == 4 and options["model.name"].string_value == "als_mlp"
    assert options["model.hidden_sizes"].string_value == "[128, 64]"
    (status,) = found.Tensors("status/text_summary")
    assert status.tensor_proto.string_val == [b"finished"]
    (config,) = found.Tensors("config/text_summary")
    assert Path("a/config.yaml").read_bytes() in config.tensor_proto.string_val[0]


def test_the_figures_are_those_of_a_run_without_logger(train):
    assert untimed(train("logger=tensorboard", "run.dir=a")) == untimed(train("run.dir=b"))
    assert Path("a/predictions.parquet").read_bytes() == Path("b/predictions.parquet").read_bytes()


@pytest.mark.parametrize("first", ["tensorboard", "none"])
def test_a_run_that_goes_on_has_every_point_once(train, stopping, held, first):
    with stopping():
        train(f"logger={first}", "run.dir=a")
    train("logger=tensorboard", "run.dir=a", "run.resume=true")
    found = read("a/tensorboard")
    assert points(found, "valid/auc") == close(held("a", "valid/auc"))
    assert len(points(found, "valid/auc")) == 5 and len(points(found, "final/test/auc")) == 1


def test_runs_in_one_folder_stay_apart(train, empty):
    for name in ("a", "b"):
        train("logger=tensorboard", "logger.dir=boards", f"run.dir=x/{name}", "trainer.epochs=1")
    found = sorted(path.parent for path in Path("boards").rglob("events.*"))
    assert found == [Path("boards", *empty.parts[1:], "x", name) for name in ("a", "b")]
    assert not list(Path("x").rglob("events.*"))
