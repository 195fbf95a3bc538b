"""Star-shaped diffusion: noisy variables that are independent given the data."""
