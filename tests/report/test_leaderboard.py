"""Rows, their order and their differences."""

from dataclasses import replace

import pytest
from scipy import stats

from recexp.error import ConfigError, RunError
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.statistics import PAIRED, UNTESTED, WELCH
from recexp.report.table import to_table
from recexp.run.record import read, read_all

AUC = {"din": (0.80, 0.82, 0.81), "fm": (0.75, 0.76, 0.74), "bst": (0.79, 0.80, 0.81)}


@pytest.fixture
def runs(write_run, tmp_path):
    """runs(): the records of all runs written so far, three seeds of three models among them."""
    for model, values in AUC.items():
        for seed, auc in enumerate(values):
            write_run(f"{model}-{seed}", model=model, seed=seed, auc=auc)
    return lambda: read_all([tmp_path])


def board(records, **choice):
    return leaderboard(records, Choice(**choice))


def names(table):
    return [row.name for row in table.rows]


def test_runs_that_differ_in_the_seed_alone_are_one_row_the_best_first(runs):
    table = board(runs())
    assert table.metric == "test.auc" and table.higher_is_better and table.keys == ["model"]
    assert names(table) == ["model=din", "model=bst", "model=fm"]
    best = table.rows[0]
    assert [record.config["seed"] for record in best.records] == [0, 1, 2] and best.setting == {"model": "din"}
    assert best.metrics["test.auc"].mean == pytest.approx(0.81)
    assert best.metrics["test.auc"].deviation == pytest.approx(0.01)
    assert best.metrics["seconds"].mean == pytest.approx(2.5)
    assert table.baseline is best and best.difference is None


def test_the_best_is_compared_with_by_all_pairs(runs):
    table = board(runs())
    p = [stats.ttest_rel(AUC[model], AUC["din"]).pvalue for model in ("bst", "fm")]
    assert [row.difference.p for row in table.rows[1:]] == pytest.approx(p)
    assert p[1] < p[0]
    assert [row.difference.p_corrected for row in table.rows[1:]] == pytest.approx([min(1, 2 * p[0]), 3 * p[1]])
    assert table.rows[1].difference.pairing == PAIRED
    assert any("3 comparisons" in note for note in table.notes) and any("all pairs" in note for note in table.notes)


def test_a_row_named_beforehand_is_compared_with_by_the_other_rows(runs):
    table = board(runs(), baseline="model=fm")
    assert table.baseline.name == "model=fm" and table.rows[2].difference is None
    p = sorted((stats.ttest_rel(AUC[model], AUC["fm"]).pvalue, model) for model in ("din", "bst"))
    corrected = {row.setting["model"]: row.difference.p_corrected for row in table.rows[:2]}
    assert corrected[p[0][1]] == pytest.approx(2 * p[0][0])
    assert not any("all pairs" in note for note in table.notes)


@pytest.mark.parametrize("typed", ["fm", "model=fm"])
def test_a_baseline_may_be_named_by_a_value(runs, typed):
    assert board(runs(), baseline=typed).baseline.name == "model=fm"


def test_a_baseline_that_is_no_row_or_several_lists_them(runs, write_run):
    with pytest.raises(ConfigError, match=r"--baseline fn: is no row\..*model=bst, model=din, model=fm"):
        board(runs(), baseline="fn")
    write_run("other", model="fm", **{"model.embedding_dim": 8})
    with pytest.raises(ConfigError, match=r"--baseline fm: are words of 2 rows"):
        board(runs(), baseline="fm")
    assert board(runs(), baseline="fm model.embedding_dim=8").baseline.records[0].path.name == "other"


def test_seeds_that_one_row_lacks_are_left_out_of_its_pairs(runs, tmp_path):
    (tmp_path / "fm-1" / "metrics.json").unlink()
    row = board(runs(), baseline="din").rows[2]
    assert row.name == "model=fm" and row.difference.n == 2 and row.difference.pairing == PAIRED
    assert row.difference.mean == pytest.approx((0.75 - 0.80 + 0.74 - 0.81) / 2)


def test_other_seeds_are_compared_by_welch(runs, write_run):
    for seed, auc in ((7, 0.7), (8, 0.71)):
        write_run(f"cnn-{seed}", model="cnn", seed=seed, auc=auc)
    assert board(runs()).rows[3].difference.pairing == WELCH


def test_one_seed_has_no_interval_and_no_p_and_it_is_said(runs, write_run):
    write_run("cnn", model="cnn", auc=0.6)
    table = board(runs())
    row = table.rows[3]
    assert row.metrics["test.auc"].low is None and row.difference.pairing == UNTESTED
    assert row.difference.p is None and row.difference.p_corrected is None
    assert any(note.startswith("Rows without p: 1;") for note in table.notes)
    assert any("3 comparisons" in note for note in table.notes)  # the row adds none


