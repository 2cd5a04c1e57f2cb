"""The schema of the catalogue, grown by numbered migrations.

Each runs once, in a transaction of its own together with the record that it ran. Never edit one that
was released: add the next.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("locate")
SCHEMA_VERSION = 4  # number of the last migration; SQLite's user_version repeats it
FIRST = "m001_images_features_vectors"  # a database without the others can still be read


@migrations()
def m001_images_features_vectors(db: Database) -> None:
    db.table("meta").create({"key": str, "value": str}, pk="key")
    db.table("roots").create({"id": int, "path": str}, pk="id", not_null={"path"})
    db.table("roots").create_index(["path"], unique=True)
    # Raw SQL where sqlite-utils has no word for it. AUTOINCREMENT: an id is never used again, so a
    # stale derived file cannot give one image the vector of another.
    db.execute(
        """CREATE TABLE images (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            root_id INTEGER NOT NULL REFERENCES roots(id),
            path TEXT NOT NULL,          -- relative to the root, forward slashes
            sha256 TEXT, bytes INTEGER, mtime_ns INTEGER,
            width INTEGER, height INTEGER,  -- pixels, upright
            orientation INTEGER,         -- the EXIF tag that was applied
            taken_at TEXT, camera TEXT, focal_mm REAL, focal_35mm REAL,
            latitude REAL, longitude REAL, altitude REAL,
            label TEXT,
            status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
            error TEXT, indexed_at TEXT)"""
    )
    db.table("images").create_index(["root_id", "path"], unique=True)
    db.table("images").create_index(["sha256"])
    db.table("images").create_index(["label"])
    db.execute(
        """CREATE TABLE features (
            image_id INTEGER PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE,
            count INTEGER NOT NULL, dim INTEGER NOT NULL,
            keypoints BLOB NOT NULL, scores BLOB NOT NULL, descriptors BLOB NOT NULL,
            checksum TEXT NOT NULL)"""
    )
    db.execute(
        """CREATE TABLE vectors (
            image_id INTEGER PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE,
            dim INTEGER NOT NULL, vector BLOB NOT NULL, checksum TEXT NOT NULL)"""
    )
    db.execute("PRAGMA user_version = 1")


@migrations()
def m002_digital_zoom_and_size_by_exif(db: Database) -> None:
    """What photos that were looked at before said of these is not known."""
    for column in ("digital_zoom REAL", "exif_width INTEGER", "exif_height INTEGER"):
        db.execute(f"ALTER TABLE images ADD COLUMN {column}")
    db.execute("PRAGMA user_version = 2")


@migrations()
def m003_masks(db: Database) -> None:
    """What was looked at before had none."""
    db.execute("ALTER TABLE images ADD COLUMN mask TEXT NOT NULL DEFAULT ''")
    db.execute("PRAGMA user_version = 3")


@migrations()
def m004_quantizers(db: Database) -> None:
    """What was written before is not quantized."""
    db.execute("ALTER TABLE features ADD COLUMN quantizer TEXT NOT NULL DEFAULT ''")
    db.execute("PRAGMA user_version = 4")
