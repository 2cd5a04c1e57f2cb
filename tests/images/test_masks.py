"""Masks: what the user says is to be ignored, in COLMAP's convention."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import locate
from index.catalog import Catalog
from index.maps.folder import MapFolder
from locate.errors import ImageError, InputError
from locate.extractors import registry
from locate.extractors.rotated import extract_rotated
from locate.extractors.sift import Sift
from locate.images.masks import FILL, Mask, Masks, hidden, read_mask
from locate.types import Photo, PhotoInfo
from pipelines.cli.main import main
from pipelines.indexing.build import NO_MASKS, add_photos, build_index
from pipelines.indexing.maintenance import database_info
from pipelines.mapping.build import build_map
from pipelines.mapping.import_model import import_map
from pipelines.town.town import make_town

SIZE = (320, 240)


def save_mask(path, ignored):
    """Black where `ignored`, H x W bool, white elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(ignored, 0, 255).astype(np.uint8)).save(path)
    return path


def lower(share=0.25, size=SIZE):
    ignored = np.zeros(size[::-1], bool)
    ignored[round((1 - share) * size[1]) :] = True
    return ignored


# --- which mask is a photo's


def test_names_as_colmap_has_them(tmp_path):
    for name in ("a/b.jpg.png", "c.png", "mask.png"):
        save_mask(tmp_path / name, lower())
    masks = Masks(tmp_path)
    assert masks.path_of("a/b.jpg") == tmp_path / "a/b.jpg.png"
    assert masks.path_of("c.jpg") == tmp_path / "c.png"
    assert masks.path_of("b.jpg") == tmp_path / "mask.png"
    (tmp_path / "mask.png").unlink()
    assert masks.path_of("b.jpg") is None
    assert masks.path_of("c.png") is None  # that is the photo, where masks lie beside photos
    assert Masks(tmp_path / "c.png").path_of("any/thing.jpg") == tmp_path / "c.png"


def test_no_masks_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no masks"):
        Masks(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        Masks(tmp_path / "nowhere")


def test_the_mask_of_a_query_is_found_by_the_end_of_its_path(tmp_path):
    save_mask(tmp_path / "masks/day/1.jpg.png", lower(0.5))
    save_mask(tmp_path / "masks/mask.png", lower(0.1))
    pixels = np.full((*SIZE[::-1], 3), 90, np.uint8)
    masks = Masks(tmp_path / "masks")

    def ignored(path):
        mask = hidden(Photo(pixels, PhotoInfo(SIZE), path), masks)[1]
        return mask.ignored.mean()

    assert ignored(tmp_path / "photos/day/1.jpg") == pytest.approx(0.5, abs=0.01)
    assert ignored(tmp_path / "photos/night/1.jpg") == pytest.approx(0.1, abs=0.01)
    assert ignored(None) == pytest.approx(0.1, abs=0.01)


# --- what a mask is


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_modes(tmp_path, mode):
    path = tmp_path / "m.png"
    wanted = lower()
    image = Image.fromarray(np.where(wanted, 0, 255).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.where(wanted, 0, 7).astype(np.uint16))
    else:
        image = image.convert(mode)
    image.save(path)
    np.testing.assert_array_equal(read_mask(path, PhotoInfo(SIZE)).ignored, wanted)


def test_a_mask_of_another_size_but_the_same_shape(tmp_path):
    path = save_mask(tmp_path / "m.png", lower(0.25, (160, 120)))
    mask = read_mask(path, PhotoInfo(SIZE))
    black = np.full((*SIZE[::-1], 3), 255, np.uint8)
    black[180:] = 0
    assert (mask.fill(black) >= FILL).all()


@pytest.mark.parametrize(
    ("orientation", "where"), [(6, "right"), (8, "left"), (5, "right"), (7, "left")]
)
def test_a_mask_of_the_photo_as_it_is_stored_is_turned_with_it(tmp_path, orientation, where):
    """EXIF 6: what is stored on top is seen on the right; 8: on the left (5 and 7 mirrored too)."""
    stored = np.zeros(SIZE[::-1], bool)
    stored[:60] = True  # the top
    path = save_mask(tmp_path / "m.png", stored)
    upright = read_mask(path, PhotoInfo(SIZE[::-1], orientation)).ignored
    assert upright.shape == SIZE
    wanted = np.zeros(SIZE, bool)
    if orientation in (5, 8):
        wanted[:, :60] = True
    else:
        wanted[:, -60:] = True
    assert where in ("left", "right")
    np.testing.assert_array_equal(upright, wanted)


def test_masks_that_are_none(tmp_path):
    wrong = save_mask(tmp_path / "wrong.png", lower(0.25, (300, 300)))
    with pytest.raises(ImageError, match="300 x 300 px, its photo 320 x 240"):
        read_mask(wrong, PhotoInfo(SIZE))
    black = save_mask(tmp_path / "black.png", np.ones(SIZE[::-1], bool))
    with pytest.raises(ImageError, match="nothing of the photo is left"):
        read_mask(black, PhotoInfo(SIZE))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="no mask that can be read"):
        read_mask(tmp_path / "text.png", PhotoInfo(SIZE))


