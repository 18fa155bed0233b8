"""Inspects a log before training: how it is read, what its columns are, and what it holds."""
