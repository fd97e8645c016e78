"""Isotropic volumes from thick slices.

The stories lie here: `upsample`, `simulate`, `derivation` (a dataset), `guide` (by another contrast), `without_model`. The
rooms: `scans` (thick slices made ready), `detail` (what is added between them), `results` (what comes out and is written),
`pretraining` (of the networks).
"""
