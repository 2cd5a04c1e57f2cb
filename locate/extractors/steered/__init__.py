"""Steered features: corners, described by a C4-equivariant network along the direction that each faces."""
