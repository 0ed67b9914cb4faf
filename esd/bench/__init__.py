"""python -m esd.bench: what an erasure costs, what it is worth, and the results page."""
