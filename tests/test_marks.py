"""The published marks are complete experiments, and one of them trains on the published rows where these are at hand.

benchmarks/marks.py trains each to the end and compares it with the published figure.
"""

import runpy
from pathlib import Path

import pytest

import recexp

ROOT = Path(__file__).parents[1]
FRAPPE = ROOT.parent / "shared" / "data" / "frappe"
PUBLISHED = runpy.run_path(str(ROOT / "benchmarks" / "marks.py"))["PUBLISHED"]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "experiment" / "marks").glob("*_*.yaml"))


def test_each_mark_has_a_published_figure():
    assert sorted(PUBLISHED) == NAMES


@pytest.mark.parametrize("mark", NAMES)
def test_a_mark_needs_no_more_than_its_data(mark, tmp_path):
    config = recexp.load_config([f"+experiment=marks/{mark}", f"dataset.path={tmp_path}"])
    assert mark.startswith(config.model.name)


@pytest.mark.skipif(not FRAPPE.is_dir(), reason=f"the rows of Frappe_x1 are not in {FRAPPE}")
def test_two_epochs_of_the_linear_mark_come_to_the_same_test_auc(tmp_path):
    """The whole mark takes dozens of epochs, to 0.9356."""
    data = [f"dataset.path={FRAPPE}", "dataset.cache_dir=null", f"run.dir={tmp_path / 'run'}"]
    metrics = recexp.train(
        recexp.load_config(["+experiment=marks/linear_frappe", "trainer.epochs=2", "trainer.threads=1", *data])
    )
    assert metrics["test"]["auc"] == pytest.approx(0.911, abs=0.002)
