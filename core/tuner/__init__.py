"""Find plans: steps, solver, boundaries, sparsities, guidance and reuse for a budget of work."""
