"""A map that is built in a process of its own, to be killed by `test_map_build.py`. Not a test.

    python map_worker.py PHOTOS MAP

Prints "ready" when the work begins, a line for each event of the build, and "done".
"""

import sys
from pathlib import Path

import torch  # noqa: F401  the pool imports it: not a part of the work to be killed in

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from index.maps.folder import MapFolder
from pipelines.indexing import build
from pipelines.mapping.build import build_map

build.COMMIT_SECONDS = 0.0  # commit after every image: many instants to be killed at


def tell(*event):
    print("event", *event, flush=True)


def telling(name):
    method = getattr(MapFolder, name)

    def told(self, *arguments):
        tell("before", name)
        method(self, *arguments)
        tell("after", name)

    return told


MapFolder.write = telling("write")
print("ready", flush=True)
build_map(Path(sys.argv[2]), images=Path(sys.argv[1]), extractor="sift", workers=1, progress=tell)
print("done", flush=True)
