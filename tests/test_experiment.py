"""The flow as Python calls it: a configuration changed after it was composed is checked again."""

from collections.abc import Callable
from pathlib import Path

import pytest

import recexp
from recexp.error import ConfigError
from recexp.experiment import build


@pytest.mark.parametrize("call", [recexp.train, build])
@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("epochs", -3, r"^trainer\.epochs = -3: must be 1 or more"),
        ("epohcs", 3, r"^trainer\.epohcs: unknown .*'trainer\.epochs'"),
    ],
)
def test_changed_configuration_is_checked_before_anything_is_done(
    call: Callable, key: str, value: int, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = recexp.load_config(["+experiment=smoke", "model=fm", "trainer.threads=1"])
    setattr(config.trainer, key, value)
    with pytest.raises(ConfigError, match=wrong):
        call(config)
    assert list(tmp_path.iterdir()) == []
