"""What came of jobs, read from directories written by hand."""

import math

import pytest
import yaml
from boards import job

from recexp.report.sweep import closing_lines
from recexp.sweep.folder import Job
from recexp.sweep.job import objective
from recexp.sweep.outcome import command, outcomes, read_outcome


def test_an_outcome_has_the_objective_that_the_configuration_names(tmp_path):
    job(tmp_path, 0, "objective=logloss", auc=0.6, logloss=0.3)
    job(tmp_path, 1, auc=0.6)
    job(tmp_path, 2, auc=None)
    assert [(outcome.objective, outcome.value) for outcome in outcomes(tmp_path)] == [
        ("logloss", 0.3), ("auc", 0.6), ("auc", None),
    ]  # fmt: skip
    assert objective(tmp_path / "1-job") == 0.6 and math.isnan(objective(tmp_path / "2-job"))


def test_a_job_that_has_not_begun_is_missing_and_one_that_failed_says_why(tmp_path):
    job(tmp_path, 0, "+sweep=fm", "seed=1", state="missing")
    job(tmp_path, 1, state="failed")
    missing, failed = outcomes(tmp_path)
    assert (missing.record.state, missing.error, missing.value) == ("missing", None, None)
    assert missing.overrides == {"model": "fm", "sweep": "fm", "seed": "1"}
    assert (failed.record.state, failed.error) == ("failed", "loss is nan")
    assert read_outcome(tmp_path / "1-job") == failed


def test_the_best_job_is_trained_again_by_a_command_for_a_shell(tmp_path):
    job(tmp_path, 0, "+sweep=fm", "model.hidden_sizes=[8]", "run.name='a b'", auc=0.6)
    assert command(outcomes(tmp_path)[0]) == (
        """recexp model=fm 'model.hidden_sizes=[8]' 'run.name='"'"'a b'"'"'' --config-dir 'my conf'"""
    )
    (tmp_path / "0-job/overrides.yaml").write_text(yaml.safe_dump(["+sweep=fm", "seed=1"]))
    assert command(outcomes(tmp_path)[0]) == "recexp model=fm seed=1 --config-dir 'my conf'"


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.json", "[1]"), ("status.json", "{"), ("environment.json", '{"data": 1}')]
)
def test_a_damaged_job_spoils_no_other_and_has_not_ended(tmp_path, file, content):
    for number in range(2):
        job(tmp_path, number, auc=0.6)
    (tmp_path / "0-job" / file).write_text(content)
    damaged, whole = outcomes(tmp_path)
    assert damaged.record.state == "damaged" and f"0-job/{file}: damaged" in str(damaged.error)
    assert damaged.overrides == whole.overrides == {"model": "fm"} and whole.value == 0.6
    assert [Job(number, tmp_path / f"{number}-job", None, []).ended for number in range(2)] == [False, True]
    assert f"damaged: {damaged.path}: {damaged.error}" in closing_lines(tmp_path, [damaged, whole])


def test_damaged_overrides_hide_nothing_else(tmp_path, caplog):
    job(tmp_path, 0, auc=0.6)
    (tmp_path / "0-job" / "overrides.yaml").write_text("a: [")
    assert read_outcome(tmp_path / "0-job").value == 0.6 and "overrides.yaml: damaged" in caplog.text
