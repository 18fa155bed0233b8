"""Presets over the readers, each on rows made up in the original format."""

import gzip
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import recexp
from recexp.dataset.log import Log
from recexp.dataset.prepare import load

N = 40
TIMES = [1_260_759_144 + 1000 * n for n in range(N)]


def rows(separator: str, *columns: Callable[[int], object], header: str = "") -> bytes:
    lines = [separator.join(str(column(n)) for column in columns) for n in range(N)]
    return ("\n".join([header, *lines] if header else lines) + "\n").encode("latin-1")


def user(n: int) -> str:
    return f"A{n % 4}SUAM1J3GNN3B"


def number(n: int) -> int:
    return n % 4 + 1


def item(n: int) -> str:
    return f"{1000 + n * 3 % 7}"


def stars(n: int) -> float:
    return n % 5 + 1.0


def time(n: int) -> int:
    return TIMES[n]


def reviews() -> bytes:
    lines = [
        {"overall": stars(n), "verified": True, "reviewTime": "05 3, 2011", "reviewerID": user(n), "asin": item(n),
         "style": {"Format:": " MP3"}, "reviewText": "Good, \"really\"\n", "unixReviewTime": time(n)}
        for n in range(N)
    ]  # fmt: skip
    return gzip.compress("\n".join(map(json.dumps, lines)).encode())


def yelp() -> bytes:
    lines = [
        {"review_id": f"r{n}", "user_id": user(n), "business_id": item(n), "stars": stars(n), "useful": 0, "funny": 0,
         "cool": 0, "text": "Good, \"really\"\n", "date": str(datetime.fromtimestamp(time(n), UTC))[:19]}
        for n in range(N)
    ]  # fmt: skip
    return "\n".join(map(json.dumps, lines)).encode()


def steam() -> bytes:
    lines = [
        f"{{u'username': u'{user(n)}', u'hours': 5.0, u'products': 4, u'product_id': u'{item(n)}', u'page_order': 0, "
        f"u'date': u'{datetime.fromtimestamp(day(n), UTC):%Y-%m-%d}', u'text': u\"it's good\", u'found_funny': None}}"
        for n in range(N)
    ]
    return gzip.compress("\n".join(lines).encode())


def day(n: int) -> int:
    return (TIMES[0] // 86400 + n) * 86400


KUAIREC = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
ATOMIC = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
CRITEO = [lambda n: n % 2, *([lambda n: "" if n % 3 else n - 1] * 13), *([lambda n: f"{n % 5:08x}"] * 26)]
AVAZU = [lambda n: 10**18 + n, lambda n: n % 2, lambda n: 14102100 + n % 24, *([lambda n: f"{n % 5:08x}"] * 21)]
NAMES = (
    "C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,device_model,"
    "device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
SAMPLES = {  # preset: file, content, share of label 1
    "ml-latest": ("ratings.csv", rows(",", number, item, stars, time, header="userId,movieId,rating,timestamp"), 0.4),
    "ml-1m": ("ratings.dat", rows("::", number, item, lambda n: int(stars(n)), time), 0.4),
    "amazon": ("Digital_Music.csv", rows(",", item, user, stars, time), 0.4),
    "amazon-reviews": ("Digital_Music_5.json.gz", reviews(), 0.4),
    "taobao": ("UserBehavior.csv", rows(",", number, item, lambda n: n * 3 % 7, lambda n: "pv", time), 1.0),
    "kuairec": (
        "big_matrix.csv",
        rows(
            ",",
            number,
            item,
            lambda n: 9000,
            lambda n: 5000,
            lambda n: "2020-07-05 00:08:23.438",
            lambda n: 20200705,
            lambda n: float(time(n)),
            lambda n: stars(n) / 2,
            header=KUAIREC,
        ),
        0.4,
    ),
    "yelp": ("yelp_academic_dataset_review.json", yelp(), 0.4),
    "steam": ("steam_reviews.json.gz", steam(), 1.0),
    "recbole": ("ml-100k.inter", rows("\t", number, item, stars, time, header=ATOMIC), 0.4),
    "criteo": ("train.txt", rows("\t", *CRITEO), 0.5),
    "avazu": ("train.csv", rows(",", *AVAZU, header=f"id,click,hour,{NAMES}"), 0.5),
}


def prepared(*overrides: str):
    return load(recexp.load_config(["model=popularity", "dataset.cache_dir=null", *overrides]).dataset)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_preset_reads_the_original_format(name: str, tmp_path: Path) -> None:
    file, content, share = SAMPLES[name]
    (tmp_path / file).write_bytes(content)
    dataset = prepared(f"dataset={name}", f"dataset.path={tmp_path / file}")
    log = dataset.log
    assert len(log) == N and log.label.mean() == share
    if isinstance(log, Log):
        assert (dataset.facts["users"], dataset.facts["items"]) == (4, 7)
        assert sorted(log.timestamp) == ([day(n) for n in range(N)] if name == "steam" else TIMES)
    else:
        assert len(dataset.schema.context.fields) == (39 if name == "criteo" else 22)


def test_genres_of_a_movielens_archive_are_item_features(tmp_path: Path) -> None:
    path = tmp_path / "ml-latest-small.zip"
    movies = "".join(f'{1000 + n},"Film, The ({1990 + n})",Drama|Crime\n' for n in range(7))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", SAMPLES["ml-latest"][1])
        archive.writestr("ml-latest-small/movies.csv", "movieId,title,genres\n" + movies)
    typed = [f"dataset.path={path}/ratings.csv", f"dataset.item_path={path}/movies.csv"]
    dataset = prepared("dataset=ml-latest", *typed, "+dataset.features.item.genres=multi")
    assert [(field.name, field.width) for field in dataset.schema.item.fields] == [("item", 1), ("genres", 2)]


def test_a_folder_of_fuxictrs_files_is_read_whole(tmp_path: Path) -> None:
    for split, n_rows in (("train", 30), ("valid", 5), ("test", 5)):
        lines = [f"{n % 2},{n % 4},{n % 7},{n / 2}" for n in range(n_rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["label,user,item,price", *lines]) + "\n")
    dataset = prepared("dataset=fuxictr", f"dataset.path={tmp_path}")
    assert dataset.facts["rows"] == {"train": 30, "valid": 5, "test": 5}
    assert [field.name for field in dataset.schema.context.fields] == ["user", "item", "price"]
    binned = prepared("dataset=fuxictr", f"dataset.path={tmp_path}", "+dataset.features.context.price=binned")
    kinds = {field.name: field.kind.name for field in binned.schema.context.fields}
    assert kinds == {"user": "categorical", "item": "categorical", "price": "binned"}


def test_tags_of_kuairec_and_categories_of_yelp_are_item_features(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(SAMPLES["kuairec"][1])
    (tmp_path / "c.csv").write_text("video_id,feat\n" + "".join(f'{1000 + n},"[{n}, 9]"\n' for n in range(7)))
    (tmp_path / "r.json").write_bytes(SAMPLES["yelp"][1])
    business = [{"business_id": str(1000 + n), "name": "x", "categories": "Food, Bars & Co"} for n in range(7)]
    (tmp_path / "b.json").write_text("\n".join(map(json.dumps, business)))
    for name, log, items, feature, size in (
        ("kuairec", "m.csv", "c.csv", "feat", 8),
        ("yelp", "r.json", "b.json", "categories", 2),
    ):
        typed = [f"dataset={name}", f"dataset.path={tmp_path / log}", f"dataset.item_path={tmp_path / items}"]
        field = prepared(*typed, f"+dataset.features.item.{feature}=multi").schema.item.fields[1]
        assert (field.width, field.size) == (2, size)
