"""Tab Explore: curves, stage boundaries, the plan and what it buys."""
