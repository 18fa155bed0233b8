"""Rankings of two runs compared: the users' metrics and their bootstrap, against loops over recommendations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp import registry
from recexp.cli import run
from recexp.metric.ranking import of_users
from recexp.report import ranking
from recexp.report.bootstrap import weights
from recexp.run.record import read

SMALL = ("dataset.n_users=40", "dataset.n_items=25", "dataset.n_events=900", "dataset.label=implicit",
         "dataset.max_history=4", "dataset.cache_dir=null", "device=cpu", "trainer.threads=1", "trainer.epochs=1",
         "trainer.ranking.cutoffs=[2,5]", "trainer.ranking.exclude_seen=false")  # fmt: skip
NEXT = ("trainer=next_item",)
RUNS = {
    "als": ("model=als", "model.feedback=implicit", *NEXT, "trainer.monitor=hr@5/all"),
    "bpr": ("model=bpr_mf", "trainer.loss=bpr", *NEXT, "trainer.monitor=hr@5/all"),
    "fm": ("model=fm", "trainer.ranking.candidates=all"),
    "popularity": ("model=popularity", *NEXT, "trainer.monitor=hr@2/all", "dataset.n_items=200",
                   "trainer.ranking.cutoffs=[2,40,60]"),
    "sampled": ("model=popularity", *NEXT, "trainer.ranking.candidates=9", "trainer.monitor=hr@5/sampled9"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """made("fm", "first"): the run of that name, whose users are asked about all or the first of their test events."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name: str, relevant: str = "all") -> Path:
        if not (path := folder / f"{name}-{relevant}").exists():
            asked = f"trainer.ranking.relevant={relevant}"
            recexp.train(recexp.load_config([*SMALL, *RUNS[name], asked, f"run.dir={path}"]))
        return path

    return made


def wanted(path: Path, relevant: str) -> dict[int, set[int]]:
    """The items that each test user had, from the raw log split anew."""
    config = recexp.load_run(path).config
    raw = registry.get("reader", "synthetic")(config.dataset).read()
    rows = pd.DataFrame({"user": raw.user, "item": raw.item, "timestamp": raw.timestamp})
    log = recexp.load_run(path).dataset.log
    test = set(log.row[log.rows("test")].tolist())
    rows = rows[rows.index.isin(test)]
    if relevant == "first":
        rows = rows[rows.timestamp == rows.groupby("user").timestamp.transform("min")]
    return {user: set(items) for user, items in rows.groupby("user").item}


def hits_and_ndcg(path: Path, asked: dict[int, set[int]], k: int) -> np.ndarray:
    """hr and ndcg (U, 2) of each user, by loops; scores are taken to differ."""
    best = pd.read_parquet(path / "recommendations.parquet").query(f"rank <= {k}")
    rows = []
    for user, items in asked.items():
        own = best[best.user == user]
        others = [sum((own["rank"] < rank) & ~own.item.isin(items)) for rank in own["rank"][own.item.isin(items)]]
        ranks = [number + place for number, place in enumerate(others, 1)]
        ideal = sum(1 / np.log2(1 + rank) for rank in range(1, min(k, len(items)) + 1))
        rows.append([float(bool(ranks)), sum(1 / np.log2(1 + rank) for rank in ranks) / ideal])
    return np.array(rows)


@pytest.mark.parametrize("relevant", ["all", "first"])
def test_runs_that_rank_are_compared_by_their_users_however_they_were_trained(
    relevant: str, made: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    a, b = made("bpr", relevant), made("fm", relevant)
    asked = wanted(a, relevant)
    first, second = (hits_and_ndcg(path, asked, 5) for path in (a, b))
    assert run(["compare", str(a), str(b), "--draws", "200"]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith("test.")}
    for column, name in enumerate(("test.hr@5/all", "test.ndcg@5/all")):
        values = [x[:, column] for x in (first, second)]
        drawn = np.array([(w * (values[1] - values[0])).sum() / len(w) for w in weights(len(asked), 200, 0)])
        low, high = np.quantile(drawn, [0.025, 0.975])
        p = min(1, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / 201)
        means = [value.mean() for value in values]
        expected = [f"{means[0]:.4f}", f"{means[1]:.4f}", f"{means[1] - means[0]:+.4f}", f"[{low:.4f},", f"{high:.4f}]"]
        assert lines[name] == [*expected, f"{p:.3f}"]
    assert len(lines["test.auc"]) == 3 and len(lines["test.coverage@5/all"]) == 3  # no interval
    assert f"p of rankings: paired bootstrap, 200 draws of the {len(asked)} ranked users." in told


def test_metrics_of_labels_and_of_rankings_are_both_tested(
    made: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    assert run(["compare", str(made("fm")), str(made("fm")), "--draws", "100"]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith("test.")}
    assert [lines[name][-1] for name in ("test.auc", "test.ndcg@2/all")] == ["1.000", "1.000"]
    assert "100 draws of the 40 users, each with all its rows" in told and "of the 40 ranked users" in told


def test_users_whose_items_are_tied_have_the_ranks_of_the_metrics(made: Callable[..., Path]) -> None:
    record = read(made("popularity"))
    log = recexp.load_run(record.path).dataset.log
    best = record.recommendations()
    assert best is not None and best.duplicated(["user", "score"]).any()  # many items are as popular as others
    of, item = ranking.relevant(log, first=False)
    found = ranking.ranks(log, of, item, best.sample(frac=1, random_state=0))
    assert of_users("ndcg", found, 40).mean() == pytest.approx(record.metrics["test.ndcg@40/all"], abs=1e-12)


def test_ranks_are_those_of_a_loop_where_scores_are_equal(made: Callable[..., Path]) -> None:
    random = np.random.default_rng(0)
    log = recexp.load_run(made("als")).dataset.log
    of, item = ranking.relevant(log, first=False)
    rows = []
    for user in range(1, len(log.users.raw)):
        items = random.permutation(np.arange(1, len(log.items.raw)))[:12]
        scores = np.sort(random.integers(4, size=12))[::-1]
        columns = {"user": log.users.raw[user], "item": log.items.raw[items], "rank": range(1, 13), "score": scores}
        rows.append(pd.DataFrame(columns))
    best = pd.concat(rows, ignore_index=True)
    found = ranking.ranks(log, of, item, best)
    asked = np.unique(of)
    for number, user in enumerate(asked):
        own = best[best.user == log.users.raw[user]]
        hit = own.item.isin(log.items.raw[item[of == user]])
        others = sorted(int((~hit & (own.score >= score)).sum()) for score in own.score[hit])
        assert found.rank[found.user == number].tolist() == [place + above for place, above in enumerate(others, 1)]
        assert found.n_relevant[number] == (of == user).sum()


def test_why_there_is_no_p_is_told(made: Callable[..., Path], capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    sampled = made("sampled")
    assert run(["compare", str(sampled), str(sampled)]) == 0
    assert f"no p of rankings: {sampled} has no recommendations.parquet to read, as it ranks a sample of items" in (
        capsys.readouterr().out
    )
    best = pd.read_parquet(made("als") / "recommendations.parquet")
    record = read(made("als"))
    log = recexp.load_run(record.path).dataset.log
    of, item = ranking.relevant(log, first=False)
    names = ["ndcg@2/all", "ndcg@5/all"]
    short = ranking.ranks(log, of, item, best[best["rank"] <= 2])
    assert list(ranking.values(short, names, record)) == ["ndcg@2/all"]
