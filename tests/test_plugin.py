"""Plugins that are installed: a broken one is told in one line."""

import importlib.metadata

import pytest

from recexp import plugin
from recexp.error import ConfigError


def test_an_installed_plugin_that_fails_on_import_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("mine", "no_such_package.model", "recexp.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match=r"plugin mine \(no_such_package\.model\): fails on import: ModuleNotFound"):
        plugin.load([])
