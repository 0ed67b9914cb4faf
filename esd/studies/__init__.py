"""python -m esd.studies: tables over many erasures of the embedded model."""
