"""Judges of pictures, as torchmetrics: is it gone, is the rest intact."""
