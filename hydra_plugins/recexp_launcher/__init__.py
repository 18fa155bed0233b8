"""recexp's launcher, and the gate that a sweep puts before any launcher.

Every Hydra program in this environment imports these modules when it starts, so they import nothing heavy.
"""
