"""UnsuperPoint: Christiansen, Kragh, Brodskiy and Karstoft, "UnsuperPoint: End-to-end Unsupervised
Interest Point Detector and Descriptor", arXiv 1907.04011, 2019."""
