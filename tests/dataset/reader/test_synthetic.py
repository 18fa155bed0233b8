from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from recexp.dataset.reader.crossed import crossed
from recexp.dataset.reader.synthetic import STRENGTHS, Synthetic
from recexp.dataset.reader.term import WINDOW, category_before, order
from recexp.dataset.reader.world import Events, World
from recexp.error import ConfigError

OFF = dict.fromkeys(STRENGTHS, 0.0)
Generated = tuple[World, Events, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def config(compose: Callable) -> Synthetic.Config:
    """20,000 events of the default strengths."""
    return replace(compose().dataset, n_users=400, n_items=200, n_events=20_000)


@pytest.fixture(scope="module")
def default(config: Synthetic.Config) -> Generated:
    return Synthetic(config).generate()


@pytest.fixture(scope="module")
def alone(config: Synthetic.Config) -> dict[str, Generated]:
    """Each structure with strength 1, all others off."""
    return {name: Synthetic(replace(config, **{**OFF, name: 1.0})).generate() for name in STRENGTHS}


def logits(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1 - probability))


def held_out_auc(features: np.ndarray, label: np.ndarray) -> float:
    """Test AUC of a logistic regression on every second row."""
    model = LogisticRegression(max_iter=300).fit(features[::2], label[::2])
    return roc_auc_score(label[1::2], model.predict_proba(features[1::2])[:, 1])


def one_hot(*columns: np.ndarray) -> np.ndarray:
    return OneHotEncoder(sparse_output=False).fit_transform(np.stack(columns, 1))


def history(events: Events, row: int) -> np.ndarray:
    """Rows of the last WINDOW events of the user with an earlier timestamp, oldest first, by looking at every event."""
    earlier = (events.user == events.user[row]) & (events.timestamp < events.timestamp[row])
    return np.flatnonzero(earlier)[-WINDOW:]