def test_a_repeated_seed_counts_once(write_run, tmp_path):
    for name, seed, auc in (("a", 0, 0.8), ("b", 0, 0.9), ("c", 1, 0.7)):
        write_run(name, seed=seed, auc=auc)
    table = board(read_all([tmp_path]))
    assert table.rows[0].metrics["test.auc"].n == 2
    assert table.rows[0].metrics["test.auc"].mean == pytest.approx((0.85 + 0.7) / 2)
    assert any("repeat a seed of their row: 1;" in note for note in table.notes)


def test_one_run_is_a_row_with_its_models_name_and_nothing_to_compare(write_run, tmp_path):
    write_run("a", model="din")
    table = board(read_all([tmp_path]))
    assert names(table) == ["model=din"] and table.keys == [] and table.baseline is None and table.notes == []


def test_unfinished_runs_are_left_out_and_counted(runs, write_run):
    write_run("x", state="failed")
    write_run("y", state="failed")
    write_run("z", state="running")
    assert "Left out: 2 failed, 1 running." in board(runs()).notes


def test_no_finished_run_is_an_error_that_says_what_there_is(write_run, tmp_path):
    with pytest.raises(RunError, match=r"no finished run here .no run at all"):
        board([])
    write_run("a", state="interrupted")
    with pytest.raises(RunError, match="1 interrupted"):
        board(read_all([tmp_path]))


def test_runs_on_other_data_share_no_table_unless_told_to(runs, write_run):
    write_run("other", model="cnn", events="others", fingerprint="f", auc=0.99)
    with pytest.raises(RunError, match=r"predict different things.*--filter.*--mix"):
        board(runs())
    table = board(runs(), mix=True)
    assert any(note.startswith("Mixed by request") and "share no best" in note for note in table.notes)
    assert table.baseline is None and to_table(table).best == frozenset()
    assert names(table) == ["model=din", "model=bst", "model=fm", "model=cnn"]  # apart, though the best


def test_metrics_on_other_data_have_no_difference(runs, write_run):
    for seed in range(3):
        write_run(f"other-{seed}", model="cnn", seed=seed, events="others", fingerprint="f", auc=0.5 + seed / 100)
    table = board(runs(), mix=True, baseline="din")
    differences = {row.setting["model"]: row.difference for row in table.rows}
    assert differences["cnn"] is None and differences["fm"] is not None


def test_a_metric_that_is_better_when_lower_reverses_the_order(write_run, tmp_path):
    for model, logloss in (("din", 0.5), ("fm", 0.6), ("bst", 0.4)):
        write_run(model, model=model, figures={"logloss": logloss})
    table = board(read_all([tmp_path]), metric="logloss")
    assert names(table) == ["model=bst", "model=din", "model=fm"] and not table.higher_is_better


def test_a_row_without_the_metric_comes_last_and_has_no_difference(runs, write_run):
    write_run("cnn", model="cnn", auc=None)
    table = board(runs())
    assert table.rows[-1].name == "model=cnn" and "test.auc" not in table.rows[-1].metrics
    assert table.rows[-1].difference is None


def test_no_row_with_the_metric_has_no_baseline(write_run, tmp_path):
    write_run("a", model="din", auc=None)
    write_run("b", model="fm", auc=None)
    assert board(read_all([tmp_path])).baseline is None


def test_nan_is_no_value(write_run, tmp_path):
    write_run("a", seed=0, auc=0.5)
    write_run("b", seed=1, auc=float("nan"))
    assert board(read_all([tmp_path])).rows[0].metrics["test.auc"].n == 1


def test_a_metric_without_a_direction_ranks_nothing(write_run, tmp_path):
    write_run("a", figures={"gauc_users": 0.5})
    with pytest.raises(ConfigError, match=r"--metric test.gauc_users: is no metric of which higher"):
        board(read_all([tmp_path]), metric="gauc_users")


def test_the_metric_is_the_one_that_all_runs_monitored(write_run, tmp_path):
    write_run("a", **{"trainer.monitor": "logloss"}, figures={"logloss": 0.5})
    assert board(read_all([tmp_path])).metric == "test.logloss"
    write_run("b", figures={"logloss": 0.5})
    assert board(read_all([tmp_path])).metric == "test.auc"


