"""Hydra's `hydra/sweeper=optuna` in recexp.

At its start Hydra executes every module here whose name does not begin with _, so all but the plugin's own does.
"""
