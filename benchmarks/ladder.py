"""Planted structure: does each model learn what it was designed to learn, and beat the one that lacks that component?

usage: python benchmarks/ladder.py [STRUCTURE ...] [--seeds N] [--threads N] [--events N]

For each planted structure alone, and for all of them in the default data, models are trained with several seeds on the
same synthetic log. `together` is `order` without features, so events must teach which items belong together. In
`recall` the target's category was last seen 500 events ago. Prints how far each model gets from AUC 0.5 to the
oracle's, as mean and standard deviation over seeds.

The structures of the next item (transition, second_order, daytime, trend, each for 80 % of the events) are learnt by
models that rank all items. There it prints hr@5 of the first test event, divided by the oracle's.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import recexp

STRUCTURES = ("popularity", "interaction", "interest", "order", "drift", "recall", "triple")
SIDES = ("user", "item", "context")
IDS = " ".join(["dataset.n_items=1000", *(f"~dataset.features.{side} +dataset.features.{side}={{}}" for side in SIDES)])
FAR = " ".join(f"dataset.{each}" for each in ("rounds=true", "n_categories=500", "n_items=1000", "n_users=30",
                                              "n_events=30000")) + " trainer.epochs=5"  # fmt: skip
FIELDS = ("linear", "fm", "ffm", "afm", "nfm", "pnn", "onn", "deepfm", "feature_mlp", "dcnv2", "xdeepfm", "autoint",
          "autoint model.hidden_sizes=[128,64]", "fibinet", "finalmlp", "graphfm")  # fmt: skip
PATIENT = "trainer.epochs=30 trainer.patience=null"  # a triple shows on valid after ten epochs without any progress
NEXT_ITEM = ("transition", "second_order", "daytime", "trend")
MANY_STEPS = "trainer.learning_rate=3e-3 trainer.patience=40"  # a rule of two items shows on valid after many epochs
MODELS = ("popularity", "item_knn", "ease", "bpr_mf", "gru4rec", "sasrec", "esasrec", "bert4rec", "hstu")
RANKERS = tuple(f"{model} trainer=next_item {MANY_STEPS}" for model in MODELS)
POINTWISE = "trainer.batch_size=256 trainer.ranking.candidates=all trainer.monitor=ndcg@10/all dataset.negatives=4"
LADDER = {  # planted structure: models with their overrides
    "interaction": ("popularity", *FIELDS, "fnn", "wide_deep", "wide_deep model.wide=poly2"),
    "triple": tuple(f"{model} {PATIENT}" for model in FIELDS),
    "interest": ("deepfm", "seq_pooling", "din", "dien", "bst", "transformer4rec"),
    "order": ("seq_pooling", "din", "rnn", "dien", "bst model.position=learnt", "transformer4rec"),
    "drift": ("deepfm", "seq_pooling", "din", "rnn", "dien", "bst model.position=learnt"),
    # No feature tells which items belong together; only the next event and a few labels do.
    "together": (
        f"joint_rnn {IDS} model.loss_weights.auxiliary=0",
        f"joint_rnn {IDS}",
        f"dien {IDS}",
        f"dien {IDS} model.loss_weights.auxiliary=0.5",
        f"dien {IDS} model.loss_weights.auxiliary=0.5 model.auxiliary=sampled",
    ),
    "recall": (
        f"din {FAR} dataset.max_history=50",
        f"din {FAR} dataset.max_history=1000 trainer.eval_batch_size=256",
        f"sim {FAR} dataset.max_history=50",
        f"sim {FAR} dataset.max_history=50 model.search=soft model.loss_weights.auxiliary=1",
    ),
    "transition": (*RANKERS, f"fm {POINTWISE} dataset.features.derived.last_items=1"),
    "second_order": (*RANKERS, f"deepfm {POINTWISE} dataset.features.derived.last_items=2"),
    "daytime": (*RANKERS, f"fm {POINTWISE} dataset.features.derived.time=[hour]"),
    "trend": ("popularity model.recent=0.1 trainer=next_item", *RANKERS),
    "all": ("popularity", "linear", "fm", "deepfm", "seq_pooling", "din", "rnn", "dien", "bst", "transformer4rec"),
}
PLANTED = {"together": ("order",)}
PROTOCOL = ("dataset.label=implicit", "trainer.ranking.relevant=first", "trainer.ranking.exclude_seen=false")


def shares(structure: str, rung: str, seeds: int, more: list[str]) -> list[float]:
    """The share of the oracle's AUC, or hr@5, for each seed."""
    planted = PLANTED.get(structure, (structure,))
    strengths = [f"dataset.{name}={1.0 if name in planted else 0.0}" for name in STRUCTURES]
    if structure in NEXT_ITEM:
        strengths += [f"dataset.{structure}=0.8", *PROTOCOL]
    model, *beside = rung.split()
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            run = [f"seed={seed}", f"run.dir={Path(folder) / str(seed)}", "trainer.predictions=false"]
            own = [] if structure == "all" else strengths
            config = recexp.load_config([f"model={model}", *run, *own, *more, *beside])
            metrics = recexp.train(config)
            values.append(hit_rate(metrics) if structure in NEXT_ITEM else metrics["share_of_oracle"])
    return values


def hit_rate(metrics: dict[str, Any]) -> float:
    return metrics["test"]["hr@5/all"] / metrics["oracle"]["hr@5/all"]


def shortened(rung: str) -> str:
    """A rung without the overrides that all of its structure have."""
    return rung.replace(IDS, "ids of 1000 items").replace(FAR, "").replace(MANY_STEPS, "").strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("structures", nargs="*", default=list(LADDER))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--events", type=int, default=30_000)
    typed = parser.parse_args()
    more = [f"dataset.n_events={typed.events}", f"dataset.n_users={typed.events // 50}"]
    more += [f"trainer.threads={typed.threads or 'null'}"]
    for structure in typed.structures:
        next_item = structure in NEXT_ITEM
        sizes = [f"dataset.n_items={60 if next_item else 200}", f"trainer.batch_size={32 if next_item else 256}"]
        for rung in LADDER[structure]:
            values = shares(structure, rung, typed.seeds, [*more, *sizes])
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            summary = f"{statistics.fmean(values):6.1%} ± {deviation:.1%}   n={len(values)}"
            print(f"{structure:12} {summary}   {shortened(rung)}", flush=True)
