"""Scans, label maps and their geometry: knows mm, RAS and NIfTI; nothing of noise or networks."""
