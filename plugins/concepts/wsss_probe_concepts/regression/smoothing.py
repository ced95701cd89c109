"""Least squares, ridge and principal components as gains on the same axes, chosen in the training part.

Each model fits ĉ = mean + Σ_i g_i u_i u_iᵀ c, with u the left singular vectors of the standardised features.
They differ by the gains g alone: 1 on all axes (OLS, minimum norm), s²/(s² + λ) (ridge), or 1 on the first k
axes and 0 on the others (regression on principal components).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsss_probe_concepts.regression.spectrum import Spectrum

__all__ = [
    "GAINS",
    "MODELS",
    "PENALTIES",
    "Model",
    "chosen",
    "component_numbers",
    "gains_of",
    "inestimable",
    "unexplained",
]

Floats = NDArray[np.float64]

Model = Literal["ols", "ridge", "pca"]

MODELS: Final[tuple[Model, ...]] = ("ols", "ridge", "pca")

PENALTIES: Final[Floats] = 10.0 ** np.linspace(-4, 4, 17)
"""Ridge penalties per image: λ = n × penalty, on features in units of their standard deviation."""


def component_numbers(n: int, rank: int) -> NDArray[np.intp]:
    """Numbers of principal components that are tried: about four an octave, at most (n − 1)/3 and the rank.

    Parameters
    ----------
    n : int
        Images of the training part.
    rank : int

    Returns
    -------
    ndarray of int, (setting,)
        Ascending; 0 alone where the rank is 0.

    Examples
    --------
    >>> component_numbers(31, 100).tolist()
    [1, 2, 3, 4, 5, 6, 8, 9, 10]
    """
    most = min(rank, max((n - 1) // 3, 1))
    grid = np.floor(2.0 ** (np.arange(4 * 32) / 4))
    return np.unique(np.append(grid[grid <= most], most)).astype(np.intp)


def _ols(spectrum: Spectrum) -> Floats:
    return np.ones((1, spectrum.rank))


def _ridge(spectrum: Spectrum) -> Floats:
    squares = spectrum.size**2
    return squares / (squares + spectrum.n * PENALTIES[:, None])


def _pca(spectrum: Spectrum) -> Floats:
    numbers = component_numbers(spectrum.n, spectrum.rank)
    return (np.arange(spectrum.rank) < numbers[:, None]).astype(np.float64)


GAINS: Final = MappingProxyType[Model, Callable[["Spectrum"], Floats]](
    {"ols": _ols, "ridge": _ridge, "pca": _pca}
)


def gains_of(model: Model, spectrum: Spectrum) -> Floats:
    """Gains of every setting that a model may choose among.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    spectrum : Spectrum

    Returns
    -------
    ndarray of float64, (setting, component)
        In [0, 1]; one setting for OLS, one a penalty for ridge, one a number of components for PCA.
    """
    return GAINS[model](spectrum)


def inestimable(model: Model, spectrum: Spectrum, where: str = "") -> str:
    """Why a model cannot be fitted to these features.

    Parameters
    ----------
    model : {"ols", "ridge", "pca"}
    spectrum : Spectrum
    where : str
        Which images these are, as the message says it.

    Returns
    -------
    str
        Empty if it can. OLS needs an image more than coefficients: with n = rank + 1 it passes through every
        point, and its R² of 1 says nothing.
    """
    where = f" {where}" if where else ""
    if spectrum.rank == 0:
        return f"every channel is constant{where}"
    if model == "ols" and spectrum.n <= spectrum.rank + 1:
        return (
            f"n <= p + 1: OLS not estimable (n = {spectrum.n}{where}, "
            f"rank {spectrum.rank} of {len(spectrum.mean)} channels)"
        )
    return ""


def unexplained(gains: Floats, along: Floats, beside: Floats) -> Floats:
    """Residual sum of squares of each setting, Σ_i (1 − g_i)² z_i² and what lies beside all axes.

    Parameters
    ----------
    gains : ndarray, (setting, component)
    along : ndarray, (component, concept)
    beside : ndarray, (concept,)

    Returns
    -------
    ndarray of float64, (setting, concept)
    """
    return np.asarray((1 - gains) ** 2 @ along**2 + beside)


def chosen(gains: Floats, along: Floats, beside: Floats, n: int) -> NDArray[np.intp]:
    """Setting of each concept by generalised cross-validation on the training images.

    GCV = (RSS / n) / (1 − df / n)², with df = 1 + Σ g (Golub, Heath, Wahba 1979, doi:10.2307/1268518,
    eq. 1.4; the 1 is the intercept). It is leave-one-out with every leverage put to the mean, needs no
    images but the factor, and costs the same for one concept and for thousands of permuted ones. It takes
    images for independent, so within groups it penalises too little; the held-out figure stays honest.

    Parameters
    ----------
    gains : ndarray, (setting, component)
    along : ndarray, (component, concept)
    beside : ndarray, (concept,)
    n : int
        Images.

    Returns
    -------
    ndarray of int, (concept,)
        The first, that is the weakest ridge or the fewest components, of equal ones.
    """
    if len(gains) == 1:
        return np.zeros(along.shape[1], dtype=np.intp)
    left = 1 - (1 + gains.sum(1)) / n
    # A setting that leaves nothing over cannot be judged
    weight = np.divide(1.0, left**2, out=np.full(len(left), np.inf), where=left > 1e-12)
    rss = unexplained(gains, along, beside)
    score = np.where(np.isfinite(weight)[:, None], rss, np.inf)
    score[np.isfinite(weight)] *= weight[np.isfinite(weight), None]
    return np.asarray(np.argmin(score, axis=0), dtype=np.intp)
