"""Taxonomies: from how models answer on the images of other datasets to the relations between labels (paper 000), for any number of
datasets. Pure numpy; the exact search uses HiGHS by way of scipy."""

from data.taxonomy.connections import Rules, connect
from data.taxonomy.evidence import Evidence, evidence_of, read_evidence
from data.taxonomy.find import find_taxonomy
from data.taxonomy.forest import Forest, LeavesConfig
from data.taxonomy.overrides import Overrides, read_overrides
from data.taxonomy.taxonomy import (
    MODES,
    THESIS,
    SearchConfig,
    Taxonomy,
    TaxonomyConfig,
    read_taxonomy,
    write_taxonomy,
    write_universe,
)

__all__ = [
    "MODES",
    "THESIS",
    "Evidence",
    "Forest",
    "LeavesConfig",
    "Overrides",
    "Rules",
    "SearchConfig",
    "Taxonomy",
    "TaxonomyConfig",
    "connect",
    "evidence_of",
    "find_taxonomy",
    "read_evidence",
    "read_overrides",
    "read_taxonomy",
    "write_taxonomy",
    "write_universe",
]
