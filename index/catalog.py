"""The catalogue: one SQLite file that is the single truth of a database folder.

Everything else in the folder is derived from it. It runs in WAL mode: readers see the last committed
state while a writer works, and a kill at any instant leaves that state.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlite_utils import Database

from index.migrations import FIRST, SCHEMA_VERSION, migrations
from index.quantization import KEY, Quantizer
from index.quantization import load as load_quantizer
from index.records import (
    Entry,
    FileState,
    ImageRow,
    StoredExtraction,
    feature_row,
    features_from,
    vector_row,
)
from locate.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMismatchError,
    DatabaseMissingError,
    InputError,
)
from locate.types import Array, Extraction, Features, PhotoInfo

FILE = "catalog.sqlite"
_INFO_COLUMNS = [
    f.name for f in fields(PhotoInfo) if f.name not in ("size", "exif_size", "projection")
]


class Catalog(AbstractContextManager["Catalog"]):
    """Open one with `Catalog.create` or `Catalog.open` (which is not `writable`); it is a context
    manager. One connection; threads take turns on it."""

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, *, writable: bool = False
    ) -> None:
        self.folder, self.writable = folder, writable
        self._db = Database(connection)
        self._lock = threading.RLock()
        self._db.execute("PRAGMA foreign_keys=ON")
        self._quantizers: dict[str, Quantizer] = {}

    @classmethod
    def create(cls, folder: Path) -> Catalog:
        """Open for writing, making the folder and the schema as needed. Hold the lock."""
        with _translate_errors(folder), ExitStack() as on_error:
            folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(folder / FILE, timeout=30, check_same_thread=False)
            on_error.callback(connection.close)
            connection.execute("PRAGMA page_size=4096")  # rows are 100 kB, the last page half empty
            connection.execute("PRAGMA journal_mode=WAL")
            # Survives a kill; on a power failure WAL may lose the last commits, never the file.
            connection.execute("PRAGMA synchronous=NORMAL")
            catalog = cls(folder, connection, writable=True)
            catalog._refuse_newer()
            migrations.apply(catalog._db)
            on_error.pop_all()
        return catalog

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """Open for reading only: nothing this object does can change the database."""
        file = folder / FILE
        if not file.is_file():
            raise DatabaseMissingError(
                f"no database at {folder}; make one with: locate build-index PHOTOS --index {folder}"
            )
        with _translate_errors(folder), ExitStack() as on_error:
            # WAL readers keep their marks in a file beside the database. In a folder that cannot
            # be written nobody else writes either, and SQLite can do without.
            mode = "mode=ro" if os.access(folder, os.W_OK) else "immutable=1"
            uri = f"{file.resolve().as_uri()}?{mode}"
            connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
            on_error.callback(connection.close)
            catalog = cls(folder, connection)
            catalog._refuse_newer()
            # Later migrations only add what may be missing; the first makes the tables.
            if any(m.name == FIRST for m in migrations.pending(catalog._db)):
                raise DatabaseMissingError(
                    f"{folder} holds no finished database (or one of an older version); "
                    "run locate build-index again"
                )
            on_error.pop_all()
        return catalog

    def close(self) -> None:
        self._db.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_newer(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise DatabaseMismatchError(
                f"{self.folder} was written by a newer version of locate; upgrade locate"
            )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock, _translate_errors(self.folder):
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; `DatabaseError` with the cure on a full disk and the like."""
        with self._turn(), self._db.atomic():
            yield

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A plain query, for this module and `index.check`."""
        with self._turn():
            return list(self._db.execute(sql, list(values)).fetchall())

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """A query whose rows go by the names of their columns."""
        with self._turn():
            return list(self._db.query(sql, list(values)))

    def _rows_of(self, image_ids: Sequence[int], sql: str) -> Iterator[dict[str, Any]]:
        """A query that ends in the name of a column with ids, of some of these alone. In parts, since
        SQLite takes at most 32,766 values in one statement."""
        for start in range(0, len(image_ids), 10_000):
            part = image_ids[start : start + 10_000]
            yield from self._rows(f"{sql} IN ({', '.join('?' * len(part))})", part)

    def meta(self, key: str) -> str | None:
        rows = self.execute("SELECT value FROM meta WHERE key = ?", [key])
        return str(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        self._db.table("meta").upsert({"key": key, "value": value}, pk="key")

    @property
    def generation(self) -> int:
        """Grows with every committed change of the vectors; derived files carry it."""
        return int(self.meta("generation") or 0)

    def _next_generation(self) -> None:
        self.set_meta("generation", str(self.generation + 1))

    def counts(self) -> dict[str, int]:
        (row,) = self._rows(
            """SELECT count(*) FILTER (WHERE status = 'ok') AS ok,
                count(*) FILTER (WHERE status = 'failed') AS failed,
                count(DISTINCT label) FILTER (WHERE status = 'ok') AS labels,
                (SELECT count(*) FROM vectors) AS vectors,
                (SELECT coalesce(sum(count), 0) FROM features) AS features
            FROM images"""
        )
        return {key: int(value) for key, value in row.items()}

    def bytes_per_image(self) -> dict[str, int]:
        """What an image takes on average, by kind; nothing for kinds that there are none of."""
        (row,) = self._rows(
            """SELECT (SELECT avg(length(keypoints)) FROM features) AS keypoints,
                (SELECT avg(length(scores)) FROM features) AS scores,
                (SELECT avg(length(descriptors)) FROM features) AS descriptors,
                (SELECT avg(length(vector)) FROM vectors) AS "global descriptor" """
        )
        return {kind: round(value) for kind, value in row.items() if value is not None}

    def add_root(self, root: Path) -> int:
        """The id of a folder that image paths are relative to. Stored relative to the database's
        parent when it lies below it, so that both can be moved together."""
        absolute = root.resolve()
        try:
            absolute.as_posix().encode()
        except UnicodeEncodeError:
            why = f"the name of {root!r} is not valid UTF-8"
            raise InputError(f"{why}; rename the folder") from None
        home = self.folder.resolve().parent
        below = absolute.is_relative_to(home)
        stored = (absolute.relative_to(home) if below else absolute).as_posix()
        with self.transaction():
            found = self.execute("SELECT id FROM roots WHERE path = ?", [stored])
            return int(found[0][0]) if found else self._insert("roots", {"path": stored})

    def roots(self) -> dict[int, Path]:
        """Root folders, absolute, by id."""
        home = self.folder.resolve().parent
        return {i: home / path for i, path in self.execute("SELECT id, path FROM roots")}

    def images(self, status: str | None = None) -> list[ImageRow]:
        """All images in the order of their path."""
        where, values = ("WHERE status = ?", [status]) if status else ("", [])
        rows = self._rows(f"SELECT * FROM images {where} ORDER BY path, id", values)
        return [_image(row) for row in rows]

    def image(self, image_id: int) -> ImageRow:
        rows = self.rows([image_id])
        if not rows:
            why = f"image {image_id} is not in the catalogue"
            raise DatabaseCorruptError(f"{why}; run: locate check --repair")
        return rows[image_id]

    def rows(self, image_ids: Sequence[int]) -> dict[int, ImageRow]:
        """Several images by id; one that was removed a moment ago is not among them."""
        found = self._rows_of(image_ids, "SELECT * FROM images WHERE id")
        return {row["id"]: _image(row) for row in found}

    def contents(self) -> dict[tuple[str, str], int]:
        """Ids of the images of status "ok" by the sha256 of their file and of their mask."""
        rows = self.execute("SELECT sha256, mask, id FROM images WHERE status = 'ok'")
        return {(sha256, mask): image_id for sha256, mask, image_id in rows}

    def write(self, entries: Sequence[Entry]) -> None:
        """Insert or replace images with what was seen in them, in one transaction."""
        if not entries:
            return
        with self.transaction():
            changed = False
            for entry in entries:
                changed |= self._delete(entry) or entry.extraction is not None
                image_id = self._write_image(entry)
                for table, row in self._seen(entry.extraction).items():
                    self._insert(table, {"image_id": image_id, **row})
            if changed:  # a file that failed again must not make the search index stale
                self._next_generation()

    def _seen(self, extraction: Extraction | StoredExtraction | None) -> dict[str, dict[str, Any]]:
        """Rows by table."""
        if extraction is None:
            return {}
        if isinstance(extraction, StoredExtraction):
            rows = {"features": extraction.features, "vectors": extraction.vector}
            return {table: row for table, row in rows.items() if row is not None}
        found, sha256 = {}, self.meta(KEY) or ""
        if extraction.features is not None:
            quantizer = self._quantizer(sha256)
            found["features"] = feature_row(extraction.features, quantizer, sha256)
        if extraction.global_descriptor is not None:
            found["vectors"] = vector_row(extraction.global_descriptor)
        return found

    def quantizers(self) -> list[str]:
        """Hashes of those that rows were written with, and of the one that they are written with now."""
        stored: list[tuple[Any, ...]] = []
        if self._knows_quantizers():
            stored = self.execute("SELECT DISTINCT quantizer FROM features WHERE quantizer <> ''")
        return sorted({*(row[0] for row in stored), self.meta(KEY) or ""} - {""})

    def _quantizer(self, sha256: str) -> Quantizer | None:
        """The one of this hash; None for "". `DatabaseCorruptError` if it is gone."""
        if not sha256:
            return None
        with self._lock:
            if sha256 not in self._quantizers:
                self._quantizers[sha256] = load_quantizer(self.folder, sha256)
            return self._quantizers[sha256]

    def _delete(self, entry: Entry) -> bool:
        """Delete the old row, and with it by cascade what was seen; whether anything was."""
        where = "WHERE root_id = ? AND path = ?"
        key = [entry.root_id, entry.path]
        old = self._db.execute(f"SELECT status FROM images {where}", key).fetchone()
        self._db.execute(f"DELETE FROM images {where}", key)
        return old is not None and old[0] == "ok"

    def _write_image(self, entry: Entry) -> int:
        row: dict[str, Any] = {
            **{name: getattr(entry, name) for name in ("root_id", "path", "label", "error")},
            **asdict(entry.file),
            "status": "failed" if entry.error else "ok",
            "indexed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if entry.info is not None:
            row["width"], row["height"] = entry.info.size
            row |= {name: getattr(entry.info, name) for name in _INFO_COLUMNS}
            row["exif_width"], row["exif_height"] = entry.info.exif_size or (None, None)
        return self._insert("images", row)

    def _insert(self, table: str, row: Mapping[str, Any]) -> int:
        # Not sqlite-utils' insert: it inspects the table anew for every row.
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        cursor = self._db.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values())
        )
        return int(cursor.lastrowid or 0)

    def touch(self, changes: Iterable[tuple[int, FileState, str | None]]) -> None:
        """New modification time or label of images (by id) whose content is the same."""
        with self.transaction():
            for image_id, file, label in changes:
                self._db.execute(
                    "UPDATE images SET bytes = ?, mtime_ns = ?, label = ? WHERE id = ?",
                    [file.bytes, file.mtime_ns, label, image_id],
                )

    def remove(self, image_ids: Sequence[int]) -> None:
        """Delete images and what was seen in them."""
        with self.transaction():
            seen = 0
            for image_id in image_ids:
                seen += self._db.execute(
                    "DELETE FROM images WHERE id = ? AND status = 'ok'", [image_id]
                ).rowcount
                self._db.execute("DELETE FROM images WHERE id = ?", [image_id])
            if seen:
                self._next_generation()

    def remove_orphans(self) -> int:
        """Delete features and vectors that belong to no image of status "ok"; how many there were."""
        removed = 0
        with self.transaction():
            for table in ("features", "vectors"):
                removed += self._db.execute(
                    f"""DELETE FROM {table} WHERE image_id NOT IN
                    (SELECT id FROM images WHERE status = 'ok')"""
                ).rowcount
            if removed:
                self._next_generation()
        return removed

    def features(self, image_id: int, strongest: int | None = None) -> Features:
        """The local features of one image, checksum verified: all, or so many of the strongest."""
        rows = self._rows(
            """SELECT features.*, path, width, height FROM features
            JOIN images ON images.id = image_id WHERE image_id = ?""",
            [image_id],
        )
        if not rows:
            why = f"image {image_id} has no stored features"
            raise DatabaseCorruptError(f"{why}; run: locate check --repair")
        quantizer = self._quantizer(rows[0].get("quantizer") or "")
        return features_from(rows[0], quantizer, strongest)

    def unquantized(self) -> list[int]:
        """Ids of the images whose features no quantizer wrote."""
        where = "WHERE quantizer = ''" if self._knows_quantizers() else ""
        rows = self.execute(f"SELECT image_id FROM features {where} ORDER BY image_id")
        return [row[0] for row in rows]

    def _knows_quantizers(self) -> bool:
        """Not if an older version wrote it and it is only read now."""
        return any(row[1] == "quantizer" for row in self.execute("PRAGMA table_info(features)"))

    def quantize(self, sha256: str, batch: int = 64) -> None:
        """Write features by the quantizer of this hash, a copy of which lies in the folder, from now on;
        and anew those that no quantizer wrote. What they needed more is given back."""
        with self.transaction():
            self.set_meta(KEY, sha256)
        quantizer, todo = self._quantizer(sha256), self.unquantized()
        for start in range(0, len(todo), batch):
            with self.transaction():
                for image_id in todo[start : start + batch]:
                    row = feature_row(self.features(image_id), quantizer, sha256)
                    columns = ", ".join(f"{name} = ?" for name in row)
                    values = [*row.values(), image_id]
                    self._db.execute(f"UPDATE features SET {columns} WHERE image_id = ?", values)
        with self._turn():
            self._db.execute("VACUUM")

    def stored(self, image_id: int) -> StoredExtraction:
        """Everything that was seen in one image, as it is stored; `DatabaseCorruptError` if the features
        are damaged."""
        found = []
        for table in ("features", "vectors"):
            rows = self._rows(f"SELECT * FROM {table} WHERE image_id = ?", [image_id])
            found.append({k: v for k, v in rows[0].items() if k != "image_id"} if rows else None)
        if found[0] is not None:
            self.features(image_id)
        return StoredExtraction(*found)

    def extraction(self, image_id: int) -> Extraction:
        """Everything that was seen in one image."""
        has_features = self.execute("SELECT 1 FROM features WHERE image_id = ?", [image_id])
        return Extraction(
            features=self.features(image_id) if has_features else None,
            global_descriptor=self.vectors_of([image_id]).get(image_id),
        )

    def vectors_of(self, image_ids: Sequence[int]) -> dict[int, Array]:
        """Global descriptors by image id, each (D,) float32."""
        rows = self._rows_of(image_ids, "SELECT image_id, vector FROM vectors WHERE image_id")
        return {row["image_id"]: np.frombuffer(row["vector"], "<f4") for row in rows}

    def vectors(self, chunk: int = 16384) -> Iterator[tuple[Array, Array]]:
        """All global descriptors in chunks: ids (n,) int64 ascending, vectors (n, D) float32."""
        last = -1
        while rows := self.execute(
            "SELECT image_id, vector FROM vectors WHERE image_id > ? ORDER BY image_id LIMIT ?",
            [last, chunk],
        ):
            last = rows[-1][0]
            try:
                matrix = np.stack([np.frombuffer(row[1], "<f4") for row in rows])
            except ValueError as error:
                raise DatabaseCorruptError(
                    f"stored global descriptors differ in length ({error}); "
                    "run: locate check --repair"
                ) from None
            yield np.array([row[0] for row in rows], np.int64), matrix

    def feature_counts(self) -> tuple[Array, Array]:
        """Ids of the images that have local features, ascending, and how many: both int64."""
        rows = self.execute(
            "SELECT image_id, count FROM features WHERE count > 0 ORDER BY image_id"
        )
        table = np.array(rows, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def descriptors(
        self, image_ids: Array, chunk: int = 32768
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Local descriptors of some images, in their order and in chunks of about `chunk`: ids (n,)
        and counts (n,) int64, and the descriptors of one image after the other, float32. Images that
        have none (any more) are left out, and damaged ones, of which `index.check` tells."""
        ids: list[int] = []
        matrices: list[Array] = []
        for image_id in image_ids:
            with suppress(DatabaseCorruptError):
                matrix = self.features(int(image_id)).descriptors
                if len(matrix):
                    ids.append(int(image_id))
                    matrices.append(matrix)
            if sum(map(len, matrices)) >= chunk:
                yield _joined(ids, matrices)
                ids, matrices = [], []
        if ids:
            yield _joined(ids, matrices)


