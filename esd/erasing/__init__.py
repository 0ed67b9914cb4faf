"""The method: concepts, prompts, layers, where x_t comes from, the loss. Begin with erasure.py and trajectories.py."""
