"""Models: loading them, their families, and the layers that can be pruned."""
