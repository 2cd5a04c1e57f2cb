"""Local features as matches are verified by."""

from __future__ import annotations

from dataclasses import replace

from locate.extractors.base import ExtractorInfo
from locate.matching.descriptors import weighted
from locate.types import Features


def reweighted(features: Features, info: ExtractorInfo) -> Features:
    """Reweighted descriptors: with the weights that their parts have where matches are verified."""
    if not info.query_shares:
        return features
    found = weighted(features.descriptors, info.parts, info.query_shares)
    return replace(features, descriptors=found)
