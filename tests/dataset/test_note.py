"""What the user is told of values as they were read."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from batches import raw_splits

from recexp.dataset.config import FeatureKind
from recexp.dataset.prepare import prepare


def test_numbers_that_only_later_rows_hold_are_of_no_use_and_told(tiny_config: Callable, tiny_log: Callable) -> None:
    kinds = {"context": {"late": FeatureKind.numeric, "both": FeatureKind.vector}}
    config, raw = tiny_config(features=kinds), tiny_log()
    train = raw_splits(prepare(raw, tiny_config(features={}))) == 0
    late = np.where(train, np.nan, 1e6)
    both = pd.Series([[3.0, 1e6 * (not trains)] for trains in train])
    dataset = prepare(replace(raw, context=pd.DataFrame({"late": late, "both": both})), config)
    assert not dataset.log.context.values.any()
    assert "no two different numbers in train, so of no use: context.late, context.both" in dataset.facts["notes"]
