"""In which order candidates stand, what they prove together, and why: no input, no output."""

from __future__ import annotations

import math
from collections.abc import Sequence

from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED, Calibration
from locate.types import Candidate

ORDER = {MATCH: 0, UNCERTAIN: 1, NO_MATCH: 2, UNVERIFIED: 2}


def rank_key(candidate: Candidate) -> tuple[int, float, int]:
    """Proof first, by evidence; everything else stays in the order in which it was found.

    Plain sorting by inliers makes the ranking worse, since the few inliers of unproven candidates
    are chance, and chance knows less than the search did.
    """
    proven = candidate.verdict in (MATCH, UNCERTAIN)
    return (ORDER[candidate.verdict], -score_of(candidate) if proven else 0.0, candidate.rank)


def score_of(candidate: Candidate) -> float:
    """Its evidence; less than any evidence if it was not verified."""
    return -math.inf if candidate.evidence is None else candidate.evidence


def verdict_on_all(candidates: Sequence[Candidate]) -> str:
    """The best verdict on any candidate; one that could not be verified says nothing."""
    verdicts = {c.verdict for c in candidates}
    order = (MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED)
    return next((verdict for verdict in order if verdict in verdicts), NO_MATCH)


def explain(
    rule: Calibration,
    verdict: str,
    candidates: Sequence[Candidate],
    features: int,
    searched_by: str = "global similarity",
) -> str:
    """One sentence that says why. `features` is how many local ones the query has, `searched_by`
    what the candidates were found by."""
    warning = "" if rule.queries else " (this extractor is not calibrated: locate calibrate)"
    if verdict == UNVERIFIED:
        return f"ranked by {searched_by} alone, not verified"
    if verdict == NO_MATCH and features < 50:
        return f"the photo shows only {features} local features: too dark, blurred or empty?"
    if not candidates:
        return "nothing in the index is worth comparing with the photo"
    # Of those that prove nothing the most inliers say more than the least bad of no evidence.
    best = max(candidates, key=score_of)
    if verdict == NO_MATCH:
        best = max(candidates, key=lambda c: -1 if c.inliers is None else c.inliers)
    if best.verification is None:
        return "no candidate could be verified"
    matches = len(best.verification.matches)
    needed = rule.inliers_for_match(matches, best.verification.model)
    counted = f"{best.inliers} of {matches} local matches agree with one camera motion"
    covered = best if verdict == MATCH else max(candidates, key=_on_overlay)
    count, left_out = _on_overlay(covered), ""
    if count:
        left_out = f"; {count} matches on an overlay were left out ({covered.image})"
    if verdict == MATCH:
        return f"{counted}; {needed} prove a match{left_out}{warning}"
    return f"at best {counted} ({best.image}); {needed} would prove a match{left_out}{warning}"


def _on_overlay(candidate: Candidate) -> int:
    return candidate.verification.on_overlay if candidate.verification else 0
