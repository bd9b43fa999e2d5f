"""Looking for what is wrong with this machine, the configuration, or the store."""
