"""Types and roles of columns, guessed."""

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.inspect import role

N = 60
USER, ITEM = [f"u{n % 6}" for n in range(N)], [f"i{n * 7 % 11}" for n in range(N)]
LOG = {"user_id": USER, "movieId": ITEM, "rating": [str(n % 5 + 1) for n in range(N)],
       "timestamp": [str(1_500_000_000 + n) for n in range(N)]}  # fmt: skip


def roles(columns: dict[str, list], headed: bool = True) -> dict[str, tuple[str, str]]:
    found = role.guess(pd.DataFrame(columns), headed)
    return {column.name: (column.role, column.kind) for column in found}


def test_names_tell_roles() -> None:
    assert [found for found, _ in roles(LOG).values()] == ["user", "item", "label", "timestamp"]
    renamed = dict(zip(["reviewerID", "asin", "overall", "unixReviewTime"], LOG.values(), strict=True))
    assert [found for found, _ in roles(renamed).values()] == ["user", "item", "label", "timestamp"]
    typed = {f"{name}:token": values for name, values in LOG.items()}
    assert [found for found, _ in roles(typed).values()] == ["user", "item", "label", "timestamp"]


def test_without_names_values_tell_roles() -> None:
    found = roles(dict(zip("abcd", LOG.values(), strict=True)), headed=False)
    assert [wanted for wanted, _ in found.values()] == ["user", "item", "label", "timestamp"]


def test_names_that_nobody_knows_leave_values_to_tell() -> None:
    found = roles(dict(zip(["Kunde", "Artikel", "Bewertung", "Wann"], LOG.values(), strict=True)))
    assert [wanted for wanted, _ in found.values()] == ["user", "item", "label", "timestamp"]


def test_what_only_looks_like_a_label_or_a_user_is_none() -> None:
    log = {name: values for name, values in LOG.items() if name != "rating"}
    assert roles(log | {"category_id": [str(n % 5) for n in range(N)]})["category_id"][0] == "context feature"
    table = {"click": ["0", "1"] * (N // 2)} | {f"C{n}": USER for n in range(9)}
    assert {wanted for wanted, _ in roles(table).values()} == {"label", "context feature"}


def test_other_columns_that_are_named_as_labels_and_have_two_values_are_no_features() -> None:
    log = {name: values for name, values in LOG.items() if name != "rating"}
    outcomes = {
        "click": ["0", "1"] * (N // 2),
        "isLiked": ["1"] * 8 + ["0"] * (N - 8),
        "buy": ["no"] * 9 + ["yes"] * 51,
    }
    found = roles(log | outcomes | {"stars": LOG["rating"]})
    assert [found[name][0] for name in ("click", "isLiked", "buy")] == ["unused", "context feature", "unused"]
    assert found["stars"][0] == "label"
    assert roles(log | {"buy": outcomes["buy"]})["buy"][0] == "label"


def test_values_too_many_for_a_vocabulary_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = LOG | {"ad": [f"a{n % 20}" for n in range(N)]}
    assert roles(log)["ad"] == ("context feature", "categorical")
    monkeypatch.setattr(role, "MAX_VOCABULARY", 19)
    assert roles(log)["ad"] == ("context feature", "hash")


def test_a_feature_belongs_to_whom_it_is_constant_for() -> None:
    features = {
        "city": [{"u0": "A", "u1": "B"}.get(user, "C") for user in USER],
        "price": [str(int(item[1:]) / 8 + 0.1) for item in ITEM],
        "device": [("web", "app", "tv")[n % 3 if n % 4 else 0] for n in range(N)],
        "tags": [("x|y", "y|z", "z")[n % 3 if n % 5 else 1] for n in range(N)],
        "image": [f"[{int(item[1:]) / 8}, 0.5, -1]" for item in ITEM],
        "row": [str(n) for n in range(N)],
        "note": [f"free text {n * n} of one event" for n in range(N)],
        "same": ["1"] * N,
    }
    found = roles(LOG | features)
    assert {name: found[name] for name in features} == {
        "city": ("user feature", "categorical"),
        "price": ("item feature", "numeric"),
        "device": ("context feature", "categorical"),
        "tags": ("context feature", "multi"),
        "image": ("item feature", "vector"),
        "row": ("unused", ""),
        "note": ("unused", ""),
        "same": ("unused", ""),
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2"], ("integer", None)),
        (["1.5", "2"], ("number", None)),
        (["true", "FALSE"], ("words", None)),
        (["2020-01-31", "2020-02-01T10:00:00Z"], ("time", None)),
        (["31/01/2020", "01/02/2020"], ("time", "%d/%m/%Y")),
        (["01/31/2020", "02/01/2020"], ("time", "%m/%d/%Y")),
        (["2019-10-01 00:00:00 UTC", "2019-10-02 10:00:00 UTC"], ("time", "%Y-%m-%d %H:%M:%S UTC")),
        (["05 3, 2011", "11 12, 2012"], ("time", "%m %d, %Y")),
        (["Toy Story (1995)", "Heat (1995)"], ("text", None)),
        (["", "NULL"], ("empty", None)),
    ],
)
def test_a_type_is_that_of_all_values(values: list[str], expected: tuple) -> None:
    found = role.describe(pd.Series(values, name="x"))
    assert (found.type, found.time_format) == expected


def test_missing_values_are_counted_by_word() -> None:
    found = role.describe(pd.Series(["a", "", None, "NULL", "NULL", np.nan], name="x", dtype=object))
    assert found.missing == {"": 3, "NULL": 2} and found.n_unique == 1