def _joined(ids: list[int], matrices: list[Array]) -> tuple[Array, Array, Array]:
    counts = np.array([len(matrix) for matrix in matrices], np.int64)
    try:
        return np.array(ids, np.int64), counts, np.concatenate(matrices).astype(np.float32)
    except ValueError as error:
        raise DatabaseCorruptError(
            f"stored local descriptors differ in length ({error}); run: locate check --repair"
        ) from None


def _image(row: dict[str, Any]) -> ImageRow:
    # A database that an older version wrote, and that is only read now, lacks the later columns.
    details: dict[str, Any] = {name: row.get(name) for name in _INFO_COLUMNS}
    details["orientation"] = details["orientation"] or 1
    if row.get("exif_width") and row.get("exif_height"):
        details["exif_size"] = (row["exif_width"], row["exif_height"])
    info = PhotoInfo(size=(row["width"] or 0, row["height"] or 0), **details)
    return ImageRow(
        **{key: row[key] for key in ("id", "root_id", "path", "label", "status", "error")},
        file=FileState(
            row["sha256"] or "", row["bytes"] or 0, row["mtime_ns"] or 0, row.get("mask") or ""
        ),
        info=info,
        indexed_at=row["indexed_at"] or "",
    )


@contextmanager
def _translate_errors(folder: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours, with the cure."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            cure = "free some space and run the same command again; nothing committed is lost"
        elif "locked" in text or "busy" in text:
            cure = "another program holds it; try again when that has finished"
        elif "readonly" in text or "unable to open" in text:
            cure = "check the permissions of the folder"
        else:
            cure = "run: locate check"
        raise DatabaseError(f"{folder / FILE}: {text}; {cure}") from error
    except sqlite3.DatabaseError as error:
        raise DatabaseCorruptError(
            f"{folder / FILE}: {error}; the file is damaged: move the folder away and run "
            "locate build-index again"
        ) from error
    except OSError as error:
        why = f"{folder}: {error.strerror}"
        raise DatabaseError(f"{why}; check the disk and permissions") from error
