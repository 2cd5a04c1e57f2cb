"""SEKD: Song, Cai, Li, Tian and Li, "SEKD: Self-Evolving Keypoint Detection and Description",
arXiv 2006.05077, 2020."""
