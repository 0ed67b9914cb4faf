"""python -m esd.pretrain: the embedded model, made again."""
