"""Quantized features, against FAISS and against arithmetic by hand."""

import faiss
import numpy as np
import pytest
from safetensors.numpy import save_file

from index import quantization
from index.catalog import Catalog
from index.quantization import Quantizer, pack, unpack
from index.records import Entry, FileState, StoredExtraction
from locate.errors import DatabaseCorruptError, InputError
from locate.types import Extraction, Features, PhotoInfo

PARTS, PIECES = (8, 12), (4, 3)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(columns, columns)))[0][:rows].astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def quantizer(rng):
    """The second part keeps nine of twelve dimensions."""
    return Quantizer(
        (orthonormal(rng, 8, 8), orthonormal(rng, 9, 12)),
        (
            rng.normal(0, 0.35, (4, 256, 2)).astype(np.float32),
            rng.normal(0, 0.35, (3, 256, 3)).astype(np.float32),
        ),
    )


@pytest.fixture
def features(rng):
    def make(count=200, size=(4000, 3000), lengths=(0.6, 0.8)):
        parts = []
        for width, length in zip(PARTS, lengths, strict=True):
            part = rng.normal(size=(count, width))
            parts.append(part / np.linalg.norm(part, axis=1, keepdims=True) * length)
        return Features(
            keypoints=rng.uniform(-0.5, np.array(size) - 0.5, (count, 2)).astype(np.float32),
            scores=np.sort(rng.normal(size=count).astype(np.float32))[::-1].copy(),
            descriptors=np.concatenate(parts, axis=1).astype(np.float16),
            image_size=size,
        )

    return make


def test_codes_are_those_of_faiss(quantizer, features):
    descriptors = features().descriptors
    codes, lengths = quantizer.encode(descriptors)
    assert codes.shape == (200, 7)
    assert quantizer.bytes == 7
    assert quantizer.dim == 20
    np.testing.assert_allclose(lengths, (0.6, 0.8), atol=1e-3)
    starts, columns = (0, 8), (0, 4)
    for i, (rotation, centroids) in enumerate(
        zip(quantizer.rotations, quantizer.centroids, strict=True)
    ):
        pieces, _, width = centroids.shape
        theirs = faiss.ProductQuantizer(pieces * width, pieces, 8)
        faiss.copy_array_to_vector(centroids.ravel(), theirs.centroids)
        part = descriptors[:, starts[i] : starts[i] + PARTS[i]].astype(np.float64)
        turned = part / np.linalg.norm(part, axis=1, keepdims=True) @ rotation.T.astype(np.float64)
        expected = theirs.compute_codes(np.ascontiguousarray(turned, np.float32))
        np.testing.assert_array_equal(codes[:, columns[i] : columns[i] + pieces], expected)


def test_decoded_parts_have_their_length_and_point_where_centroids_do(quantizer, features):
    codes, lengths = quantizer.encode(features().descriptors)
    decoded = quantizer.decode(codes, lengths).astype(np.float64)
    for row in (0, 77):
        by_hand, start = [], 0
        for rotation, centroids, length in zip(
            quantizer.rotations, quantizer.centroids, lengths, strict=True
        ):
            pieces = len(centroids)
            chosen = [centroids[m, codes[row, start + m]] for m in range(pieces)]
            start += pieces
            turned = np.concatenate(chosen).astype(np.float64)
            by_hand.append(length * turned / np.linalg.norm(turned) @ rotation)
        np.testing.assert_allclose(decoded[row], np.concatenate(by_hand), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(decoded[:, :8], axis=1), 0.6, atol=2e-3)


def test_a_part_without_weight_stays_nothing(quantizer, features):
    found = quantizer.decode(*quantizer.encode(features(lengths=(1.0, 0.0)).descriptors))
    assert not found[:, 8:].any()
    np.testing.assert_allclose(np.linalg.norm(found[:, :8], axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("size", [(4000, 3000), (480, 640), (1, 1)])
def test_keypoints_and_scores_to_a_step_of_their_fixed_point(quantizer, features, size):
    given = features(size=size)
    row = {"count": len(given), **pack(given, quantizer)}
    found = unpack(row, size, quantizer)
    step = max(size) / 65535
    # Half a step, and what float32 rounds.
    assert np.abs(found.keypoints - given.keypoints).max() <= step / 2 + 2e-4
    spread = given.scores.max() - given.scores.min()
    assert np.abs(found.scores - given.scores).max() <= spread / 65535 / 2 * 1.1
    assert np.all(np.diff(found.scores) <= 0)
    assert len(row["keypoints"]) + len(row["scores"]) + len(row["descriptors"]) == sum(
        quantization.packed_sizes(200, quantizer).values()
    )


def test_corners_of_an_image_come_back(quantizer, features):
    given = features(4, (640, 480))
    given.keypoints[:] = [(-0.5, -0.5), (639.5, 479.5), (0, 0), (639, 479)]
    found = unpack({"count": 4, **pack(given, quantizer)}, (640, 480), quantizer)
    np.testing.assert_allclose(found.keypoints, given.keypoints, atol=640 / 65535 / 2 + 1e-4)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_strongest_alone_are_the_first_of_all(quantizer, features, count):
    given = features(7)
    row = {"count": 7, **pack(given, quantizer)}
    every, some = (unpack(row, (4000, 3000), quantizer, n) for n in (None, count))
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:count])


