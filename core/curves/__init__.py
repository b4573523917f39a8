"""Noise schedules, their curves, and plans that cut a trajectory into stages."""
