"""Steered features: corners, described by a C4-equivariant network along the direction each faces."""
