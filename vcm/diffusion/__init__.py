"""Timesteps, noise and samplers: knows t, alpha, sigma, z_t; nothing of NIfTI."""
