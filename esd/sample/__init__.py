"""Pictures from prompts, each from the noise of its own seed, and grids of them."""
