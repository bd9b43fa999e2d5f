"""The local index: the only code that speaks SQL."""
