"""python -m esd.cache: the cached walks of the frozen model."""
