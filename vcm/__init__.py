"""Steer a frozen 3D latent diffusion model of brain MRI with a Volumetric Conditioning Module."""

__version__ = "0.1.0"
