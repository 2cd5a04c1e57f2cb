"""A build in a process of its own, to be killed by `test_crash.py`. Not a test.

    python crash_worker.py PHOTOS INDEX

Prints "ready" when the work begins and the number of committed images after each commit.
"""

import sys
import time
from pathlib import Path

import torch  # noqa: F401  the pool imports it: not a part of the work to be killed in

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from index.catalog import Catalog
from locate.extractors import registry
from pipelines.indexing import build
from tests.helpers.fake_extractor import FakeExtractor


class SlowExtractor(FakeExtractor):
    """Slow enough that most kills fall between the first commit and the last."""

    def extract(self, *args, **options):
        time.sleep(0.02)
        return super().extract(*args, **options)


registry.EXTRACTORS["fake"] = SlowExtractor  # type: ignore[index]
build.COMMIT_SECONDS = 0.0  # commit after every image: many instants to be killed at
write = Catalog.write


def write_and_tell(self, entries):
    write(self, entries)
    print(self.counts()["ok"], flush=True)


Catalog.write = write_and_tell  # type: ignore[method-assign]
print("ready", flush=True)
build.build_index(Path(sys.argv[1]), Path(sys.argv[2]), extractor="fake", workers=2)
print("done", flush=True)