def test_runs_of_several_labels_that_monitored_different_metrics_are_ranked_by_the_first_label(write_run, tmp_path):
    for name, like in (("like", 0.6), ("finish", 0.7)):
        write_run(name, auc=None, **{"trainer.monitor": f"auc/{name}"}, figures={"auc/like": like, "auc/finish": 0.5})
    records = [replace(record, metrics=without_auc(record.metrics)) for record in read_all([tmp_path])]
    assert board(records).metric == board(records, metric="auc").metric == "test.auc/like"


def test_runs_that_monitored_different_rankings_need_a_metric(write_run, tmp_path):
    for name in ("ndcg@10/all", "hr@10/all"):
        write_run(name[:2], auc=None, **{"trainer.monitor": name}, figures={"ndcg@10/all": 0.5, "hr@10/all": 0.5})
    records = [replace(record, metrics=without_auc(record.metrics)) for record in read_all([tmp_path])]
    with pytest.raises(ConfigError, match=r"--metric: the runs monitored hr@10/all, ndcg@10/all; name one"):
        board(records)
    assert board(records, metric="hr@10/all").metric == "test.hr@10/all"


def without_auc(metrics):
    """As runs have that predict several labels, or rank."""
    return {name: value for name, value in metrics.items() if name not in ("test.auc", "valid.auc")}


def test_columns_are_what_differs_unless_they_are_named(runs):
    table = board(runs())
    assert table.columns == ["valid.auc", "test.auc"]  # parameters, seconds and memory are the same
    table = board(runs(), columns=["parameters", "model.embedding_dim", "seed"])
    assert table.columns == ["valid.auc", "test.auc", "parameters"] and table.keys == ["model.embedding_dim", "seed"]
    assert table.rows[0].setting == {"model.embedding_dim": 16, "seed": [0, 1, 2]}
    assert names(table)[0] == "model=din"


def test_rows_are_sorted_by_any_key_or_metric(runs, write_run):
    write_run("cnn", model="cnn", seed=5, auc=0.1)
    assert names(board(runs(), sort="model"))[:2] == ["model=bst", "model=cnn"]
    table = board(runs(), sort="seconds")
    assert names(table)[-1] == "model=cnn" and table.baseline.name == "model=din"


def test_what_makes_the_data_mislead_is_said_below_the_table_once(runs, tmp_path):
    table = board([replace(record, warnings=("test has 99 rows.",)) for record in runs()])
    assert table.notes.count("Data: test has 99 rows.") == 1


def test_warnings_are_read_from_the_run_directory(write_run):
    path = write_run("a")
    (path / "environment.json").write_text('{"data": {"fingerprint": "x", "warnings": ["every label of valid is 1"]}}')
    assert read(path).warnings == ("every label of valid is 1",)


def test_valid_ranks_and_names_the_baseline_whatever_test_says(write_run, tmp_path):
    for model, valid, test in (("din", 0.8, 0.6), ("fm", 0.7, 0.9), ("bst", 0.75, 0.7)):
        for seed in range(2):
            write_run(f"{model}-{seed}", model=model, seed=seed, auc=test + seed / 100, valid={"auc": valid})
    records = read_all([tmp_path])
    table = board(records)
    assert names(table) == ["model=din", "model=bst", "model=fm"] and table.ranked_by == "valid.auc"
    assert table.baseline.name == "model=din" and table.metric == "test.auc"
    assert table.order == "Ranked by valid.auc, the mean over seeds."
    assert names(board(records, sort="auc")) == names(table)
    by_test = board(records, sort="test.auc")
    assert names(by_test) == ["model=fm", "model=bst", "model=din"] and by_test.baseline.name == "model=din"
    assert by_test.order.startswith("Ranked by test: test.auc")


def test_without_a_validation_metric_test_ranks_and_it_is_said(write_run, tmp_path):
    for model, auc in (("din", 0.6), ("fm", 0.9)):
        write_run(model, model=model, auc=auc, valid={"auc": None})
    table = board(read_all([tmp_path]))
    assert names(table) == ["model=fm", "model=din"] and table.order.startswith("Ranked by test")


def test_fewer_seeds_than_the_others_have_are_said_and_not_preferred(runs, write_run):
    write_run("cnn", model="cnn", auc=0.99)
    table = board(runs())
    assert names(table) == ["model=din", "model=bst", "model=fm", "model=cnn"]
    assert table.baseline.name == "model=din"
    assert "Fewer seeds than the others, so ranked after them: model=cnn (1)." in table.notes


def test_more_seeds_than_the_others_have_are_no_merit(runs, write_run):
    for seed in range(5):
        write_run(f"cnn-{seed}", model="cnn", seed=seed, auc=0.5)
    assert names(board(runs()))[-1] == "model=cnn" and not any("Fewer" in note for note in board(runs()).notes)
