"""python -m esd.report: a sweep or evaluations as one page."""
