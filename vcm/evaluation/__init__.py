"""Measure a model on test subjects."""
