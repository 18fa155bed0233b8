"""recexp's launcher, and what stands before any launcher of a sweep.

Whatever Hydra program runs in this environment executes the modules here at its start: they import nothing heavy.
"""
