"""A sweep: one folder, a run directory a job. Hydra's part is in hydra_plugins/recexp_launcher."""
