"""First components of one layer's values over its positions, linear and by a kernel, with a fixed sign.

Everywhere ``values`` are (image, channel, row, column); X is the matrix of one image with a row per
position and a column per channel, and the result is (image, row, column), signed, on the layer's own
grid. The sign, which a decomposition leaves open, is fixed by one rule: the map agrees with the sum
of the values over channels (``sum of map * X 1 >= 0``), and where that says nothing, the first of its
largest absolute values is positive. Zeros give zeros. NaN comes out for images with NaN or infinity
in them, and where two directions explain exactly alike, since then there is no first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from scipy.linalg import eigh
from torch import Tensor

__all__ = ["Kernel", "first_component", "first_component_centred", "kernel_component"]

Kernel = Literal["sigmoid", "rbf"]
"""``tanh(gamma x.y + 1)`` or ``exp(-gamma |x - y|^2)``."""

_SMALL = 128
"""Up to this size all eigenvectors of a batch of matrices cost less than the first ones of each."""

_TIE = 1e-6
"""Share by which two numbers differ at least if float32 values are to tell them apart."""

_NOTHING = 1e-14
"""Share of the sum of squares that is rounding of float32 values and no variation."""


def first_component(values: Tensor) -> Tensor:
    """Project the values on their first right singular vector.

    ``X = U S V^T``, ``M = X v_1 = s_1 u_1`` (Muhammad & Yeasin 2020, eq. 5), not centred, as in the
    paper. Values that are not negative give a map that is not negative (Perron and Frobenius).

    Parameters
    ----------
    values : Tensor, (image, channel, row, column)
        Activations, or activations times gradients.

    Returns
    -------
    Tensor, (image, row, column)
        float32, in the units of the values.

    Examples
    --------
    >>> first_component(torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])).tolist()
    [[[5.0, 0.0]]]
    """
    return _component(values, _as_it_is)


def first_component_centred(values: Tensor) -> Tensor:
    """Project the values, less each channel's mean over positions, on their first principal axis.

    What other programs compute under the name of the uncentred map. The result has spatial mean 0.

    Parameters
    ----------
    values : Tensor, (image, channel, row, column)

    Returns
    -------
    Tensor, (image, row, column)
        float32, in the units of the values.
    """
    return _component(values, _less_mean)


def kernel_component(values: Tensor, kernel: Kernel = "sigmoid", gamma: float | None = None) -> Tensor:
    """First component of kernel PCA over positions.

    ``K_pq = k(x_p, x_q)`` of the rows of X less each channel's mean, centred in both directions;
    ``M = sqrt(l_1) u_1`` with its largest eigenvalue (Karmani et al. 2024, section III).

    Parameters
    ----------
    values : Tensor, (image, channel, row, column)
        Position by position a matrix is made: keep row x column below a thousand or so.
    kernel : {"sigmoid", "rbf"}
    gamma : float, optional
        Scale of the kernel; by default 1 / channels.

    Returns
    -------
    Tensor, (image, row, column)
        float32, without a unit.
    """
    planes, total = _read(values)
    scale = 1 / planes.shape[1] if gamma is None else gamma
    grams = torch.stack([_kernel_matrix(_less_mean(one.double()), kernel, scale) for one in planes])
    largest, vectors, clear = _leading(grams, torch.full_like(grams[:, 0, 0], _NOTHING * grams.shape[1]))
    maps = largest.sqrt()[:, None] * vectors
    return _finished(maps, total, clear).view(len(values), *values.shape[2:])


# -- parts -------------------------------------------------------------------------------------


def _component(values: Tensor, prepared: Callable[[Tensor], Tensor]) -> Tensor:
    """Component of the smaller of two Gram matrices: over positions, or over channels."""
    planes, total = _read(values)
    over_positions = planes.shape[2] <= planes.shape[1]
    # one image at a time: a Gram matrix squares its values, and double precision of all at once is large
    grams = torch.stack([_gram(prepared(one.double()), over_positions=over_positions) for one in planes])
    floor = _NOTHING * torch.linalg.vector_norm(planes.flatten(1), dim=1, dtype=torch.float64).square()
    largest, vectors, clear = _leading(grams, floor)
    if over_positions:
        maps = largest.sqrt()[:, None] * vectors
    else:
        maps = torch.stack([v @ prepared(one.double()) for v, one in zip(vectors, planes, strict=True)])
    return _finished(maps, total, clear).view(len(values), *values.shape[2:])


def _read(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values as (image, channel, position), and their sums over channels, (image, position).

    The values of an image with NaN or infinity become zeros; its sums keep them.
    """
    planes = values.flatten(2)
    total = planes.sum(1, dtype=torch.float64)
    usable = total.isfinite().all(1)
    return (planes if bool(usable.all()) else planes.where(usable[:, None, None], 0)), total


