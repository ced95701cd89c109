"""Linear CKA against its formula in loops, and where it must be 1, 0, unchanged, or undefined."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsss_probe_concepts.comparison.cka import alignment, chance_bound, represented

# -- slow references, from the formulas alone --------------------------------------------------------


def slow_gram(features):
    """Inner products of all pairs of rows."""
    return [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in features] for x in features]


def slow_hsic(first, second):
    """Song et al. (2012), equation 5: Gram matrices with their diagonals set to 0."""
    k, el = slow_gram(first), slow_gram(second)
    n = len(k)
    for i in range(n):
        k[i][i] = el[i][i] = 0.0
    trace = math.fsum(k[i][j] * el[j][i] for i in range(n) for j in range(n))
    sums = math.fsum(map(math.fsum, k)) * math.fsum(map(math.fsum, el))
    crossed = math.fsum(k[i][j] * el[j][q] for i in range(n) for j in range(n) for q in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (n * (n - 3))


def slow_cka(first, second, hsic=slow_hsic):
    """Kornblith et al. (2019), section 3, with an unbiased HSIC (Nguyen et al. 2021, equation 4)."""
    return hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))


def slow_biased_cka(first, second):
    """Kornblith et al. (2019), section 3: squared Frobenius norms of centred features."""

    def centred(features):
        means = [math.fsum(column) / len(features) for column in zip(*features, strict=True)]
        return [[value - mean for value, mean in zip(row, means, strict=True)] for row in features]

    def norm(x, y):
        total = 0.0
        for a in range(len(x[0])):
            for b in range(len(y[0])):
                total += math.fsum(x[i][a] * y[i][b] for i in range(len(x))) ** 2
        return math.sqrt(total)

    x, y = centred(first), centred(second)
    return norm(x, y) ** 2 / (norm(x, x) * norm(y, y))


def slow_grouped_hsic(groups):
    """Mean over ordered tuples of distinct groups, each group's images counting as one."""

    def made(first, second):
        k, el = slow_gram(first), slow_gram(second)
        members = {g: [i for i, own in enumerate(groups) if own == g] for g in set(groups)}

        def mean(values):
            return math.fsum(values) / len(values)

        pairs = [
            mean([k[i][j] * el[i][j] for i in members[g] for j in members[h]])
            for g, h in permutations(members, 2)
        ]
        triples = [
            mean([k[i][j] * el[i][q] for i in members[g] for j in members[h] for q in members[a]])
            for g, h, a in permutations(members, 3)
        ]
        fours = [
            mean([k[i][j] for i in members[g] for j in members[h]])
            * mean([el[i][j] for i in members[a] for j in members[b]])
            for g, h, a, b in permutations(members, 4)
        ]
        return mean(pairs) - 2 * mean(triples) + mean(fours)

    return made


def normal(images, channels, seed=0):
    """Independent normal features."""
    return np.random.default_rng(seed).normal(size=(images, channels))


def cka(first, second, groups=None):
    """CKA of two matrices of features."""
    found = alignment([represented(first, groups), represented(second, groups)])
    return float(found.estimate[0, 1])


def biased(first, second):
    """What is usually published."""
    return float(alignment([represented(first), represented(second)]).biased[0, 1])


# -- the formula -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(3, 5), (2, 20), (30, 30)])
def test_it_is_the_formula(p, q):
    """Debiased and biased CKA equal the loops, for fewer and for more channels than images."""
    x, y = normal(9, p), normal(9, q, 1)
    y[:, 0] += x[:, 0]

    assert cka(x, y) == pytest.approx(slow_cka(x, y), abs=1e-12)
    assert biased(x, y) == pytest.approx(slow_biased_cka(x, y), abs=1e-12)


def test_it_is_the_cosine_of_u_centred_similarities():
    """Székely and Rizzo (2014), definition 2: centred without the diagonal; so it is in [-1, 1]."""

    def centred(features):
        k = np.array(slow_gram(features))
        np.fill_diagonal(k, 0)
        n = len(k)
        rows, total = k.sum(axis=1) / (n - 2), k.sum() / ((n - 1) * (n - 2))
        for i, j in np.ndindex(n, n):
            k[i, j] = k[i, j] - rows[i] - rows[j] + total if i != j else 0
        return k.ravel()

    x, y = normal(9, 4), normal(9, 12, 1)
    y[:, 0] += x[:, 0]
    a, b = centred(x), centred(y)

    assert cka(x, y) == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-12)


