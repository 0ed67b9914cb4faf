"""python -m esd.cache: the frozen model's walks and pictures on disk."""