def test_no_features_and_equal_scores(quantizer, features):
    nothing = features(0)
    assert len(unpack({"count": 0, **pack(nothing, quantizer)}, (4000, 3000), quantizer)) == 0
    equal = features(5)
    equal.scores[:] = 0.25
    found = unpack({"count": 5, **pack(equal, quantizer)}, (4000, 3000), quantizer)
    np.testing.assert_array_equal(found.scores, equal.scores)


# --- in a database


STATE = FileState("0" * 64, 1, 1)
INFO = PhotoInfo(size=(4000, 3000))


@pytest.fixture
def file(quantizer, tmp_path):
    path = tmp_path / "quantizer.safetensors"
    tensors = {f"rotation.{i}": r for i, r in enumerate(quantizer.rotations)}
    save_file(tensors | {f"centroids.{i}": c for i, c in enumerate(quantizer.centroids)}, path)
    return path


@pytest.fixture
def catalog(tmp_path):
    with Catalog.create(tmp_path / "db") as catalog:
        yield catalog


def write(catalog, *found):
    root = catalog.add_root(catalog.folder)
    before = {row.path for row in catalog.images()}
    names = [f"{len(before) + i}.jpg" for i in range(len(found))]
    catalog.write(
        [Entry(root, name, None, STATE, INFO, one) for name, one in zip(names, found, strict=True)]
    )
    ids = {row.path: row.id for row in catalog.images()}
    return [ids[name] for name in names]


def use(catalog, file):
    sha256 = quantization.store(catalog.folder, file)
    with catalog.transaction():
        catalog.set_meta(quantization.KEY, sha256)
    return sha256


def test_a_catalogue_quantizes_what_it_writes(catalog, file, features, quantizer):
    given = features()
    (plain,) = write(catalog, Extraction(given, None))
    sha256 = use(catalog, file)
    (quantized,) = write(catalog, Extraction(given, None))
    np.testing.assert_array_equal(catalog.features(plain).keypoints, given.keypoints)
    expected = quantizer.decode(*quantizer.encode(given.descriptors))
    np.testing.assert_array_equal(catalog.features(quantized).descriptors, expected)
    some = catalog.features(quantized, strongest=10)
    np.testing.assert_array_equal(some.descriptors, expected[:10])
    np.testing.assert_array_equal(
        catalog.features(plain, strongest=10).keypoints, given.keypoints[:10]
    )
    assert catalog.quantizers() == [sha256]
    assert catalog.unquantized() == [plain]


def test_a_copy_is_not_quantized_anew(catalog, file, features):
    use(catalog, file)
    (first,) = write(catalog, Extraction(features(), np.ones(4, np.float32)))
    stored = catalog.stored(first)
    assert isinstance(stored, StoredExtraction)
    (second,) = write(catalog, stored)
    rows = [
        catalog.execute(f"SELECT * FROM {table} WHERE image_id = {image_id}")[0][1:]
        for image_id in (first, second)
        for table in ("features", "vectors")
    ]
    assert rows[:2] == rows[2:]


def test_what_was_written_in_full_is_quantized(catalog, file, features, quantizer):
    given = [features() for _ in range(3)]
    ids = write(catalog, *(Extraction(one, None) for one in given))
    catalog.quantize(quantization.store(catalog.folder, file), batch=2)
    assert catalog.unquantized() == []
    for image_id, one in zip(ids, given, strict=True):
        expected = quantizer.decode(*quantizer.encode(one.descriptors))
        np.testing.assert_array_equal(catalog.features(image_id).descriptors, expected)


def test_a_lost_quantizer_says_so(catalog, file, features, tmp_path):
    sha256 = use(catalog, file)
    (image_id,) = write(catalog, Extraction(features(), None))
    quantization.file_of(catalog.folder, sha256).unlink()
    with (
        Catalog.open(tmp_path / "db") as again,
        pytest.raises(
            DatabaseCorruptError, match=r"quantizer .* is missing.*locate check --repair"
        ),
    ):
        again.features(image_id)


def test_a_damaged_row_is_noticed(catalog, file, features):
    use(catalog, file)
    (image_id,) = write(catalog, Extraction(features(), None))
    for column in ("keypoints", "scores", "descriptors"):
        (blob,) = catalog.execute(f"SELECT {column} FROM features")[0]
        for bad in (blob[:-1], blob[:-1] + bytes([blob[-1] ^ 1])):
            with catalog.transaction():
                catalog.execute(f"UPDATE features SET {column} = ?", [bad])
            with pytest.raises(DatabaseCorruptError, match="damaged"):
                catalog.features(image_id)
        with catalog.transaction():
            catalog.execute(f"UPDATE features SET {column} = ?", [blob])
    assert len(catalog.features(image_id)) == 200


def test_files_that_are_no_quantizer(tmp_path, quantizer):
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    with pytest.raises(InputError, match="is no quantizer"):
        Quantizer.read(text)
    other = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32), "bias": np.zeros(3, np.float32)}, other)
    with pytest.raises(InputError, match="is no quantizer"):
        Quantizer.read(other)
    with pytest.raises(InputError, match="does not fit a rotation to 5"):
        Quantizer((np.zeros((5, 8), np.float32),), (np.zeros((4, 256, 2), np.float32),))
