"""What is kept for good: every comparison as a run, and plans with a name."""