# --- what it does


@pytest.mark.parametrize("name", ["gem+sift", "context"])
@pytest.mark.parametrize("reduced", [1, 2])
def test_nothing_depends_on_what_is_ignored(texture, name, reduced):
    """Neither local features nor the global descriptor, in whatever size the photo was decoded."""
    extractor = registry.create(name)
    photos = [texture((640, 480), seed) for seed in (1, 2)]
    photos[1][:360] = photos[0][:360]  # they differ below
    mask = Mask(lower(0.25, (640, 480)))
    found = []
    for photo in photos:
        pixels = np.ascontiguousarray(photo[::reduced, ::reduced])
        filled = mask.fill(pixels)
        found.append(extract_rotated(extractor, filled, (640, 480), 0, local=True, mask=mask))
    one, other = found
    np.testing.assert_array_equal(one.global_descriptor, other.global_descriptor)
    np.testing.assert_array_equal(one.features.keypoints, other.features.keypoints)
    np.testing.assert_array_equal(one.features.descriptors, other.features.descriptors)
    assert len(one.features) > 50
    assert one.features.keypoints[:, 1].max() < 360 - 4


def test_features_elsewhere_stay_as_they_are(texture):
    """Far from a mask a photo is what it was."""
    photo, mask = texture((640, 480), 3), Mask(lower(0.25, (640, 480)))
    plain = Sift().extract(photo).features
    masked = extract_rotated(
        Sift(), mask.fill(photo), (640, 480), 0, local=True, mask=mask
    ).features
    high = plain.keypoints[plain.keypoints[:, 1] < 250]
    apart = np.linalg.norm(high[:, None] - masked.keypoints[None], axis=2).min(axis=1)
    assert (apart < 1e-3).mean() > 0.95


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_photo_that_is_looked_at_turned(texture, degrees):
    photo, mask = texture((640, 480), 3), Mask(lower(0.25, (640, 480)))
    seen = extract_rotated(Sift(), mask.fill(photo), (640, 480), degrees, local=True, mask=mask)
    assert 0 < seen.features.keypoints[:, 1].max() < 360 - 4


# --- databases


@pytest.fixture
def home(tmp_path, photo_factory, fake_extractor):
    for seed in range(3):
        photo_factory(tmp_path / f"photos/p{seed}.png", seed=seed)
    save_mask(tmp_path / "masks/p0.png.png", lower(0.5))
    return tmp_path


def rows_of(index):
    with Catalog.open(index) as catalog:
        return {row.path: (row.id, row.file.mask) for row in catalog.images()}


def test_a_database_remembers_its_masks_and_looks_again_where_they_change(home, fake_extractor):
    index = home / "i"
    report = build_index(home / "photos", index, extractor=fake_extractor, masks=home / "masks")
    assert report.added == 3
    first = rows_of(index)
    assert [bool(mask) for _, mask in first.values()] == [True, False, False]
    with Catalog.open(index) as catalog:
        keypoints = catalog.features(first["p0.png"][0]).keypoints
    assert keypoints[:, 1].max() < 120
    assert build_index(home / "photos", index).unchanged == 3
    assert database_info(index).masks == str((home / "masks").resolve())
    save_mask(home / "masks/p1.png.png", lower(0.5))
    report = build_index(home / "photos", index)
    assert (report.updated, report.unchanged) == (1, 2)
    save_mask(home / "masks/p1.png.png", lower(0.7))
    assert build_index(home / "photos", index).updated == 1
    report = build_index(home / "photos", index, masks=NO_MASKS)
    assert (report.updated, report.unchanged) == (2, 1)
    assert not any(mask for _, mask in rows_of(index).values())
    assert build_index(home / "photos", index).unchanged == 3


def test_the_same_photo_under_another_mask_is_another(home, fake_extractor):
    shutil.copy(home / "photos/p0.png", home / "photos/twin.png")
    index = home / "i"
    build_index(home / "photos", index, extractor=fake_extractor, masks=home / "masks")
    with Catalog.open(index) as catalog:
        rows = {row.path: row.id for row in catalog.images()}
        counts = [len(catalog.features(rows[name])) for name in ("p0.png", "twin.png")]
    assert counts[0] < counts[1]


def test_masks_that_are_gone(home, fake_extractor):
    index = home / "i"
    build_index(home / "photos", index, extractor=fake_extractor, masks=home / "masks")
    shutil.rmtree(home / "masks")
    with pytest.raises(InputError, match="--masks none"):
        build_index(home / "photos", index)
    with pytest.raises(InputError, match="--masks none"):
        add_photos([home / "photos/p1.png"], index)


def test_a_bad_mask_is_a_failed_photo_and_the_rest_goes_on(home, fake_extractor):
    save_mask(home / "masks/p1.png.png", lower(0.5, (200, 200)))
    index = home / "i"
    report = build_index(home / "photos", index, extractor=fake_extractor, masks=home / "masks")
    assert report.added == 2
    ((name, reason),) = report.failed
    assert name == "p1.png"
    assert "p1.png.png" in reason
    assert "200 x 200" in reason
    save_mask(home / "masks/p1.png.png", lower(0.5))
    assert build_index(home / "photos", index).added == 1


