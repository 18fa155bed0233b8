"""Hydra's own configuration, as recexp has it."""

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore


def set_defaults() -> None:
    """Under -m our launcher, unless a file or a word names another, and the gate before any; with -cn, too."""
    node = HydraConf(callbacks={"recexp": {"_target_": "hydra_plugins.recexp_launcher.gate.Gated"}})
    node.defaults = [{"launcher": "processes"} if "launcher" in each else each for each in node.defaults]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="hydra")
