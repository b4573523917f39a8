"""Place 4: the kept runs and kept plans, and what is done with them."""
