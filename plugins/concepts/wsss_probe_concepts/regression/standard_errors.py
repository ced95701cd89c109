"""Standard errors and p-values of one in-sample fit, as statsmodels gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_probe.errors import UsageError
from wsss_probe_concepts.regression.missing import as_matrix
from wsss_probe_concepts.regression.smoothing import inestimable
from wsss_probe_concepts.regression.spectrum import scored

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = ["fit_table"]


def fit_table(features: ArrayLike, concept: ArrayLike) -> pd.DataFrame:
    """Coefficients of ordinary least squares with their standard errors.

    They hold for independent images with errors of equal variance, for one fit that was not chosen; groups
    of similar images make them too small. They say nothing of other images: see held-out R².

    Parameters
    ----------
    features : array, (image, channel)
    concept : array, (image,)
        Images where it, or a feature, is not finite are left out.

    Returns
    -------
    DataFrame
        One row for the intercept and one a channel, the index; ``coefficient``, ``standard error``, ``t``,
        ``p`` (two-sided, Student), ``low`` and ``high`` (95 %), in raw units.

    Raises
    ------
    UsageError
        If there are no more images than coefficients.
    """
    import pandas as pd
    from statsmodels.api import OLS

    array, values = as_matrix(features, "features"), np.asarray(concept, dtype=np.float64)
    if values.shape != (len(array),):
        raise UsageError(
            "a concept does not fit the features", found=f"shape {values.shape}", wanted=f"({len(array)},)"
        )
    kept = np.isfinite(values) & np.isfinite(array).all(1)
    reason = inestimable("ols", scored(array[kept])[0]) if kept.sum() > 1 else "fewer than 2 images"
    if reason:
        raise UsageError("no table of the fit", found=reason, remedy="take more images, or ridge")
    design = np.column_stack([np.ones(int(kept.sum())), array[kept]])
    result = OLS(values[kept], design).fit()
    interval = result.conf_int(0.05)
    return pd.DataFrame(
        {
            "coefficient": result.params,
            "standard error": result.bse,
            "t": result.tvalues,
            "p": result.pvalues,
            "low": interval[:, 0],
            "high": interval[:, 1],
        },
        index=pd.Index(["intercept", *range(array.shape[1])], name="channel"),
    )
