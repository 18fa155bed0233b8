"""The closing table, sweep.csv and best.json of directories written by hand."""

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from boards import job

from recexp.report import sweep as summary
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.table import to_table
from recexp.run.read import read_json
from recexp.run.record import read_all
from recexp.sweep.outcome import outcomes


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """write(number, "seed=1", auc=0.7): a job's directory below tmp_path."""
    return partial(job, tmp_path)


def lines(folder: Path) -> list[str]:
    return [" ".join(line.split()) for line in summary.closing_lines(folder, outcomes(folder))]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(summary.table_csv(outcomes(folder)))))


def test_settings_are_means_and_deviations_over_seeds_the_best_on_valid_first(write, tmp_path):
    for number, (size, seed, auc) in enumerate([(4, 0, 0.6), (4, 1, 0.8), (8, 0, 0.75), (8, 1, 0.75)]):
        write(number, f"seed={seed}", f"model.embedding_dim={size}", seed=seed, auc=auc, test=1 - auc)
    header, eight, four, best, its_run, command = lines(tmp_path)[1:7]
    assert header == "setting n valid auc test auc test gauc test logloss parameters seconds"
    assert eight == "model.embedding_dim=8 2 0.7500 0.2500 - 0.5000 1,200 2.5"
    assert four == "model.embedding_dim=4 2 0.7000 ± 0.1414 0.3000 ± 0.1414 - 0.5000 1,200 2.5"
    assert best == "best: model.embedding_dim=8, 2 seeds, valid auc 0.7500 | test auc 0.2500 gauc - logloss 0.5000"
    assert its_run == "its best run: 2-job"
    assert command == "recexp model=fm seed=0 model.embedding_dim=8 --config-dir 'my conf'"


def test_the_best_is_a_setting_by_its_mean_and_not_the_best_seed(write, tmp_path):
    for number, (size, seed, auc) in enumerate([(4, 0, 0.6), (4, 1, 0.8), (8, 0, 0.74), (8, 1, 0.76)]):
        write(number, f"seed={seed}", f"model.embedding_dim={size}", seed=seed, auc=auc)
    summary.write(tmp_path, outcomes(tmp_path))
    best = read_json(tmp_path / "best.json")
    assert (best["setting"], best["seeds"], best["value"]) == ("model.embedding_dim=8", 2, pytest.approx(0.75))
    assert best["deviation"] == pytest.approx(0.01 * 2**0.5)
    assert best["runs"] == ["2-job", "3-job"] and best["directory"] == "3-job"


def test_a_setting_of_fewer_seeds_is_not_the_best_and_it_is_said(write, tmp_path):
    for number, (size, seed, auc) in enumerate([(4, 0, 0.9), (8, 0, 0.7), (8, 1, 0.7), (6, 0, 0.6), (6, 1, 0.6)]):
        write(number, f"seed={seed}", f"model.embedding_dim={size}", seed=seed, auc=auc)
    write(5, "seed=1", "model.embedding_dim=4", seed=1, state="failed")
    closing = lines(tmp_path)
    assert [line.split()[0] for line in closing[2:5]] == [f"model.embedding_dim={size}" for size in (8, 6, 4)]
    assert closing[5] == "Fewer seeds than the others, so ranked after them: model.embedding_dim=4 (1)."
    assert closing[6].startswith("best: model.embedding_dim=8, 2 seeds")


def test_settings_that_lost_a_seed_are_not_preferred_to_one_that_did_not_even_if_most_have(write, tmp_path):
    for number, (size, seed, auc) in enumerate([(4, 0, 0.9), (6, 0, 0.8), (8, 0, 0.7), (8, 1, 0.7)]):
        write(number, f"seed={seed}", f"model.embedding_dim={size}", seed=seed, auc=auc)
    for number, size in ((4, 4), (5, 6)):
        write(number, "seed=1", f"model.embedding_dim={size}", seed=1, state="failed")
    closing = lines(tmp_path)
    assert closing[5].endswith("ranked after them: model.embedding_dim=4 (1), model.embedding_dim=6 (1).")
    assert closing[6].startswith("best: model.embedding_dim=8, 2 seeds")


def test_if_every_setting_lost_a_seed_none_has_fewer_than_the_others(write, tmp_path):
    for number, size in ((0, 4), (1, 8)):
        write(number, "seed=0", f"model.embedding_dim={size}", seed=0, auc=size / 10)
        write(number + 2, "seed=1", f"model.embedding_dim={size}", seed=1, state="failed")
    assert lines(tmp_path)[4].startswith("best: model.embedding_dim=8, one seed")


def test_why_there_is_no_best_is_said_where_the_objective_is_undefined(write, tmp_path):
    for number in range(2):
        write(number, f"seed={number}", seed=number, auc=None)
    why = "no best: valid auc cannot be computed in any of them; name another metric by objective=METRIC."
    assert why in lines(tmp_path)
    summary.write(tmp_path, outcomes(tmp_path))
    assert not (tmp_path / "best.json").exists()


def test_a_seed_that_is_typed_twice_counts_once(write, tmp_path):
    for number in range(3):
        write(number, "seed=0", auc=0.6)
    closing = lines(tmp_path)
    assert closing[2].startswith("- 1 0.6000 0.6000 -")
    assert closing[3] == "Runs that repeat a seed of their row: 2; a seed counts once, by its mean."
    assert closing[4].startswith("best: model=fm, one seed, valid auc 0.6000 |")


