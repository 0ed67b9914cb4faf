"""python -m esd.attack: is the concept gone from the weights, or only hidden? With a control that never knew it."""
