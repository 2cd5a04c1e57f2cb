"""Steered features: a C4-equivariant network, whose descriptors are turned by a direction of its own."""
