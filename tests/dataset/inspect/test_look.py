"""Whole inspections: what is found, and that what is written down trains."""

import gzip
import json
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import recexp
from recexp.dataset.inspect.look import inspect
from recexp.dataset.inspect.template import dataset_yaml
from recexp.dataset.inspect.text import report
from recexp.dataset.log import Log
from recexp.dataset.prepare import load
from recexp.error import DataError

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared/data/ml-100k"


def log(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "userId": rng.integers(20, size=n),
        "movieId": rng.integers(30, size=n),
        "rating": rng.integers(1, 6, size=n),
        "timestamp": 1_500_000_000 + rng.integers(10**7, size=n),
    })  # fmt: skip


def movies() -> pd.DataFrame:
    return pd.DataFrame({
        "movieId": range(30),
        "title": [f"Film {n} ({1980 + n})" for n in range(30)],
        "genres": [("Drama|Crime", "Comedy", "Drama|Comedy")[n % 3] for n in range(30)],
    })  # fmt: skip


def trained_on(folder: Path, *typed: str):
    """The dataset that the YAML of an inspection prepares."""
    seen = inspect(list(typed))
    assert report(seen)
    (folder / "conf/dataset").mkdir(parents=True, exist_ok=True)
    (folder / "conf/dataset/mine.yaml").write_text(dataset_yaml("mine", seen), "utf-8")
    config = recexp.load_config(["model=popularity", "dataset=mine", "dataset.cache_dir=null"], str(folder / "conf"))
    return seen, load(config.dataset), config.dataset


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_column_without_a_name_is_left_out(folder: Path) -> None:
    log().assign(**{"": 1.5 * np.arange(300), "a\x1b[1m": np.arange(300) % 4}).to_csv("log.csv", index=False)
    seen, dataset, config = trained_on(folder, "log.csv")
    assert dataset.facts["rows"]["train"] and not any(config.features.sides.values())
    assert sum(column.why == "its name is empty or no text" for column in seen.columns) == 2


def test_users_of_one_event_each_train_by_one_moment_for_all(folder: Path) -> None:
    log().assign(userId=np.arange(1000, 1600, 2)).to_csv("log.csv", index=False)
    assert trained_on(folder, "log.csv")[0].options["split"] == {"kind": "time"}


def test_ratings_and_movies_in_an_archive_train(folder: Path) -> None:
    with zipfile.ZipFile("ml.zip", "w") as archive:
        archive.writestr("ml/ratings.csv", log().to_csv(index=False))
        archive.writestr("ml/movies.csv", movies().to_csv(index=False))
    seen, dataset, config = trained_on(folder, "ml.zip/ratings.csv", "ml.zip/movies.csv")
    assert {name: kind.name for name, kind in config.features.item.items()} == {"genres": "multi"}
    assert config.label_threshold in (3.0, 4.0) and dataset.facts["users"] == 20
    assert [field.name for field in dataset.schema.item.fields] == ["item", "genres"]
    assert seen.facts is not None and seen.rows == 300


