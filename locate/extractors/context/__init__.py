"""Steered features that know what they are part of: beside the corner, what an ImageNet network sees."""
