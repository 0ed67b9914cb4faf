"""python -m esd.export: the edit where people run models."""
