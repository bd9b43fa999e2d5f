"""Finding the way back to a head from the snapshots alone."""
