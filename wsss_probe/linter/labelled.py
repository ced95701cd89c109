"""Checks of the model linter on labelled examples: chance, and what another preprocessing does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsss_probe.linter.diagnosis import NotLookedAtError, Suspicion
from wsss_probe.linter.evidence import Evidence, logits_of
from wsss_probe.performance import top_right
from wsss_probe.preprocessing import NAMED

__all__ = ["accuracy_at_chance", "other_preprocessing"]

_FEWEST = 16
"""Below this many independent examples even a good network's interval may include chance."""

_ALPHA = 0.05
_Z = 1.96


def accuracy_at_chance(evidence: Evidence) -> Iterator[Suspicion]:
    """Accuracy whose interval includes that of the commonest answer; a warning at or below a guess."""
    right = _right(evidence, evidence.seen.logits)
    labels = _labels(evidence)
    known = len(right)
    share, low, high = _wilson(int(right.sum()), known)
    classes = max(labels.shape[1], 2)
    shares = labels.mean(axis=0)
    commonest = max(shares.max(), 1 - shares.min()) if labels.shape[1] == 1 else shares.max()
    chance = max(1 / classes, float(commonest))
    if low > chance:
        return
    # one class may be so common that a good network hardly beats its share
    lost = share <= 1 / classes or _one_answer(evidence)
    yield Suspicion(
        "accuracy-at-chance",
        "warning" if lost else "notice",
        f"The network is right on {share:.0%} [{low:.0%}, {high:.0%}] of {known} labelled examples, where "
        f"the commonest class alone, or a guess, is right on {chance:.0%}.",
        "Check the preprocessing, the order of the classes (--classes) and the labels before anything else.",
        effect=share,
        interval=(low, high),
        n=known,
        unit="accuracy",
        control=f"chance {chance:.2f}",
    )


def _one_answer(evidence: Evidence) -> bool:
    """Whether every image gets the same answer although their labels differ."""
    logits, labels = evidence.seen.logits, _labels(evidence)
    answers = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
    return bool((answers == answers[0]).all()) and len(np.unique(labels, axis=0)) > 1


def other_preprocessing(evidence: Evidence) -> Iterator[Suspicion]:
    """Another channel order or range with which clearly more examples are right, image by image."""
    own = _right(evidence, evidence.seen.logits)
    others = list(_variants(evidence))
    if not others:
        msg = "what the pixels were is not known"
        raise NotLookedAtError(msg)
    level = _ALPHA / len(others)
    if 0.5 ** int((~own).sum()) > level:
        return  # so many are right that nothing could be shown
    tried = [(other, _right(evidence, logits_of(evidence.module, other.images))) for other in others]
    p = [_sign_test(int((right & ~own).sum()), int((own & ~right).sum())) for _, right in tried]
    best = int(np.argmin(p))
    if p[best] > level:
        return
    other, right = tried[best]
    yield Suspicion(
        "other-preprocessing",
        "warning",
        f"{int(right.sum())} of {len(own)} labelled examples are right {other.words}, only {int(own.sum())} "
        f"as they were prepared (paired, p = {p[best]:.1g}, the best of {len(others)} tries).",
        f'Suspected, not proved: try --preprocess "{other.flag}" on other images.',
        effect=float(right.mean() - own.mean()),
        n=len(own),
        unit="accuracy",
        control="the same examples as they were prepared",
    )


# -- other ways to prepare ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Variant:
    """Examples prepared otherwise: in words, and what to write in ``--preprocess``."""

    words: str
    flag: str
    images: Tensor


def _variants(evidence: Evidence) -> Iterator[_Variant]:
    given, spec = evidence.examples, evidence.known.preprocessing
    if given.shape[1] == 3:
        order = "rgb" if spec is not None and spec.order == "bgr" else "bgr"
        yield _Variant("with the channels in the other order", f"order={order}", given.flip(1))
    pixels = _pixels(evidence)
    if pixels is not None:
        close = (torch.allclose(v.images, given, rtol=1e-3, atol=1e-3) for v in _ranges(pixels))
        yield from (v for v, same in zip(_ranges(pixels), close, strict=True) if not same)


