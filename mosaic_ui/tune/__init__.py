"""The tab Tune: one search for a plan, and the front that it finds."""
