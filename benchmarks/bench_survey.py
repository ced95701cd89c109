"""A survey of ResNet-50 against the same network work written by hand.

Four child processes in turn, each fresh (allocator and clock speed are not inherited), 128 images of
224 x 224 in memory, batches of 16, torch's default threads:

``tuned``     forward to layer4 without a graph, head, backward to layer4; glibc keeps memory, channels_last
``loop``      what a careful user would write: forward with a hook, gradient at layer4, four maps, no tuning
``tutorial``  the same with ``.backward()`` through the whole network, as tutorials and most tools do
``survey``    ours: logits, pooled features, four maps for the predicted class, channel-F1, tables on disk

The loops compute no channel-F1 and write nothing. The targets are survey <= 1.15 x tuned and
survey <= 0.60 x loop. The median of five rounds is reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

IMAGES, BATCH, SIDE, LAYER = 128, 16, 224, "layer4"
WARM_UP = 2  # batches
ROUNDS = 5


def network():
    """ResNet-50 with fixed random weights, and images."""
    import torch

    from wsss_probe.zoo import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    net = resnet50(weights=None).eval()
    return net, torch.rand(IMAGES, 3, SIDE, SIDE)


def tuned() -> float:
    """Seconds of the bare work, as fast as it can be written."""
    import torch

    from wsss_probe.allocator import tune_allocator

    tune_allocator()
    net, images = network()
    net = net.to(memory_format=torch.channels_last).requires_grad_(False)
    stem = torch.nn.Sequential(*list(net.children())[:8])

    def step(batch) -> None:
        with torch.no_grad():
            maps = stem(batch.contiguous(memory_format=torch.channels_last))
        maps = maps.requires_grad_()
        logits = net.fc(net.avgpool(maps).flatten(1))
        torch.autograd.grad(logits.amax(dim=1).sum(), maps)

    return timed(step, images)


def loop() -> float:
    """Seconds of the loop of a careful user; without channel-F1."""
    import torch

    return by_hooks(lambda score, maps: torch.autograd.grad(score, maps)[0])


def tutorial() -> float:
    """Seconds of the loop of tutorials, whose backward goes through the whole network."""

    def slope(score, maps):
        maps.retain_grad()
        score.backward()
        return maps.grad

    return by_hooks(slope)


def by_hooks(slope_of: Callable) -> float:
    """Seconds of a loop with a hook on layer4 and four maps."""
    import torch

    net, images = network()
    kept = {}
    net.layer4.register_forward_hook(lambda *given: kept.update(maps=given[2]))

    def step(batch) -> None:
        net.zero_grad()
        logits = net(batch)
        maps = kept["maps"]
        slope = slope_of(logits.amax(dim=1).sum(), maps)
        maps = maps.detach()
        torch.einsum("nc,nchw->nhw", net.fc.weight[logits.argmax(1)], maps)
        torch.relu((slope.mean((2, 3), keepdim=True) * maps).sum(1))
        alpha = 1 / (2 + maps.sum((2, 3), keepdim=True) * slope)
        torch.relu(((alpha * slope.relu()).sum((2, 3), keepdim=True) * maps).sum(1))
        torch.relu((slope.relu() * maps).sum(1))
        maps.mean((2, 3))

    return timed(step, images)


def survey() -> float:
    """Seconds of our pass, with everything that it writes."""
    import torch

    from wsss_probe.allocator import tune_allocator
    from wsss_probe.api import forecast, prepared_audit, survey_task
    from wsss_probe.config import resolve
    from wsss_probe.host import PluginHost
    from wsss_probe.images import TensorSource
    from wsss_probe.store import Store
    from wsss_probe.survey import run_stage

    tune_allocator()
    net, images = network()
    masks = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.int64) - 2
    masks[:, :112, :112] = 0
    host = PluginHost(strict=True)
    host.load(only=("explainers", "channels"))
    options = resolve({"layers": LAYER, "controls": "none", "batch_size": BATCH})
    prepared = prepared_audit(options, host, net, TensorSource(images, masks, ("object",)))
    forecast(prepared)  # the warm-up: one batch through everything that is timed, as the others have theirs
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), IMAGES, prepared.plan.execution.shard, prepared.plan.id)
        task = survey_task(prepared, store)
        started = time.perf_counter()
        run_stage(task)
        return time.perf_counter() - started


def timed(step: Callable, images) -> float:
    """Seconds over all images, after a short warm-up."""
    for low in range(0, WARM_UP * BATCH, BATCH):
        step(images[low : low + BATCH])
    started = time.perf_counter()
    for low in range(0, IMAGES, BATCH):
        step(images[low : low + BATCH])
    return time.perf_counter() - started


VARIANTS = {"tuned": tuned, "survey": survey, "loop": loop, "tutorial": tutorial}


def measure(rounds: int) -> dict[str, float]:
    """Medians and ratios over fresh child processes, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name in VARIANTS:
            done = subprocess.run(
                [sys.executable, __file__, "--child", name], check=True, capture_output=True
            )
            seconds[name].append(float(done.stdout.split()[-1]))
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_seconds": round(value, 3) for name, value in middle.items()},
        "survey_over_tuned": round(middle["survey"] / middle["tuned"], 3),
        "survey_over_loop": round(middle["survey"] / middle["loop"], 3),
        "survey_over_tutorial": round(middle["survey"] / middle["tutorial"], 3),
        "rounds": rounds,
    }


def main() -> None:
    """Measure, or be a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", choices=list(VARIANTS))
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args()
    if options.child:
        print(VARIANTS[options.child]())
    else:
        print(json.dumps(measure(1 if options.quick else ROUNDS)))


if __name__ == "__main__":
    main()
