"""Load models, know their families, and find the layers that can be pruned."""
