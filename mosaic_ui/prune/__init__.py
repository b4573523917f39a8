"""Tab Prune: calibration, sharing, subnetworks and their report."""
