"""Volumes that obey a condition."""
