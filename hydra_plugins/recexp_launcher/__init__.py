"""recexp's launcher, and the gate that a sweep puts before any launcher.

Every Hydra program in this environment imports the modules here when it starts: they import nothing heavy.
"""
