"""Ground truth from a pickle: every way that numpy writes arrays, and nothing that runs."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from locate.datasets.safe_pickle import load_plain
from locate.errors import InputError

GROUND_TRUTH = {
    "imlist": ["all_souls_000013", "ünïcode"],
    "gnd": [
        {
            "bbx": np.array([136.5, 34.1, 648.5, 955.7]),
            "easy": np.array([0, 2], np.int64),
            "hard": np.array([], np.float64),
            "junk": [1],
            "set": {1, 2},
            "tuple": (None, True, 2**70, b"\xff"),
        }
    ],
}
PLAIN = {
    "imlist": ["all_souls_000013", "ünïcode"],
    "gnd": [
        {
            "bbx": [136.5, 34.1, 648.5, 955.7],
            "easy": [0, 2],
            "hard": [],
            "junk": [1],
            "set": {1, 2},
            "tuple": (None, True, 2**70, b"\xff"),
        }
    ],
}


def load(tmp_path, content):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(content)
    return load_plain(file)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("library", [b"numpy.core", b"numpy._core"])
def test_every_protocol_of_both_numpys(tmp_path, protocol, library):
    content = pickle.dumps(GROUND_TRUTH, protocol)
    if protocol < 4:  # later ones write the length of names
        content = content.replace(b"numpy._core", library)
    assert load(tmp_path, content) == PLAIN


def test_shapes_types_and_byte_orders(tmp_path):
    grid = np.arange(6).reshape(2, 3)
    objects = np.array([None, 0], dtype=object)
    objects[0] = np.array([1, 2])
    cases = [
        grid,
        np.asfortranarray(grid),
        grid.astype(">i2"),
        grid.astype("<f4")[0],
        np.array([True, False]),
        np.uint8([255]),
        objects,
        np.array(3.5),
    ]
    for protocol in (2, 5):
        found = load(tmp_path, pickle.dumps([*cases, np.float64(0.5), np.int32(7)], protocol))
        assert found[:7] == [c.tolist() for c in cases[:6]] + [[[1, 2], 0]]
        assert found[7:] == [[3.5], 0.5, 7]


def test_a_pickle_of_python_2(tmp_path):
    """Bytes are text there, and beyond ASCII in any array."""
    raw = struct.pack("<2q", 200, -3)
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02i8K\x00K\x01tR(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + raw + b"tb."
    )
    assert load(tmp_path, content) == [200, -3]


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_nothing_in_a_pickle_is_run(tmp_path):
    mark = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    calls = [
        (os.system, f"touch {mark}"),
        (eval, attack),
        (exec, attack),
        (pickle.loads, pickle.dumps(Runs(os.system, f"touch {mark}"))),
    ]
    for call in calls:
        pickle.loads(pickle.dumps(Runs(*call)))  # it works where it is let
        assert mark.exists()
        mark.unlink()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for call in calls:
            for content in (Runs(*call), {"gnd": [{"easy": Runs(*call)}]}):
                with pytest.raises(InputError, match="it was not run"):
                    load(tmp_path, pickle.dumps(content, protocol))
    assert not mark.exists()


def test_what_hides_behind_numpy_is_refused(tmp_path):
    """Some filters let all of `numpy` through, which can run code as well."""
    mark = tmp_path / "ran"
    for name in ("numpy.testing._private.utils\nrunstring", "numpy.core.numeric\nload"):
        code = f"open({str(mark)!r}, 'w')".encode()
        content = b"c" + name.encode() + b"\n(V" + code + b"\n}tR."
        with pytest.raises(InputError, match="asks to run numpy"):
            load(tmp_path, content)
    assert not mark.exists()


def array_of(code, shape, raw, state=b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"):
    """A pickle of one array with a dtype of our choice."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(" + shape + b"tcnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"
        b"" + state + b"\x89U" + bytes([len(raw)]) + raw + b"tb."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_of(b"i8", b"J\x00\x00\x00\x40", b"\0" * 8), "1 values for an array of shape"),
        (array_of(b"i8", b"K\x02", b"\0" * 9), "multiple of element size"),
        (array_of(b"V8", b"K\x01", b"\0" * 8), "an array of V8"),
        (array_of(b"O8", b"K\x01", b"\0" * 8), "8 values for an array of shape"),
        (
            array_of(b"i8", b"K\x01", b"\0" * 8, b"(K\x03U\x01<N(U\x01atNK\x08K\x01K\x00tb"),
            "an array of records",
        ),
        (array_of(b"i8", b"K\x01", b"\0" * 8, b"(K\x03U\x01!NNNK\x08K\x01K\x00tb"), "byte order"),
        (b"", "no readable pickle"),
        (b"hello", "no readable pickle"),
        (pickle.dumps(GROUND_TRUTH)[:-40], "no readable pickle"),
        (b"c_codecs\nencode\n(V\\\nVzlib\ntR.", "bytes as zlib"),
        (b"c_codecs\nencode\n}(Vx\nK\x01ub.", "changes a function"),
    ],
)
def test_forged_and_damaged_ones(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, content)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_plain(tmp_path / "gnd.pkl")
