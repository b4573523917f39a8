"""The tab Sweep: a grid of comparisons over one or two settings, and its map of pictures."""