@pytest.mark.parametrize("groups", [list("aabbccdde"), list("abcdeabcd"), list("aaaabcdef")])
def test_groups_are_the_unit(groups):
    """With groups it is the mean over tuples of distinct groups, of equal size or not."""
    x, y = normal(9, 4), normal(9, 3, 1)
    y[:, 0] += 2 * x[:, 1]

    assert cka(x, y, groups) == pytest.approx(slow_cka(x, y, slow_grouped_hsic(groups)), abs=1e-12)


def test_single_images_are_groups_of_one():
    """The formula for groups is that of Song et al. where each group has one image."""
    x, y = normal(7, 3), normal(7, 2, 1)

    assert slow_grouped_hsic(range(7))(x, y) == pytest.approx(slow_hsic(x, y), abs=1e-12)


@pytest.mark.parametrize("groups", [None, list("aabbccdde")])
def test_leaving_one_group_out_is_computing_it_without(groups):
    """The values behind the jackknife equal those of features without that group."""
    x, y = normal(9, 4), normal(9, 6, 1)
    y[:, 0] += x[:, 0]
    found = alignment([represented(x, groups), represented(y, groups)]).without
    names = list(range(9)) if groups is None else groups

    for position, name in enumerate(sorted(set(names))):
        kept = [i for i, own in enumerate(names) if own != name]
        own = None if groups is None else [names[i] for i in kept]
        assert found[position, 0, 1] == pytest.approx(cka(x[kept], y[kept], own), abs=1e-10)


# -- what must hold ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    images=st.integers(5, 40),
    p=st.integers(1, 60),
    q=st.integers(1, 60),
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-100, 100),
)
def test_what_it_is_blind_to(seed, images, p, q, scale, shift):
    """Symmetric, in [-1, 1], 1 with itself; rotation, scale and shift of the features change nothing."""
    x, y = normal(images, p, seed), normal(images, q, seed + 100)
    y[:, 0] += x[:, 0]
    rotation, _ = np.linalg.qr(normal(p, p, seed + 200))
    value = cka(x, y)

    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert cka(x, x) == pytest.approx(1)
    assert cka(y, x) == pytest.approx(value, abs=1e-8)
    assert cka(scale * (x @ rotation + shift), y) == pytest.approx(value, abs=1e-7)


def test_it_is_not_blind_to_a_linear_map():
    """Stretching one direction changes it: that is what tells it from canonical correlation."""
    x = normal(200, 5)

    assert cka(x, x * np.array([30, 1, 1, 1, 1])) < 0.6


def test_a_large_mean_does_not_drown_it():
    """Features whose mean is a million times their spread lose nothing, since they are centred first."""
    x, y = normal(50, 4), normal(50, 3, 1)
    y[:, 0] += x[:, 0]

    assert cka(x + 1e6, y - 1e6) == pytest.approx(cka(x, y), abs=1e-6)


def test_what_is_undefined_is_nan():
    """Constant features, fewer than four groups, and features without a number give NaN, not 0."""
    x, y = normal(12, 4), normal(12, 3, 1)

    assert math.isnan(cka(np.ones((12, 3)), y))
    assert math.isnan(cka(x[:3], y[:3]))
    assert math.isnan(cka(x, y, ["a", "b", "c"] * 4))
    assert math.isnan(cka(np.full((12, 3), np.nan), y))
    assert math.isnan(float(alignment([represented(x[:4]), represented(y[:4])]).low[0, 1]))


# -- the trap, and nothing where nothing is ------------------------------------------------------------


def test_more_channels_than_images_fool_the_biased_one():
    """Independent features with p far above n: the published estimator says .9, the debiased one 0."""
    values = [
        (biased(x, y), cka(x, y))
        for x, y in ((normal(60, 800, s), normal(60, 800, 50 + s)) for s in range(9))
    ]

    assert min(value for value, _ in values) > 0.9
    assert abs(np.mean([value for _, value in values])) < 0.02
    assert max(abs(value) for _, value in values) < chance_bound(60)


