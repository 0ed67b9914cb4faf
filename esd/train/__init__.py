"""python -m esd.train: one run, from its options to what it leaves."""
