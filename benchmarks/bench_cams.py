"""Six gradient maps of ResNet-50 from one pass, against other people's tools and a plain forward loop.

Fresh child processes in turn (allocator and clock speed are not inherited), 64 images of 224 x 224 in
memory, batches of 16, the same threads everywhere, wall-clock seconds after a warm-up batch; medians:

``survey``    ours: the survey's pass with logits, pooled features and Grad-CAM, Grad-CAM++, Layer-CAM,
              XGrad-CAM, HiRes-CAM, Eigen-Grad-CAM at layer4 for the predicted class, tables on disk
``plain``     forward loop under ``inference_mode``, nothing tuned
``tuned``     forward to layer4 without a graph, head, backward to layer4; allocator and channels_last
``grad-cam``  pytorch-grad-cam running the same six, one after another, on whole batches
``torchcam``  torch-cam running its four (Grad-CAM, Grad-CAM++, Layer-CAM, XGrad-CAM); ``ours-four`` is ours
``one-layer`` and ``twenty-layers``  the survey's pooled features of 1 and of 20 layers, no gradients

Other tools run in the environment of ``make bench`` (``--peers PYTHON``). Targets: survey >= 20 x the
throughput of grad-cam, >= 4 x torchcam, <= 0.55 x plain, <= 1.15 x tuned, twenty <= 1.3 x one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

IMAGES, BATCH, SIDE, LAYER = 64, 16, 224, "layer4"
PEER_IMAGES = 16  # of other tools, which are slow; their time is scaled to all images
ROUNDS = 3
SIX = "gradcam,gradcampp,layercam,xgradcam,hirescam,eigengradcam"
FOUR = "gradcam,gradcampp,layercam,xgradcam"
TWENTY = [
    f"layer{stage}.{block}" for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(blocks)
]
TWENTY += ["layer1", "layer2", "layer3", "layer4"]


def network():
    """ResNet-50 with fixed random weights, and images."""
    import torch

    from wsss_probe.zoo import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    return resnet50(weights=None).eval(), torch.rand(IMAGES, 3, SIDE, SIDE)


def plain() -> float:
    """Seconds of a forward loop."""
    import torch

    net, images = network()

    def step(batch) -> None:
        with torch.inference_mode():
            net(batch)

    return timed(step, images)


def tuned() -> float:
    """Seconds of forward and backward to the layer, as fast as it can be written."""
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


def survey(explain: str, layers: str = LAYER) -> float:
    """Seconds of our pass, with everything that it writes."""
    from wsss_probe.allocator import tune_allocator
    from wsss_probe.api import forecast, prepared_audit, survey_task
    from wsss_probe.config import resolve
    from wsss_probe.host import PluginHost
    from wsss_probe.images import TensorSource
    from wsss_probe.store import Store
    from wsss_probe.survey import run_stage

    tune_allocator()
    net, images = network()
    host = PluginHost(strict=True)
    host.load(only=("explainers",) if explain else ())
    options = {"layers": layers, "controls": "none", "batch_size": BATCH}
    options |= {"explain": explain} if explain else {"no_plugin": "explainers,channels,localizers"}
    host = host if explain else PluginHost(strict=True)
    prepared = prepared_audit(resolve(options), host, net, TensorSource(images))
    prepared = without_probes(prepared)
    forecast(prepared)  # the warm-up: one batch through everything that is timed, as the others have theirs
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), IMAGES, prepared.plan.execution.shard, prepared.plan.id)
        task = survey_task(prepared, store)
        started = time.perf_counter()
        run_stage(task)
        return time.perf_counter() - started


def without_probes(prepared):
    """Leave out what judges the maps: the others do not judge theirs."""
    from dataclasses import replace

    return replace(prepared, stages=((),))


def grad_cam() -> float:
    """Seconds of pytorch-grad-cam for the six, scaled to all images."""
    net, images = network()
    from pytorch_grad_cam import EigenGradCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

    methods = [GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM, HiResCAM, EigenGradCAM]

    def step(batch) -> None:
        for method in methods:
            with method(model=net, target_layers=[net.layer4]) as explainer:
                explainer(input_tensor=batch, targets=None)

    return timed(step, images[:PEER_IMAGES], warm_up=4) * IMAGES / PEER_IMAGES


def torchcam() -> float:
    """Seconds of torch-cam for its four, scaled to all images."""
    net, images = network()
    from torchcam.methods import GradCAM, GradCAMpp, LayerCAM, XGradCAM

    def step(batch) -> None:
        for method in (GradCAM, GradCAMpp, LayerCAM, XGradCAM):
            with method(net, target_layer=LAYER) as explainer:
                scores = net(batch)
                explainer(scores.argmax(1).tolist(), scores)

    return timed(step, images[:PEER_IMAGES], warm_up=4) * IMAGES / PEER_IMAGES


def timed(step: Callable, images, warm_up: int = BATCH) -> float:
    """Seconds over all images, after a short warm-up."""
    step(images[:warm_up])
    started = time.perf_counter()
    for low in range(0, len(images), BATCH):
        step(images[low : low + BATCH])
    return time.perf_counter() - started


VARIANTS: dict[str, Callable[[], float]] = {
    "plain": plain,
    "tuned": tuned,
    "survey": lambda: survey(SIX),
    "ours-four": lambda: survey(FOUR),
    "one-layer": lambda: survey("", LAYER),
    "twenty-layers": lambda: survey("", ",".join(TWENTY)),
    "grad-cam": grad_cam,
    "torchcam": torchcam,
}
PEERS = ("grad-cam", "torchcam")


def measure(rounds: int, peers: str) -> dict[str, float]:
    """Medians and ratios over fresh child processes, in turn."""
    wanted = [name for name in VARIANTS if name not in PEERS or Path(peers).exists()]
    seconds: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(rounds):
        for name in wanted:
            python = peers if name in PEERS else sys.executable
            done = subprocess.run([python, __file__, "--child", name], check=True, capture_output=True)
            seconds[name].append(float(done.stdout.split()[-1]))
    middle = {name: median(values) for name, values in seconds.items()}
    figures = {f"{name}_seconds": round(value, 3) for name, value in middle.items()}
    ratios = {
        "survey_over_plain": ("survey", "plain"),
        "survey_over_tuned": ("survey", "tuned"),
        "twenty_over_one": ("twenty-layers", "one-layer"),
        "grad_cam_over_survey": ("grad-cam", "survey"),
        "torchcam_over_ours_four": ("torchcam", "ours-four"),
    }
    for name, (top, bottom) in ratios.items():
        if top in middle and bottom in middle:
            figures[name] = round(middle[top] / middle[bottom], 3)
    return {**figures, "threads": os.environ.get("OMP_NUM_THREADS", "default"), "rounds": rounds}


def main() -> None:
    """Measure, or be a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", choices=list(VARIANTS))
    parser.add_argument("--quick", action="store_true", help="one round")
    default = Path(__file__).parent.parent / ".venv-peers/bin/python"
    parser.add_argument("--peers", default=str(default), help="python of the environment of other tools")
    options = parser.parse_args()
    if options.child:
        print(VARIANTS[options.child]())
    else:
        print(json.dumps(measure(1 if options.quick else ROUNDS, options.peers)))


if __name__ == "__main__":
    main()
