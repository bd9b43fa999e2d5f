"""Mending a damaged bucket from what this machine has."""
