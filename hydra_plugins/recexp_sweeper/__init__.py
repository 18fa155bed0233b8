"""Hydra's `hydra/sweeper=optuna` in recexp.

At its start Hydra imports all modules here whose names do not begin with _, so only the plugin's own name has no _.
"""
