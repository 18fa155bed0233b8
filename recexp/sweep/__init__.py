"""A sweep: one folder, one run directory per job. Hydra's part is in hydra_plugins/recexp_launcher."""