def test_copies_of_images_fool_it_without_groups_alone():
    """Every image ten times: blind to groups it rises as the biased one does; with them nothing changes."""
    x, y = normal(30, 200), normal(30, 200, 1)
    groups = np.repeat(np.arange(30), 10)
    many = np.repeat(x, 10, axis=0), np.repeat(y, 10, axis=0)

    assert cka(*many) > 0.4
    assert cka(*many, groups) == pytest.approx(cka(x, y), abs=1e-10)


def test_images_exchanged():
    """Over all orders of the images it is 0 on average with variance 2 / (n (n - 3)), exactly."""
    x, y = normal(6, 2), normal(6, 3, 1) ** 3
    y[:, 0] += x[:, 0]
    values = np.array([cka(x[list(order)], y) for order in permutations(range(6))])

    assert values.mean() == pytest.approx(0, abs=1e-12)
    assert values.var() == pytest.approx(2 / (6 * 3), rel=1e-9)
    assert (values >= chance_bound(6)).mean() <= 0.05


def test_the_bound_of_chance_holds():
    """Images exchanged at random exceed the bound in at most a twentieth of the orders."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1)) ** 3 @ np.ones((1, 5)) + 0.1 * rng.normal(size=(40, 5))
    values = np.array([cka(x[rng.permutation(40)], x) for _ in range(300)])

    assert (values >= chance_bound(40)).mean() <= 0.05


# -- intervals ---------------------------------------------------------------------------------------


def planted(images, shared, seed, groups=None):
    """Features of two networks that share ``shared`` directions of 8; images of a group are alike."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(images, 8))
    if groups is not None:
        content = 0.8 * rng.normal(size=(len(set(groups)), 8))[groups] + 0.6 * content
    own = content[:, :shared], rng.normal(size=(images, 8 - shared))
    mixed = np.random.default_rng(9).normal(size=(8, 40))
    return content @ mixed[:, :20], np.hstack(own) @ mixed[:, 20:]


def test_a_shared_part_is_found_and_grows():
    """The more directions two networks share the higher it is; none is 0, and few images hide a few."""
    values = [cka(*planted(400, shared, seed=shared)) for shared in (0, 2, 5, 8)]

    assert abs(values[0]) < chance_bound(400)
    assert values == sorted(values)
    found = alignment([represented(part) for part in planted(400, 2, seed=2)])
    assert float(found.low[0, 1]) > 0
    few = alignment([represented(part) for part in planted(8, 2, seed=2)])
    assert not float(few.low[0, 1]) > chance_bound(8)


def test_resampling_images_raises_it():
    """A bootstrap draws images twice, and pairs of an image with itself raise CKA: hence a jackknife."""
    x, y = normal(40, 300), normal(40, 300, 1)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(40, size=40) for _ in range(30)]

    assert abs(cka(x, y)) < 0.05
    assert min(cka(x[rows], y[rows]) for rows in drawn) > 0.3


def test_the_interval_is_the_jackknife():
    """The interval equals the loops: leave each image out, on Fisher's z, Student's t."""
    x, y = planted(9, 5, seed=3)
    n, z = 9, math.atanh(slow_cka(x, y))
    others = [math.atanh(slow_cka(np.delete(x, i, axis=0), np.delete(y, i, axis=0))) for i in range(n)]
    mean = math.fsum(others) / n
    error = math.sqrt((n - 1) / n * math.fsum((other - mean) ** 2 for other in others))
    found = alignment([represented(x), represented(y)])

    quantile = 2.306004135  # of Student's t with 8 degrees of freedom at .975, from a table
    assert float(found.low[0, 1]) == pytest.approx(math.tanh(z - quantile * error))
    assert float(found.high[0, 1]) == pytest.approx(math.tanh(z + quantile * error))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "each"), [(100, 1), (40, 5)])
def test_intervals_cover(count, each):
    """The interval covers the value of a very large sample in 90 to 99 of 100 simulations."""
    truth = cka(*planted(20_000, 4, seed=1))
    covered = 0
    for seed in range(200):
        groups = np.repeat(np.arange(count), each)
        own = None if each == 1 else groups
        found = alignment([represented(part, own) for part in planted(count * each, 4, seed, own)])
        covered += float(found.low[0, 1]) <= truth <= float(found.high[0, 1])

    assert 0.90 <= covered / 200 <= 0.99