def _ranges(pixels: Tensor) -> list[_Variant]:
    unit = pixels / 255
    found = [
        _Variant("with values from 0 to 255", "scale=1 mean=0 std=1", pixels),
        _Variant("with values from 0 to 1", "scale=255 mean=0 std=1", unit),
        _Variant("with values from -1 to 1", "scale=127.5 mean=1 std=1", unit * 2 - 1),
    ]
    if pixels.shape[1] == 3:
        named = NAMED["imagenet"]
        mean, std = (torch.tensor(part).view(1, 3, 1, 1).to(unit) for part in (named.mean, named.std))
        flag = "scale=255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"
        found.append(_Variant("normalised as for ImageNet", flag, (unit - mean) / std))
    mean, std = (part.flatten() for part in (_over_channels(unit.mean), _over_channels(unit.std)))
    flag = f"scale=255 mean={_numbers(mean)} std={_numbers(std)}"
    shaped = [part.view(1, -1, 1, 1) for part in (mean, std.clamp(min=1e-3))]
    found.append(_Variant("normalised by their own mean and spread", flag, (unit - shaped[0]) / shaped[1]))
    return found


def _over_channels(statistic: Callable[..., Tensor]) -> Tensor:
    return statistic(dim=(0, 2, 3))


def _numbers(values: Tensor) -> str:
    return ",".join(f"{value:.3g}" for value in values.tolist())


def _pixels(evidence: Evidence) -> Tensor | None:
    """The examples as pixels from 0 to 255, in the channel order of the network's input."""
    given, spec = evidence.examples, evidence.known.preprocessing
    if spec is not None:
        mean, std = (torch.tensor(part).view(1, -1, 1, 1).to(given) for part in (spec.mean, spec.std))
        return (given * std + mean) * spec.scale
    low, high = float(given.min()), float(given.max())
    if low < 0 or high > 255:
        return None
    return given * 255 if high <= 1 else given


# -- right or wrong ----------------------------------------------------------------------------


def _labels(evidence: Evidence) -> np.ndarray:
    labels = evidence.known.labels
    if evidence.known.made_up or labels is None or not len(labels):
        msg = "no labelled images"
        raise NotLookedAtError(msg)
    if evidence.known.multilabel and labels.shape[1] > 1:
        msg = "an image may have several labels"
        raise NotLookedAtError(msg)
    first = _first_of_each_group(evidence)
    if len(first) < _FEWEST:
        msg = f"fewer than {_FEWEST} independent labelled images"
        raise NotLookedAtError(msg)
    kept: np.ndarray = labels[first]
    return kept


def _first_of_each_group(evidence: Evidence) -> np.ndarray:
    """One image of each group, since neighbours are right together."""
    groups = evidence.known.groups
    if groups is None:
        return np.arange(len(evidence.examples))
    _, first = np.unique(np.asarray(groups).astype(str), return_index=True)
    found: np.ndarray = np.sort(first)
    return found


def _right(evidence: Evidence, logits: Tensor) -> np.ndarray:
    labels = _labels(evidence)
    values = logits.float().cpu().numpy()[_first_of_each_group(evidence)]
    finite: np.ndarray = np.isfinite(values).all(axis=1)
    right: np.ndarray = finite & top_right(values, labels)
    return right


def _wilson(right: int, number: int) -> tuple[float, float, float]:
    """Share with Wilson's 95 % interval."""
    share = right / number
    centre = (share + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * np.sqrt(share * (1 - share) / number + _Z**2 / (4 * number**2))
    return share, max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _sign_test(won: int, lost: int) -> float:
    """Probability of at least so many wins if each difference went either way by chance."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0