@pytest.mark.parametrize("place", [".", "masks"])
def test_masks_that_lie_among_the_photos_are_no_photos(home, fake_extractor, place):
    save_mask(home / "photos" / place / "p0.png.png", lower())
    save_mask(home / "photos" / place / "mask.png", lower())
    masks = home / "photos" / place
    report = build_index(home / "photos", home / "i", extractor=fake_extractor, masks=masks)
    assert (report.added, report.failed) == (3, [])


def test_an_older_database_is_read_and_gets_its_column(home, fake_extractor):
    index = home / "i"
    build_index(home / "photos", index, extractor=fake_extractor)
    with Catalog.create(index) as catalog:
        catalog.execute("ALTER TABLE images DROP COLUMN mask")
        catalog.execute("DELETE FROM _sqlite_migrations WHERE name = 'm003_masks'")
        catalog.execute("PRAGMA user_version = 2")
    assert not any(mask for _, mask in rows_of(index).values())
    assert build_index(home / "photos", index).unchanged == 3
    assert build_index(home / "photos", index, masks=home / "masks").updated == 1


# --- commands


def test_query_by_masks(home, fake_extractor, capsys, texture):
    """A photo whose lower half shows something else is found through a mask as if it did not."""
    index = str(home / "i")
    build_index(home / "photos", home / "i", extractor=fake_extractor)
    mixed = texture(SIZE, 1)
    mixed[120:] = texture(SIZE, 9)[120:]
    Image.fromarray(mixed).save(home / "q.png")
    other = mixed.copy()
    other[120:] = texture(SIZE, 8)[120:]
    Image.fromarray(other).save(home / "r.png")
    save_mask(home / "qmasks/mask.png", lower(0.5))

    def answers(*options):
        main(
            [
                "query",
                str(home / "q.png"),
                str(home / "r.png"),
                "--index",
                index,
                "--json",
                *options,
            ]
        )
        found = json.loads(capsys.readouterr().out)["answers"]
        return [
            [(c["image"], c["similarity"], c["inliers"]) for c in one["candidates"]]
            for one in found
        ]

    one, other = answers("--masks", str(home / "qmasks"))
    assert one == other
    one, other = answers()
    assert one != other


def test_a_query_whose_mask_does_not_fit_is_named(home, fake_extractor, capsys):
    build_index(home / "photos", home / "i", extractor=fake_extractor)
    wrong = save_mask(home / "wrong.png", lower(0.5, (200, 200)))
    photo = str(home / "photos/p0.png")
    assert main(["query", photo, "--index", str(home / "i"), "--masks", str(wrong)]) == 2
    assert "wrong.png" in capsys.readouterr().out


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town") / "t", landmarks=1, views=6, size=(640, 480))


def in_mask(model, top):
    seen = [p.xy[1] for i in model.images.values() for p in i.points2D if p.has_point3D()]
    assert len(seen) > 100
    return max(seen) > top


def test_maps_by_masks(town, tmp_path):
    """No point of a map lies in what its masks ignore, and localize takes masks too."""
    photos = town.root / "landmarks"
    masks = save_mask(tmp_path / "mask.png", lower(0.3, (640, 480)))
    top = 0.7 * 480
    build_map(tmp_path / "a", images=photos, extractor="sift", masks=masks, workers=1)
    assert not in_mask(MapFolder(tmp_path / "a").read_model(), top)
    out = tmp_path / "b"
    import_map(town.root / "colmap", photos, out, extractor="sift", masks=masks, workers=1)
    assert not in_mask(MapFolder(out).read_model(), top)
    query = sorted(photos.rglob("*.jpg"))[0]
    with locate.Localizer(out) as plain, locate.Localizer(out, masks=masks) as masked:
        poses = [plain.localize(query), masked.localize(query)]
    assert all(pose.verdict == "localized" for pose in poses)
    assert poses[0].points[:, 1].max() > 0 < poses[1].points[:, 1].max() < top
    assert main(["localize", str(query), "--map", str(out), "--masks", str(masks)]) == 0


def test_masks_of_an_index_are_not_named_again(tmp_path):
    with pytest.raises(InputError, match="leave them out"):
        build_map(tmp_path / "m", index=tmp_path / "i", masks=tmp_path)


def test_a_caption_that_is_ignored_makes_photos_no_more_alike(town):
    """By the global descriptor: the place under a caption looks more like itself through the mask."""
    extractor = registry.create("gem")
    photo = np.asarray(Image.open(next((town.root / "landmarks").rglob("*.jpg"))))
    captioned = photo.copy()
    cv2.rectangle(captioned, (0, 360), (640, 480), (250, 250, 20), -1)
    for line in (410, 460):
        cv2.putText(captioned, "HARBOUR NEWS", (20, line), 0, 2.0, (0, 0, 0), 8)
    filled = Mask(lower(0.25, (640, 480))).fill(captioned)
    whole, under, masked = (
        extractor.extract(one).global_descriptor for one in (photo, captioned, filled)
    )
    assert whole @ masked > whole @ under + 0.03
