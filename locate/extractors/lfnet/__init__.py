"""LF-Net: Ono, Trulls, Fua and Yi, "LF-Net: Learning Local Features from Images", NeurIPS 2018."""
