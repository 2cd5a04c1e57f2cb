"""UR2KiD: Yang, Nguyen, Heijnen and Balntas, "UR2KiD: Unifying Retrieval, Keypoint Detection and
Keypoint Description without Local Correspondence Supervision", arXiv 2001.07252, 2020."""
