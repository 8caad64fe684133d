"""Training and evaluation of the causal and the official models."""