def test_jobs_that_predict_other_rows_share_no_best(write, tmp_path):
    write(0, "dataset.split=time", auc=0.6, events="a")
    write(1, "dataset.split=random", auc=0.9, events="b")
    write(2, "dataset.split=time", "model.embedding_dim=8", auc=0.7, events="a")
    (tmp_path / "best.json").write_text("{}")
    closing = lines(tmp_path)
    assert [line.split(" 1 ")[0] for line in closing[2:5]] == [
        "dataset.split=time model.embedding_dim=8", "dataset.split=time", "dataset.split=random",
    ]  # fmt: skip
    assert closing[5].startswith("no best: the runs predict different things (dataset.split is time or random)")
    summary.write(tmp_path, outcomes(tmp_path))
    assert not (tmp_path / "best.json").exists()


def test_jobs_of_other_objectives_share_no_best(write, tmp_path):
    write(0, "trainer.monitor=auc", auc=0.6)
    write(1, "trainer.monitor=logloss", auc=0.9, logloss=0.5)
    assert "no best: the jobs choose by auc or logloss; name one by objective=METRIC." in lines(tmp_path)


def test_the_closing_table_says_what_report_says(write, tmp_path):
    for number, (rate, seed, auc) in enumerate([(0.1, 0, 0.61), (0.01, 0, 0.7), (0.1, 1, 0.8), (0.01, 1, 0.75)]):
        write(number, f"seed={seed}", f"trainer.learning_rate={rate}", seed=seed, auc=auc)
    write(4, "seed=2", "trainer.learning_rate=0.1", seed=2, state="missing")  # has met no data yet
    shown = to_table(leaderboard(read_all([tmp_path]), Choice(columns=["test.auc", "test.logloss", "seconds"])))
    expected = {
        f"trainer.learning_rate={rate} {n} {valid} {auc} - {logloss} 1,200 {seconds}"
        for rate, n, valid, auc, *_, logloss, seconds in shown.cells
    }
    assert len(expected) == 2 and set(lines(tmp_path)[2:4]) == expected


def test_a_sweep_over_seeds_alone_is_one_row(write, tmp_path):
    for seed in range(3):
        write(seed, f"seed={seed}", seed=seed, auc=0.5 + seed / 10)
    assert lines(tmp_path)[2].startswith("- 3 0.6000 ± 0.1000")
    assert [row["seed"] for row in rows(tmp_path)] == ["0", "1", "2"]


def test_jobs_that_have_not_ended_are_counted_and_failures_closing(write, tmp_path):
    write(0, "seed=0", auc=0.6)
    write(1, "seed=1", state="failed")
    write(2, "seed=2", state="missing")
    write(10, "seed=3", state="pruned", auc=0.9)
    closing = lines(tmp_path)
    assert closing[2].startswith("- 1 0.6000 0.6000 - 0.5000")
    assert closing[3:6] == [
        "best: model=fm, one seed, valid auc 0.6000 | test auc 0.6000 gauc - logloss 0.5000",
        "its best run: 0-job",
        "recexp model=fm seed=0 --config-dir 'my conf'",
    ]  # fmt: skip
    assert closing[6] == f"failed: {tmp_path}/1-job: loss is nan"
    assert closing[7] == f"of 4 jobs 1 failed, 1 missing; run these with: recexp resume {tmp_path}"
    assert [(row["job"], row["status"], row["error"]) for row in rows(tmp_path)] == [
        ("0", "finished", ""), ("1", "failed", "loss is nan"), ("2", "missing", ""), ("10", "pruned", ""),
    ]  # fmt: skip


def test_the_run_to_use_is_the_first_of_the_setting_with_the_best_objective_on_valid(write, tmp_path):
    write(0, auc=0.9, monitor="logloss", logloss=0.6, seed=0)
    write(1, auc=0.8, monitor="logloss", logloss=0.4, seed=1)
    write(2, auc=0.7, monitor="logloss", logloss=0.4, seed=2)
    write(3, auc=None, monitor="logloss", state="pruned", logloss=0.1, seed=3)
    (tmp_path / "1-job/checkpoints").mkdir()
    (tmp_path / "1-job/checkpoints/best.json").write_text('{"tensors": "best-s0-e1.safetensors"}')
    summary.write(tmp_path, outcomes(tmp_path))
    best = read_json(tmp_path / "best.json")
    assert (best["objective"], best["value"], best["directory"]) == (
        "valid.logloss", pytest.approx(1.4 / 3), "1-job",
    )  # fmt: skip
    assert best["checkpoint"] == "1-job/checkpoints/best-s0-e1.safetensors"
    assert best["overrides"] == ["model=fm"] and best["metrics"]["valid"]["auc"] == 0.8


def test_of_many_settings_the_best_on_valid_are_shown(write, tmp_path):
    for number in range(30):
        state = "failed" if number == 7 else "finished"
        write(number, f"trainer.epochs={number}", state=state, auc=0.5 + number * 7 % 30 / 100)
    closing = lines(tmp_path)
    best = sorted(range(30), key=lambda number: number * 7 % 30, reverse=True)[:10]
    assert [line.split()[0] for line in closing[2:12]] == [f"trainer.epochs={number}" for number in best]
    assert closing[12] == "the 10 best on valid; 20 more are in sweep.csv"


def test_where_nothing_is_finished_nothing_is_best(write, tmp_path):
    write(0, state="failed")
    write(1, auc=None)
    summary.write(tmp_path, outcomes(tmp_path))
    assert (tmp_path / "sweep.csv").exists() and not (tmp_path / "best.json").exists()


def test_columns_are_the_keys_that_differ_even_where_a_job_lacks_them(write, tmp_path):
    write(0, "+experiment=a", "trainer.epochs=3", auc=0.6)
    write(1, "+experiment=b", "trainer.epochs=3", "model.dropout=0.1", auc=0.6)
    assert [(row["experiment"], row["model.dropout"]) for row in rows(tmp_path)] == [("a", ""), ("b", "0.1")]
    assert "trainer.epochs" not in rows(tmp_path)[0] and "model" not in rows(tmp_path)[0]
