"""Isotropic volumes from thick slices."""