FORMS = {
    "log.csv": lambda frame: frame.to_csv(index=False).encode(),
    "log.dat": lambda frame: "".join("::".join(map(str, row)) + "\n" for row in frame.to_numpy().tolist()).encode(),
    "log.tsv": lambda frame: frame.to_csv(index=False, sep="\t").encode("utf-16"),
    "log.jsonl.gz": lambda frame: gzip.compress(frame.to_json(orient="records", lines=True).encode()),
    "log.parquet": lambda frame: frame.to_parquet(),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_guessed_trains_whatever_the_form(name: str, folder: Path) -> None:
    Path(name).write_bytes(FORMS[name](log()))
    seen, dataset, _ = trained_on(folder, name)
    assert (dataset.facts["users"], dataset.facts["items"], len(dataset.log)) == (20, 30, 300)
    assert seen.label is not None and seen.n_head == 300
    assert {column.role for column in seen.columns} == {"user", "item", "label", "timestamp"}


def test_one_user_a_line_trains(folder: Path) -> None:
    Path("log.txt").write_text(
        "".join(f"u{n} {' '.join(f'i{(n + k) % 9}' for k in range(4 + n % 3))}\n" for n in range(9))
    )
    seen, dataset, config = trained_on(folder, "log.txt")
    assert config.reader == "sequence" and dataset.facts["users"] == 9
    assert seen.facts is not None and "time" not in seen.facts.unseen


@pytest.mark.parametrize("separator", ["|", ";", ", ", ",", " ", None])
def test_several_values_of_a_cell_are_told_apart_however_they_are_written(separator: str | None, folder: Path) -> None:
    pairs = list(map(list, combinations("vwxyz", 2)))
    cells = [str(pair) if separator is None else separator.join(pair) for pair in pairs] * 30
    log().assign(tags=cells).to_csv("log.csv", index=False)
    seen, dataset, _ = trained_on(folder, "log.csv")
    assert dataset.encoder.context.fields["tags"].vocabulary.tolist() == [*"vwxyz"]
    (why,) = [column.why for column in seen.columns if column.name == "tags"]
    assert why.endswith("written as lists" if separator is None else f"between them {separator!r}")


def test_a_column_whose_lists_hold_the_separator_is_left_out_aloud(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log().assign(tags=[["a|b", "c"]] * 300, place="home").to_json("log.jsonl", orient="records", lines=True)
    _, dataset, config = trained_on(folder, "log.jsonl")
    assert "log.jsonl: no use of the columns tags, which" in caplog.text and "multi_separator" not in caplog.text
    assert "tags" not in config.features.context and len(dataset.log) == 300


def test_dates_words_and_parts_train(folder: Path) -> None:
    frame = log()
    frame["rating"] = np.where(frame["rating"] > 2, "yes", "no")
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="s").dt.strftime("%d/%m/%Y %H:%M")
    for n in range(3):
        frame[n::3].to_csv(f"part-{n}.csv", index=False, sep=";")
    _, dataset, config = trained_on(folder, "part-0.csv", "part-1.csv", "part-2.csv")
    assert config.time_format == "%d/%m/%Y %H:%M" and config.path.endswith("part-*.csv")
    assert len(dataset.log) == 300


def test_a_log_without_time_trains_as_a_table(folder: Path) -> None:
    log().drop(columns="timestamp").to_csv("log.csv", index=False)
    seen, dataset, config = trained_on(folder, "log.csv")
    assert list(config.features.context) == ["userId", "movieId"] and config.columns.user is None
    assert dataset.schema.max_history == 0 and seen.facts is not None


@pytest.mark.parametrize("dropped", ["userId", None])
def test_features_of_items_join_a_log_without_time_and_a_table_without_users(dropped: str | None, folder: Path) -> None:
    log().drop(columns=["timestamp", *([dropped] if dropped else [])]).to_csv("log.csv", index=False)
    movies().to_csv("movies.csv", index=False)
    seen, dataset, config = trained_on(folder, "log.csv", "movies.csv")
    assert config.item_path.endswith("movies.csv") and list(config.features.item) == ["genres"]
    assert config.split.kind.name == "random" and config.columns.user == (None if dropped else "userId")
    assert isinstance(dataset.log, Log) is (dropped is None)
    assert "genres" in [field.name for side in (dataset.schema.item, dataset.schema.context) for field in side.fields]
    assert dropped or "so the order of the rows is taken" in "\n".join(report(seen))


def test_lists_of_a_spark_folder_are_multi_valued(folder: Path) -> None:
    Path("log").mkdir()
    for n in range(2):
        tags = [["a", "b"], ["c"]] * 75
        log()[n::2].assign(tags=tags).to_parquet(f"log/part-{n}.snappy.parquet")
    Path("log/_SUCCESS").touch()
    _, dataset, config = trained_on(folder, "log")
    assert config.reader == "parquet" and len(dataset.log) == 300
    assert [(field.name, field.width) for field in dataset.schema.context.fields] == [("tags", 2)]


def test_vectors_in_parquet_files_of_items_are_found(folder: Path) -> None:
    log().to_parquet("log.parquet")
    items = movies()[["movieId"]]
    items["image"] = [None, *([n / 4, 0.5, 1.0] for n in range(1, len(items)))]
    items.to_parquet("items.parquet")
    _, dataset, config = trained_on(folder, "log.parquet", "items.parquet")
    assert config.item_path.endswith("items.parquet") and config.features.item["image"].name == "vector"
    assert dataset.log.items.values.shape == (31, 3) and not dataset.log.items.values[1].any()


def test_positives_alone_are_implicit(folder: Path) -> None:
    log().assign(rating=1).to_csv("log.csv", index=False)
    _, _, config = trained_on(folder, "log.csv")
    assert config.label.name == "implicit"


def test_a_column_that_tells_the_label_is_named(folder: Path) -> None:
    frame = log(600)
    frame["rating"] = 1 + 4 * (frame["rating"] > 2)
    frame["watched"] = np.where(frame["rating"] > 1, "whole", "part")
    frame.to_csv("log.csv", index=False)
    assert any("watched alone predicts the label" in warning for warning in inspect(["log.csv"]).warnings)


def test_a_quote_that_is_text_far_below_is_told_and_taken_as_text(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = log().assign(title="film").to_csv(index=False).splitlines()
    lines[250] = lines[250].replace("film", '"film')
    Path("log.csv").write_text("\n".join(lines))
    _, dataset, config = trained_on(folder, "log.csv")
    assert len(dataset.log) == 300 and config.quoting is False
    assert "Here quotes are taken as text" in caplog.text


def test_nested_columns_are_left_out_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row | {"style": {"size": "L"}} for row in log().to_dict("records")]
    Path("log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [column.name for column in inspect(["log.jsonl"]).columns] == list(log())
    assert "style" in caplog.text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["nope.csv"], "FILE = nope.csv: no such file"),
        (["log.csv", "other.csv"], "other.csv: is no part of the log, and no file of its users or items"),
        (["log.csv", "users.tsv"], "users.tsv: is CSV, separator"),
        (["array.json"], "array.json: is one JSON array; write one object a line."),
        (["header.csv"], "header.csv: holds a header and no rows."),
    ],
)
def test_a_wrong_file_is_one_line(typed: list[str], expected: str, folder: Path) -> None:
    log().to_csv("log.csv", index=False)
    Path("array.json").write_text('[{"user": 1}]')
    Path("header.csv").write_text("user,item,rating,timestamp\n")
    Path("other.csv").write_text("a,b\n1,2\n3,4\n")
    Path("users.tsv").write_text("userId\tage\n1\t30\n2\t40\n")
    with pytest.raises(DataError) as caught:
        inspect(typed)
    assert expected in str(caught.value)


def test_the_yaml_gives_reasons(folder: Path) -> None:
    log().to_csv("log.csv", index=False)
    text = dataset_yaml("mine", inspect(["log.csv"]))
    assert "  user: userId " in text and "# 20 values; by its name" in text and "of the labels are 1 then" in text
    assert list(yaml.safe_load(text))[:3] == ["defaults", "name", "path"]


@pytest.mark.skipif(not REAL.exists(), reason="MovieLens 100K is not beside the repository")
def test_movielens_in_full() -> None:
    seen = inspect([str(REAL / f"ml-100k.{name}") for name in ("inter", "user", "item")])
    told = "\n".join(report(seen))
    assert (
        "users    943; density 6.30%; most events: 405 (737)" in told
        and "75,772 events (75.8%) share user and time" in told
    )
    assert "carries something: 10.6%" in told and "label_threshold=4 makes 55.4%" in told
    assert seen.options["split"] == {"kind": "user_time"} and set(seen.sides) == {"user", "item"}
