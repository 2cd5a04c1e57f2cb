"""What a stronger network sees in the training photos, in the files that `locate train steered` reads.

The teacher is run by the peer's tool in an environment of its own:

    DATA=../shared/data/train TOOL="PEER/bin/python ../shared/tools/peer.py" OUT=build/teacher
    $TOOL features $OUT/photos.npz $(find $DATA/photos -type f | sort) --keypoints 800
    $TOOL features $OUT/scenes.npz $(find $DATA/scenes -type f | sort) --keypoints 1024
    python benchmarks/ablations/teacher.py candidates $OUT/scenes.npz $OUT/candidates.txt
    $TOOL match $OUT/matches.npz $OUT/scenes.npz --pairs $OUT/candidates.txt
    python benchmarks/ablations/teacher.py labels $OUT/labels.npz $OUT/photos.npz $OUT/scenes.npz --data $DATA
    python benchmarks/ablations/teacher.py pairs $OUT/pairs.npz $OUT/scenes.npz $OUT/matches.npz --data $DATA
"""

from __future__ import annotations

import argparse
from pathlib import Path

from locate.extractors.registry import create
from locate.images.reading import read_photo
from locate.training.data.teacher_files import candidate_pairs, write_labels, write_pairs


def candidates(features, out):
    gem = create("gem")

    def describe(path):
        photo = read_photo(path, min_long_side=gem.max_side)
        return gem.extract(photo.pixels, photo.info.size).global_descriptor

    pairs = candidate_pairs(features, describe)
    out.write_text("".join(f"{a} {b}\n" for a, b in pairs))
    print(f"{len(pairs)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("candidates", "labels", "pairs"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    a = parser.parse_args()
    if a.step == "candidates":
        candidates(*a.files)
    elif a.step == "labels":
        print("{} photos, {} keypoints".format(*write_labels(a.files[0], a.files[1:], a.data)))
    else:
        print("{} pairs, {} matches".format(*write_pairs(*a.files, a.data)))


if __name__ == "__main__":
    main()
