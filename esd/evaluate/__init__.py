"""python -m esd.evaluate: base and edits, judged by a named protocol."""
