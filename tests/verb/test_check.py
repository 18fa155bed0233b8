"""The verb `check` from outside."""

from pathlib import Path

import pytest

from recexp.cli import run
from recexp.contract.checks import CHECKS


def test_models_of_the_users_own_are_checked_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["check", "model=fm", "+experiment=tiny", "trainer.threads=1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("check  fm on synthetic") and told[-1].startswith(f"{len(CHECKS)} checks, 0 failed")
    assert len(told) == len(CHECKS) + 2
    assert not list(tmp_path.iterdir())
    assert run(["check", "model=fmm"]) == 2
