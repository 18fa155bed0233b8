"""Hydra's `hydra/sweeper=optuna` in recexp.

When it starts, Hydra imports every module here whose name does not begin with _, so only the plugin's own lacks it.
"""
