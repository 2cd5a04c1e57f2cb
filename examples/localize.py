"""Make a map of a COLMAP model and its photos, and localize a photo in it.

python examples/localize.py colmap/ photos/ out.map photo.jpg
"""

import sys
from pathlib import Path

import locate

model, photos, out, photo = map(Path, sys.argv[1:5])
report = locate.import_map(model, photos, out)  # metric=True if a unit of the model is a metre
print(f"{report.registered} photos registered")

with locate.Localizer(out) as localizer:
    pose = localizer.localize(photo)
if pose.center is None:
    print(f"{pose.verdict}: {pose.reason}")
else:
    print(f"{pose.verdict}: {pose.center} in the frame of the model ({pose.reason})")
