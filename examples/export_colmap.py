"""Localize a folder of photos in a map, and give the poses to COLMAP.

python examples/export_colmap.py town.map photos/ poses/
"""

import sys
from pathlib import Path

import pycolmap

import locate

town, photos, out = map(Path, sys.argv[1:4])
with locate.Localizer(town) as localizer:
    found = list(localizer.localize_many(sorted(photos.glob("*.jpg"))))
poses = [pose for pose in found if isinstance(pose, locate.Pose)]  # the rest are errors of photos
count = locate.write_poses(out, poses, "colmap")
print(f"{count} of {len(found)} photos localized")

for image in pycolmap.Reconstruction(out).images.values():
    print(image.name, image.projection_center())
