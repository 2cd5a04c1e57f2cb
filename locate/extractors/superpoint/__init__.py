"""SuperPoint: DeTone, Malisiewicz and Rabinovich, "SuperPoint: Self-Supervised Interest Point Detection
and Description", CVPR Workshops 2018."""