def _as_it_is(planes: Tensor) -> Tensor:
    return planes


def _less_mean(planes: Tensor) -> Tensor:
    """Take each channel's own mean over positions off."""
    return planes - planes.mean(1, keepdim=True)


def _gram(planes: Tensor, *, over_positions: bool) -> Tensor:
    return planes.T @ planes if over_positions else planes @ planes.T


def _kernel_matrix(planes: Tensor, kernel: Kernel, gamma: float) -> Tensor:
    """Kernel of all pairs of positions, centred in feature space, (position, position)."""
    products = planes.T @ planes
    between = _KERNELS[kernel](products, gamma)
    rows = between.mean(0, keepdim=True)
    return between - rows - rows.T + rows.mean()


def _sigmoid(products: Tensor, gamma: float) -> Tensor:
    return torch.tanh(gamma * products + 1)


def _rbf(products: Tensor, gamma: float) -> Tensor:
    squares = products.diagonal()
    return torch.exp(-gamma * (squares[:, None] + squares - 2 * products))


_KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {"sigmoid": _sigmoid, "rbf": _rbf}


def _leading(grams: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest eigenvalue and its vector, 0 up to the floor, and whether no other one ties with it.

    Returns
    -------
    values : Tensor, (image,)
    vectors : Tensor, (image, entry)
    clear : Tensor of bool, (image,)
    """
    found = [_two_largest(gram) for gram in grams] if grams.shape[1] > _SMALL else [torch.linalg.eigh(grams)]
    values = torch.cat([part[0].view(-1, part[0].shape[-1]) for part in found])
    vectors = torch.cat([part[1].view(-1, *part[1].shape[-2:])[..., -1] for part in found])
    largest = values[:, -1]
    second = values[:, -2] if values.shape[1] > 1 else torch.zeros_like(largest)
    something = largest > floor
    clear = (largest - second > _TIE * largest) | ~something
    return largest * something, vectors * something[:, None], clear


def _two_largest(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Two largest eigenvalues and their vectors: a third of the price of all of them."""
    last = len(gram) - 1
    values, vectors = eigh(gram.cpu().numpy(), subset_by_index=[last - 1, last])
    return torch.from_numpy(values).to(gram.device), torch.from_numpy(vectors).to(gram.device)


def _finished(maps: Tensor, total: Tensor, clear: Tensor) -> Tensor:
    """Fix the sign of maps (image, position); NaN where there is no map."""
    agreement = (maps * total).sum(1)
    silent = agreement.abs() <= _TIE * maps.norm(dim=1) * total.norm(dim=1)
    size = maps.abs()
    largest = (size >= (1 - _TIE) * size.amax(1, keepdim=True)).int().argmax(1)  # the first of equals
    side = torch.where(silent, maps.gather(1, largest[:, None])[:, 0], agreement)
    turned = torch.where((side < 0)[:, None], -maps, maps)
    return torch.where((clear & agreement.isfinite())[:, None], turned, torch.nan).float()
