"""What a person wants to know of a log before training: how it is read, what its columns are, what it holds."""
