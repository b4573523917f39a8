"""Run a grid of settings over one or two axes: every cell a kept run, resumable, in one picture."""
