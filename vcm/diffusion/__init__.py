"""Noise, schedules and samplers. Knows t, alpha and sigma; no NIfTI, no layer names."""
