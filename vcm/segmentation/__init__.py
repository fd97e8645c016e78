"""Segment brains from one labelled subject, by features of 2D diffusion models in three views."""
