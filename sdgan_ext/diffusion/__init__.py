"""Latent diffusion."""
