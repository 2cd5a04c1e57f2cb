"""From paths to labels."""

from __future__ import annotations

import pytest

from locate.errors import InputError, UnknownNameError
from pipelines.indexing.labels import RULES, label_rule


@pytest.mark.parametrize(
    ("rule", "path", "label"),
    [
        ("folder", "paris/louvre/1.jpg", "paris"),
        ("folder", "louvre/1.jpg", "louvre"),
        ("folder", "1.jpg", None),
        ("parent", "paris/louvre/1.jpg", "louvre"),
        ("parent", "louvre/1.jpg", "louvre"),
        ("parent", "1.jpg", None),
        ("name", "paris/louvre_12.jpg", "louvre"),
        ("name", "louvre 12.jpg", "louvre"),
        ("name", "louvre-0012.jpeg", "louvre"),
        ("name", "all_souls_000026.jpg", "all_souls"),
        ("name", "pier39_000026.jpg", "pier39"),
        ("name", "louvre.jpg", "louvre"),
        ("name", "st.pauls.7.jpg", "st.pauls"),
        ("name", "0123.jpg", None),
        ("name", "Köln Dom 3.jpg", "Köln Dom"),
        ("none", "paris/louvre/1.jpg", None),
        (r"regex:^(\w+)-", "louvre-north-1.jpg", "louvre"),
        (r"regex:([^/]+)/[^/]+$", "paris/louvre/1.jpg", "louvre"),
        (r"regex:place:(\d+)", "place:17/a.jpg", "17"),  # only the first colon divides
        (r"regex:^(\w+)-", "1.jpg", None),
        (r"regex:(x)?.jpg", "1.jpg", None),  # the group took no part
        (r"regex:(x*).jpg", "1.jpg", None),  # an empty label is none
    ],
)
def test_rules(rule, path, label):
    assert label_rule(rule)(path) == label


@pytest.mark.parametrize(
    "text", ["folders", "", "csv", "csv:", "regex:", "folder:1", "none:x", "N"]
)
def test_unknown_rule_names_the_known_ones(text):
    with pytest.raises(UnknownNameError) as caught:
        label_rule(text)
    assert repr(text) in str(caught.value)
    for rule in RULES:
        assert rule in str(caught.value)


def test_regex_that_cannot_be_used():
    with pytest.raises(InputError, match=r"regex:\(a is not a regular expression"):
        label_rule("regex:(a")
    with pytest.raises(InputError, match="regex:abc needs a group in brackets"):
        label_rule("regex:abc")


@pytest.mark.parametrize("column", ["label", "landmark"])
def test_csv_by_path_then_by_name(tmp_path, column):
    table = tmp_path / "labels.csv"
    table.write_text(
        f"image,{column},note\na/1.jpg,Louvre,x\n1.jpg,Elsewhere,\n3.jpg,,\n"
        '"b/2, too.jpg","Dom, Köln",\n',
        encoding="utf-8",
    )
    rule = label_rule(f"csv:{table}")
    assert rule("a/1.jpg") == "Louvre"  # the path wins over the name
    assert rule("z/1.jpg") == "Elsewhere"
    assert rule("b/2, too.jpg") == "Dom, Köln"
    assert rule("3.jpg") is None  # an empty cell
    assert rule("a/9.jpg") is None


def test_csv_of_a_spreadsheet_begins_with_a_mark(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbfimage,label\r\n1.jpg,Louvre\r\n")
    assert label_rule(f"csv:{table}")("1.jpg") == "Louvre"


def test_csv_with_short_and_long_rows(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\n1.jpg\n2.jpg,Louvre,too,many\n")
    rule = label_rule(f"csv:{table}")
    assert rule("1.jpg") is None
    assert rule("2.jpg") == "Louvre"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file,label\n1.jpg,x\n",
            "needs a header with columns image and label, found: file, label",
        ),
        (b"image,place\n1.jpg,x\n", "found: image, place"),
        (b"1.jpg,Louvre\n2.jpg,Louvre\n", "found: 1.jpg, Louvre"),
        (b"", "found: nothing"),
        (b"image,label\n\xff\xfe.jpg,x\n", "cannot read the label table"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, content, message):
    table = tmp_path / "labels.csv"
    table.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        label_rule(f"csv:{table}")
    assert str(table) in str(caught.value)


def test_csv_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the label table .*gone\.csv"):
        label_rule(f"csv:{tmp_path / 'gone.csv'}")
    with pytest.raises(InputError, match="cannot read the label table"):
        label_rule(f"csv:{tmp_path}")
