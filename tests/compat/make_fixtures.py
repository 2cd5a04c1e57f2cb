"""Make tests/compat/data/before-rooms.tar.xz: indexes and a map by the code before the rooms.

To be run in a checkout of ed45881, with the folder to write to:

    python .../tests/compat/make_fixtures.py OUT
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))  # the old checkout, not the one that this script lies in
from pipelines.town import make_town  # type: ignore[import-not-found]

SIZE, VIEWS = (208, 156), 5


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], check=False)
    assert done.returncode in (0, 3), words  # 3: the model names the photo that is added later


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        town = base / "town"
        make_town(town, landmarks=1, views=VIEWS, size=SIZE)
        photos = town / "landmarks"
        last = sorted(photos.rglob("*.jpg"))[-1]
        new = base / "new.jpg"
        last.rename(new)  # is added later, by the code of today
        for extractor, folder in (("context", "context.locate"), ("gem+sift", "sift.locate")):
            words = ["build-index", str(photos), "--index", str(base / folder)]
            run(*words, "--extractor", extractor)
        words = ["import-map", str(town / "colmap"), "--images", str(photos), "--metric"]
        words += ["--skip-missing", "--extractor", "gem+sift", "--out", str(base / "map")]
        run(*words)
        for query in (town / "queries").iterdir():
            if query.name != "church.jpg":
                query.unlink()
        with tarfile.open(out / "before-rooms.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(base.iterdir()):
                archive.add(path, path.name)


main(Path(sys.argv[1]).resolve())
