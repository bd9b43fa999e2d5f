"""Writing files of a snapshot as plain files somewhere else."""
