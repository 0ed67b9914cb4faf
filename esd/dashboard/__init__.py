"""python -m esd.dashboard: a saved W&B workspace."""
