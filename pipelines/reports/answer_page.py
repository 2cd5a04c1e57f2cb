"""Answers as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from locate.errors import ImageError
from locate.pixels import fit_size
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Answer, Candidate, Photo
from locate.util.files import atomic_write
from locate.util.printable import in_html as escape
from pipelines.reports.canvas import VERDICT_COLORS
from pipelines.reports.match_pictures import draw_candidate
from pipelines.reports.picture_io import Picture, encode_jpeg, query_picture, read_picture

MAX_DRAWINGS = 5  # of one query
_DRAWING_WIDTH, _THUMB_SIDE, _QUERY_SIDE = 1120, 132, 240  # pixels
_NONE = "\u2013"
_ORDER = (MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED)


def write_report(
    answers: Sequence[Answer],
    file: Path,
    *,
    title: str = "Where was this?",
    failed: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the answers as a page for people.

    Each query has its verdict and reason, a table of candidates and drawings of the matches: of
    the candidates with evidence, at most `MAX_DRAWINGS`, or of the most similar failure, so that
    one sees why nothing matched. Photos that are gone become grey panels that say so.

    Args:
        file: replaced when the page is complete; its folder is made if need be.
        failed: (photo, reason) of the photos that could not be asked for.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as out:
        # Piece by piece: the pictures of thousands of queries do not fit into memory.
        for piece in _page(answers, title, failed):
            out.write(piece.encode("utf-8", "replace"))  # file names may hold broken characters


def _page(
    answers: Sequence[Answer], title: str, failed: Sequence[tuple[str, str]]
) -> Iterator[str]:
    yield (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
    )
    yield _header(answers, title, len(failed))
    yield "<main>\n"
    for number, answer in enumerate(answers, 1):
        yield from _section(answer, number)
    if failed:
        yield _failures(failed)
    yield "</main>\n</body>\n</html>\n"


def _header(answers: Sequence[Answer], title: str, failures: int) -> str:
    counts = {verdict: sum(a.verdict == verdict for a in answers) for verdict in _ORDER}
    if not counts[UNVERIFIED]:
        del counts[UNVERIFIED]  # the rule is that answers are verified
    total = len(answers) + failures
    chips = [_filter("all", "photo" if total == 1 else "photos", total, checked=True)]
    chips += [_filter(_css_name(verdict), verdict, count) for verdict, count in counts.items()]
    chips.append(_filter("failed", "failed", failures))
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f"<nav aria-label='show only'>\n{''.join(chips)}</nav>\n</header>\n"
    )


def _filter(name: str, text: str, count: int, *, checked: bool = False) -> str:
    """A count that shows only its queries when clicked; the style sheet does it."""
    state = (" checked" if checked else "") + ("" if count or checked else " disabled")
    return (
        f"<label class='chip {name}'><input type=radio name=show id=show-{name}{state}>"
        f"<b>{count}</b> {escape(text)}</label>\n"
    )


def _section(answer: Answer, number: int) -> Iterator[str]:
    query = query_picture(answer.photo)
    name = answer.photo.name if answer.photo else f"pixels in memory ({number})"
    path = str(answer.photo) if answer.photo else ""
    turned = (
        f"<p class=quiet>recognised after turning by {answer.rotation}° counter-clockwise</p>"
        if answer.rotation
        else ""
    )
    label = f"<span class=label>{escape(answer.label)}</span>" if answer.label else ""
    yield (
        f"<section class='query {_css_name(answer.verdict)}' id=q{number}>\n<div class=top>\n"
        f"{_thumbnail(query, _QUERY_SIDE, name)}\n<div class=facts>\n"
        f"<h2 title='{escape(path)}'>{escape(name)}</h2>\n"
        f"<p class=verdict>{_badge(answer.verdict)} {label}</p>\n"
        f"<p>{escape(_sentence(answer.reason))}</p>\n{turned}"
        f"<p class=quiet>{answer.query_features} local features · {_times(answer)}</p>\n"
        "</div>\n</div>\n"
    )
    if answer.candidates:
        yield _table(answer.candidates)
    drawn = _to_draw(answer)
    yield from _drawings(answer, query, drawn)
    yield from _thumbnails([c for c in answer.candidates if c not in drawn])
    yield "</section>\n"


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


def _times(answer: Answer) -> str:
    """Time by part, the total first; parts that round to nothing are left out."""
    total = answer.seconds.get("total", sum(answer.seconds.values()))
    parts = [
        f"{escape(part)} {_duration(seconds)}"
        for part, seconds in answer.seconds.items()
        if part != "total" and seconds >= 0.0005
    ]
    return f"{_duration(total)}" + (f" ({', '.join(parts)})" if parts else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _table(candidates: Sequence[Candidate]) -> str:
    labelled = any(c.label for c in candidates)  # a column of dashes would only take room
    head = (
        "<th class=number>#</th><th>verdict</th>"
        + ("<th>label</th>" if labelled else "")
        + "<th>image</th><th class=number>inliers</th><th class=number>similarity</th>"
        "<th class=number title='share of photos of unknown places that reach as much evidence'>"
        "false accepts</th>"
    )
    rows = "".join(_row(candidate, labelled) for candidate in candidates)
    return (
        f"<div class=scroll><table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>\n"
    )


def _row(c: Candidate, labelled: bool) -> str:
    matches = f"<small> of {len(c.verification.matches)}</small>" if c.verification else ""
    inliers = _NONE if c.inliers is None else f"{c.inliers}{matches}"
    similarity = _NONE if c.similarity is None else f"{c.similarity:.3f}"
    label = f"<td>{escape(c.label or _NONE)}</td>" if labelled else ""
    return (
        f"<tr><td class=number>{c.rank}</td><td>{_badge(c.verdict)}</td>{label}"
        f"<td class=name title='{escape(str(c.path))}'>{escape(c.image)}</td>"
        f"<td class=number>{inliers}</td><td class=number>{similarity}</td>"
        f"<td class=number>{_false_accept(c)}</td></tr>\n"
    )


def _false_accept(c: Candidate) -> str:
    if c.false_accept is None:
        return _NONE
    percent = 100 * min(c.false_accept, 1.0)
    return f"≤ {percent:.0f} %" if percent >= 10 else f"≤ {percent:.1g} %"


def _to_draw(answer: Answer) -> list[Candidate]:
    """The candidates with evidence; if there are none, the one that came nearest to it."""
    proven = [c for c in answer.candidates if c.verdict in (MATCH, UNCERTAIN)]
    if proven:
        return proven[:MAX_DRAWINGS]
    verified = [c for c in answer.candidates if c.verification is not None]
    verified.sort(key=lambda c: -99.0 if c.evidence is None else c.evidence)
    return verified[-1:]


def _drawings(answer: Answer, query: Picture, drawn: Sequence[Candidate]) -> Iterator[str]:
    """The first in sight, the others behind a click."""
    for position, candidate in enumerate(drawn):
        if position == 1:
            more = len(drawn) - 1
            yield f"<details><summary>{more} more with evidence</summary>\n"
        pixels = draw_candidate(
            query, candidate, rotation=answer.rotation, max_width=_DRAWING_WIDTH
        )
        alt = f"matches with {candidate.image}"
        yield f"<div class=drawing>{_picture(encode_jpeg(pixels, 75), pixels.shape, alt)}</div>\n"
    if len(drawn) > 1:
        yield "</details>\n"


def _thumbnails(candidates: Sequence[Candidate]) -> Iterator[str]:
    if not candidates:
        return
    yield "<div class=others>\n"
    for c in candidates:
        photo = read_picture(c.path, 2 * _THUMB_SIDE)
        yield (
            f"<figure>{_thumbnail(photo, _THUMB_SIDE, c.image)}"
            f"<figcaption><b>{c.rank}</b> {escape(c.label or c.image)}</figcaption></figure>\n"
        )
    yield "</div>\n"


def _thumbnail(picture: Picture, side: int, name: str) -> str:
    """The photo shrunk to `side` pixels, twice that for sharp screens, or why there is none."""
    if isinstance(picture, ImageError):
        return f"<div class=missing><b>no picture</b>{escape(picture.reason)}</div>"
    pixels = picture.pixels if isinstance(picture, Photo) else np.asarray(picture)
    height, width = pixels.shape[:2]
    size = fit_size((width, height), 2 * side)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return _picture(encode_jpeg(small, 75), small.shape, name)


def _picture(jpeg: bytes, shape: tuple[int, ...], alt: str) -> str:
    data = base64.b64encode(jpeg).decode("ascii")
    return (
        f"<img src='data:image/jpeg;base64,{data}' width={shape[1]} height={shape[0]} "
        f"alt='{escape(alt)}'>"
    )


def _failures(failed: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><td class=name>{escape(name)}</td><td>{escape(reason)}</td></tr>\n"
        for name, reason in failed
    )
    return (
        "<section class='query failed'>\n<h2>Could not be asked for</h2>\n"
        "<div class=scroll><table>\n<thead><tr><th>photo</th><th>reason</th></tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )


def _badge(verdict: str) -> str:
    return f"<span class='badge {_css_name(verdict)}'>{escape(verdict)}</span>"


def _css_name(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _style() -> str:
    colours = "".join(
        f".{_css_name(verdict)} {{ --verdict: rgb{rgb}; }}\n"
        for verdict, rgb in VERDICT_COLORS.items()
    )
    filters = "".join(
        f"body:has(#show-{name}:checked) .query:not(.{name}) {{ display: none; }}\n"
        for name in (*(_css_name(verdict) for verdict in _ORDER), "failed")
    )
    return _STYLE + colours + filters


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --text: #1c2026; --quiet: #5c6570; --line: #e1e4e9;
  --shadow: 0 1px 2px rgb(0 0 0 / 6%), 0 4px 16px rgb(0 0 0 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root { --page: #101216; --card: #191c22; --text: #e7eaee; --quiet: #98a2ae; --line: #2b303a;
    --shadow: none; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; padding-bottom: 16px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 14px; letter-spacing: -0.01em; }
h2 { font-size: 18px; line-height: 1.3; margin: 0 0 8px; overflow-wrap: anywhere; }
p { margin: 0 0 8px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 8px; }
.chip { padding: 5px 13px; border: 1px solid var(--line); border-radius: 99px; cursor: pointer;
  background: var(--card); --verdict: var(--quiet); }
.chip b { font-variant-numeric: tabular-nums; }
.chip input { position: absolute; opacity: 0; pointer-events: none; }
.chip::before { content: ""; display: inline-block; width: 9px; height: 9px; margin-right: 7px;
  border-radius: 50%; background: var(--verdict); }
.chip.all::before { display: none; }
.chip:has(:checked) { border-color: var(--text); box-shadow: inset 0 0 0 1px var(--text); }
.chip:has(:focus-visible) { outline: 3px solid #4c8dff; outline-offset: 1px; }
.chip:has(:disabled) { opacity: 0.55; cursor: default; }
.query { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  box-shadow: var(--shadow); padding: 18px; margin: 0 0 20px; }
.top { display: flex; gap: 20px; align-items: flex-start; margin-bottom: 14px; }
.top > img { max-width: 240px; max-height: 240px; width: auto; height: auto; border-radius: 10px; }
.top > .missing { width: 240px; height: 160px; flex: none; }
.facts { flex: 1; min-width: 0; }
.verdict { display: flex; flex-wrap: wrap; align-items: center; gap: 10px; font-size: 17px; }
.label { font-weight: 650; }
.quiet { color: var(--quiet); font-size: 13px; }
.badge { display: inline-block; padding: 1px 10px; border-radius: 99px; color: #fff;
  background: var(--verdict); font-size: 13px; font-weight: 600; white-space: nowrap; }
.verdict .badge { font-size: 16px; padding: 3px 14px; }
.scroll { overflow-x: auto; margin: 0 -18px 14px; padding: 0 18px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: 13px; white-space: nowrap; }
th, td { padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.name { overflow-wrap: anywhere; min-width: 150px; }
small { color: var(--quiet); font-size: 12px; }
.drawing { margin: 0 0 12px; }
.drawing img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 10px; }
summary { cursor: pointer; color: var(--quiet); margin: 0 0 12px; }
.others { display: flex; gap: 10px; overflow-x: auto; margin: 0 -18px; padding: 0 18px 4px; }
figure { margin: 0; flex: none; width: 132px; }
figure img, figure .missing { width: 132px; height: 99px; object-fit: cover; border-radius: 8px; }
figure img { display: block; }
figcaption { font-size: 12px; color: var(--quiet); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; margin-top: 3px; }
.missing { display: flex; flex-direction: column; justify-content: center; padding: 8px;
  text-align: center; overflow: hidden; background: #6b7280; color: #fff; font-size: 12px;
  line-height: 1.3; border-radius: 10px; overflow-wrap: anywhere; }
.failed { --verdict: var(--quiet); }
@media (max-width: 640px) {
  .top { flex-direction: column; gap: 12px; }
  .top > img { max-width: 100%; max-height: 300px; }
  .query { padding: 14px; border-radius: 12px; }
  .scroll, .others { margin-left: -14px; margin-right: -14px; padding-left: 14px;
    padding-right: 14px; }
  header { padding-top: 20px; }
}
@media print { .query { break-inside: avoid; box-shadow: none; } nav { display: none; } }
"""
