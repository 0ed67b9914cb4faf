"""Judges of pictures, as torchmetrics: is it gone, is the rest intact.

They serve on their own, too. Each class says what `update` takes and `compute` gives:

    import torch
    from esd.metrics.paired import PairedDistance

    before, after = torch.rand(2, 4, 3, 64, 64)         # pictures in [0, 1], pairs from the same noise
    moved = PairedDistance()
    moved.update(after, before)
    distance = moved.compute()
"""
