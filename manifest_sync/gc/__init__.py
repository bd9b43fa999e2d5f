"""Collecting what no retained snapshot reaches."""
