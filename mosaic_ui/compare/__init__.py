"""Tab Compare: two sides from the same noise, pictures and times."""
