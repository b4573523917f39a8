"""Compute noise schedules and their curves, and cut a trajectory into stages."""
