"""Linear algebra of regression concept vectors: fits, held-out R², its null, stability."""

from __future__ import annotations

from wsss_probe_concepts.regression.folds import Folds, make_folds
from wsss_probe_concepts.regression.heldout import HeldOut, held_out_r2, split_r2, squared_errors
from wsss_probe_concepts.regression.partial import collinearity, partial_r2
from wsss_probe_concepts.regression.permuted import null_r2, permuted_concepts
from wsss_probe_concepts.regression.regress import regress, regress_chunks
from wsss_probe_concepts.regression.regression import Regression
from wsss_probe_concepts.regression.smoothing import Model
from wsss_probe_concepts.regression.stability import Stability, bootstrap_directions, stability
from wsss_probe_concepts.regression.standard_errors import fit_table

__all__ = [
    "Folds",
    "HeldOut",
    "Model",
    "Regression",
    "Stability",
    "bootstrap_directions",
    "collinearity",
    "fit_table",
    "held_out_r2",
    "make_folds",
    "null_r2",
    "partial_r2",
    "permuted_concepts",
    "regress",
    "regress_chunks",
    "split_r2",
    "squared_errors",
    "stability",
]
