"""Pruning: removal orders, error curves and compensated weights from Gram matrices."""
