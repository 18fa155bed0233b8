"""Faults on purpose: `python -m torture` kills, starves and damages runs, and counts what does not survive."""