def test_the_same_options_give_the_same_data_and_another_seed_gives_other_data(config: Synthetic.Config) -> None:
    first, again = Synthetic(config), Synthetic(replace(config))
    other = Synthetic(replace(config, generator_seed=1))
    a, b, c = first.read(), again.read(), other.read()
    for name in ("user", "item", "timestamp", "label", "probability"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
        assert not np.array_equal(getattr(a, name), getattr(c, name))
    for name in ("users", "items", "context"):
        assert getattr(a, name).equals(getattr(b, name))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_the_fingerprint_tells_every_generator_option_and_no_other(config: Synthetic.Config) -> None:
    text = Synthetic(config).fingerprint()
    options = ("n_users", "n_items", "n_events", "n_categories", "generator_seed", "bias", *STRENGTHS)
    for name in options:
        assert Synthetic(replace(config, **{name: getattr(config, name) + 1})).fingerprint() != text
    assert Synthetic(replace(config, max_history=5, n_bins=3, cache_dir="/elsewhere")).fingerprint() == text


def test_sizes_are_as_asked_and_each_user_has_five_events_or_more(config: Synthetic.Config) -> None:
    raw = Synthetic(config).read()
    assert raw.user is not None and raw.item is not None and raw.users is not None and raw.items is not None
    assert len(raw.label) == config.n_events and len(raw.users) == config.n_users and len(raw.items) == config.n_items
    counts = np.bincount(raw.user)
    assert len(counts) == config.n_users and counts.min() >= 5 and counts.std() > 0.3 * counts.mean()
    assert raw.item.min() >= 0 and raw.item.max() < config.n_items


def test_the_smallest_dataset_can_be_drawn(config: Synthetic.Config) -> None:
    raw = Synthetic(replace(config, n_users=1, n_items=2, n_categories=2, n_events=5)).read()
    assert raw.probability is not None and np.isfinite(raw.probability).all() and len(raw.label) == 5


def test_rows_are_sorted_by_user_then_time_and_a_tenth_ties(default: Generated) -> None:
    events = default[1]
    same_user = np.diff(events.user) == 0
    assert (np.diff(events.user) >= 0).all() and (np.diff(events.timestamp)[same_user] >= 0).all()
    assert 0.08 < (np.diff(events.timestamp)[same_user] == 0).mean() < 0.12


def test_item_frequencies_are_skewed(default: Generated) -> None:
    counts = np.sort(np.bincount(default[1].item, minlength=200))[::-1]
    assert counts[:20].sum() > 0.3 * counts.sum()  # evenly drawn items: 0.1


def test_labels_follow_their_probabilities_overall_and_in_bins(default: Generated) -> None:
    _, _, label, probability = default
    place = np.digitize(probability, np.linspace(0, 1, 11)[1:-1])
    for rows in [np.full(len(label), True), *(place == bin_ for bin_ in range(10))]:
        error = np.sqrt((probability[rows] * (1 - probability[rows])).sum()) / rows.sum()
        assert abs(label[rows].mean() - probability[rows].mean()) < 4 * error


def test_without_any_structure_the_probability_is_the_bias_alone(config: Synthetic.Config) -> None:
    *_, probability = Synthetic(replace(config, **OFF, bias=-1.0)).generate()
    assert np.allclose(probability, 1 / (1 + np.e), atol=1e-12)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_structure_alone_gives_an_oracle_above_chance_and_a_term_of_deviation_1(
    alone: dict[str, Generated], name: str
) -> None:
    *_, label, probability = alone[name]
    assert roc_auc_score(label, probability) > 0.65
    assert abs(logits(probability).mean()) < 0.15
    assert logits(probability).std() == pytest.approx(1, abs=0.1)


def test_events_do_not_depend_on_strengths(default: Generated, alone: dict[str, Generated]) -> None:
    for _, events, _, _ in alone.values():
        assert np.array_equal(events.item, default[1].item)
        assert np.array_equal(events.timestamp, default[1].timestamp)


def test_terms_add_up_in_the_logit(config: Synthetic.Config, alone: dict[str, Generated]) -> None:
    fixed = {"popularity": 0.5, "interaction": 2.0, "order": 0.7}  # those that depend on no label
    *_, probability = Synthetic(replace(config, **{**OFF, **fixed}, bias=0.3)).generate()
    expected = 0.3 + sum(strength * logits(alone[name][3]) for name, strength in fixed.items())
    assert np.allclose(logits(probability), expected, atol=1e-6)


def test_popularity_is_one_effect_an_item(alone: dict[str, Generated]) -> None:
    _, events, _, probability = alone["popularity"]
    effect = np.zeros(200)
    effect[events.item] = probability
    assert np.array_equal(effect[events.item], probability)


def test_the_interaction_is_seen_in_pairs_of_fields_and_not_in_single_fields(alone: dict[str, Generated]) -> None:
    world, events, label, probability = alone["interaction"]
    segment, brand, device = world.segment[events.user], world.brand[events.item], events.device
    single = one_hot(segment, brand, device)
    pairs = one_hot(segment * 100 + brand, segment * 100 + device)
    oracle = roc_auc_score(label[1::2], probability[1::2])
    assert abs(held_out_auc(single, label) - 0.5) < 0.02
    assert held_out_auc(pairs, label) > 0.5 + 0.9 * (oracle - 0.5)


def test_the_triple_is_seen_in_three_fields_and_not_in_pairs(alone: dict[str, Generated]) -> None:
    world, events, label, probability = alone["triple"]
    segment, brand, device = world.segment[events.user], world.brand[events.item], events.device
    pairs = one_hot(segment * 100 + brand, segment * 100 + device, brand * 100 + device)
    oracle = roc_auc_score(label[1::2], probability[1::2])
    assert abs(held_out_auc(pairs, label) - 0.5) < 0.03
    assert held_out_auc(one_hot((segment * 100 + brand) * 10 + device), label) > 0.5 + 0.7 * (oracle - 0.5)


def test_an_interaction_has_mean_0_for_each_combination_of_fewer_fields() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(4, size=3000)
    right = (left + rng.integers(5, size=3000)) % 6  # far from independent; some pairs never occur
    third = rng.integers(3, size=3000)
    pair, triple = crossed(rng, (left, right), (4, 6)), crossed(rng, (left, right, third), (4, 6, 3))
    for side in (left, right):
        assert np.allclose(np.bincount(side, pair), 0, atol=1e-8)
    for two in (left * 6 + right, left * 3 + third, right * 3 + third):
        assert np.allclose(np.bincount(two, triple), 0, atol=1e-8)
    assert pair.std() == pytest.approx(1) and triple.std() == pytest.approx(1)


def test_the_end_of_the_history_is_the_last_earlier_timestamp(default: Generated) -> None:
    events = default[1]
    rows = np.random.default_rng(0).choice(len(events.user), 200, replace=False)
    for row in rows:
        found = np.arange(max(events.start[row], events.before[row] - WINDOW), events.before[row])
        assert np.array_equal(found, history(events, row))


def test_interest_and_drift_equal_a_loop_over_strictly_earlier_events(config: Synthetic.Config) -> None:
    small = replace(config, n_users=30, n_events=900, **{**OFF, "interest": 1.0, "drift": 0.6})
    _, events, label, probability = Synthetic(small).generate()
    terms, known = [], []
    for row in range(900):
        past = history(events, row)
        signs = 2 * label[past[events.category[past] == events.category[row]]] - 1
        terms.append(1.0 * np.sign(signs.sum()) + 0.6 * (signs[-1] if len(signs) else 0))
        known.append(len(signs) > 0)
    assert np.allclose(logits(probability), np.array(terms) / np.sqrt(np.mean(known)), atol=1e-6)


@pytest.mark.parametrize("rounds", [False, True])
def test_recall_equals_a_loop_over_all_strictly_earlier_events(config: Synthetic.Config, rounds: bool) -> None:
    options = {**OFF, "recall": 0.7, "rounds": rounds, "n_categories": 12}
    _, events, label, probability = Synthetic(replace(config, n_users=30, n_events=900, **options)).generate()
    terms = np.zeros(900)
    for row in range(900):
        earlier = (events.user == events.user[row]) & (events.timestamp < events.timestamp[row])
        akin = np.flatnonzero(earlier & (events.category == events.category[row]))
        terms[row] = 2 * label[akin[-1]] - 1 if len(akin) else 0
    assert np.allclose(logits(probability), 0.7 * terms / np.sqrt(np.mean(terms != 0)), atol=1e-6)


def test_recall_without_any_earlier_event_of_a_category_is_0(config: Synthetic.Config) -> None:
    options = {**OFF, "recall": 1.0, "n_items": 1000, "n_categories": 1000, "n_users": 1, "n_events": 5}
    _, events, _, probability = Synthetic(replace(config, **options, generator_seed=5)).generate()
    assert len(np.unique(events.category)) == len(events.category)
    assert np.allclose(logits(probability), 0, atol=1e-6)


def test_in_rounds_each_category_comes_back_after_all_others(config: Synthetic.Config, default: Generated) -> None:
    world, events, _, _ = Synthetic(replace(config, rounds=True, n_categories=8)).generate()
    later = events.user[8:] == events.user[:-8]
    assert np.array_equal(events.category[8:][later], events.category[:-8][later])
    assert not (events.category[1:] == events.category[:-1])[events.user[1:] == events.user[:-1]].any()
    assert np.array_equal(world.category[events.item], events.category)
    for name in ("user", "timestamp", "device", "before"):
        assert np.array_equal(getattr(events, name), getattr(default[1], name))
    assert len(np.unique(events.category[events.start == np.arange(len(events.user))])) == 8
    with pytest.raises(ConfigError, match=r"dataset\.rounds = true: must be false where trend draws items"):
        replace(config, rounds=True, trend=0.5)


def test_order_equals_a_loop_over_strictly_earlier_events(config: Synthetic.Config) -> None:
    small = replace(config, n_users=30, n_events=900)
    _, events, _, _ = Synthetic(small).generate()
    term = order(np.random.default_rng(7), small.n_categories, events)
    value = np.random.default_rng(7).standard_normal(small.n_categories)
    expected = np.zeros(900)
    for row in range(900):
        past = history(events, row)
        expected[row] = ((2 * np.arange(len(past)) + 1 - len(past)) * value[events.category[past]]).sum()
    assert np.allclose(term, (expected - expected.mean()) / expected.std(), atol=1e-4)


def test_order_changes_sign_when_the_history_comes_in_reverse(default: Generated) -> None:
    events = default[1]
    users = np.flatnonzero(np.bincount(events.user) > WINDOW)
    start = np.searchsorted(events.user, users)
    distinct = np.arange(len(events.user), dtype=np.int32)  # no ties, so that the history is the WINDOW rows before
    category = events.category.copy()
    place = start[:, None] + np.arange(WINDOW)
    category[place] = category[place[:, ::-1]]
    terms = [
        order(np.random.default_rng(7), 8, replace(events, category=some, before=distinct))[start + WINDOW]
        for some in (events.category, category)
    ]
    assert np.corrcoef(*terms)[0, 1] < -0.999 and np.std(terms[0]) > 0.5


def test_counts_of_the_history_do_not_tell_order_and_weighted_places_do(alone: dict[str, Generated]) -> None:
    _, events, label, probability = alone["order"]
    lags = [category_before(events, lag) for lag in range(1, WINDOW + 1)]
    full = lags[-1] >= 0
    counts, trend = np.zeros((len(label), 8)), np.zeros((len(label), 8))
    for lag, category in enumerate(lags, start=1):
        seen = category[:, None] == np.arange(8)
        counts, trend = counts + seen, trend + (WINDOW + 1 - 2 * lag) / WINDOW * seen
    target = one_hot(events.category)
    oracle = roc_auc_score(label[full][1::2], probability[full][1::2])
    blind = np.hstack([counts / WINDOW, target])
    assert abs(held_out_auc(blind[full], label[full]) - 0.5) < 0.04
    assert held_out_auc(trend[full], label[full]) > 0.5 + 0.9 * (oracle - 0.5)


def test_interest_and_drift_are_of_the_target_and_pooled_labels_tell_less(alone: dict[str, Generated]) -> None:
    for name in ("interest", "drift"):
        _, events, label, probability = alone[name]
        pooled, akin = np.zeros(len(label)), np.zeros(len(label))
        for lag in range(1, WINDOW + 1):
            known = category_before(events, lag)
            sign = np.where(known >= 0, 2 * label[np.maximum(events.before - lag, 0)] - 1, 0)
            pooled, akin = pooled + sign, akin + sign * (known == events.category)
        oracle = roc_auc_score(label, probability)
        assert roc_auc_score(label, pooled) < roc_auc_score(label, akin) - 0.05 < oracle - 0.05


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("n_events", 100, "2000 to 400000"),
        ("n_categories", 1, "2 to 1000"),
        ("n_items", 7, "or more"),
        ("n_users", 0, "1 to 100000000"),
        ("n_events", 10**9, "1 to 100000000"),
        ("generator_seed", -1, "0 or more"),
        ("drift", -0.1, "0 or more"),
    ],
)
def test_an_option_out_of_range_is_told_by_its_key(
    config: Synthetic.Config, key: str, value: float, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.{key} = .*{allowed}"):
        replace(config, **{key: value})
