"""LIFT: Yi, Trulls, Lepetit and Fua, "LIFT: Learned Invariant Feature Transform", ECCV 2016."""
