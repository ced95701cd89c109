"""Ablation-CAM and Score-CAM at ResNet-50's layer4 against pytorch-grad-cam.

Child processes in turn, each fresh, with the same number of threads (one unless ``--threads`` says
otherwise), two random images of 224 x 224, random weights, the predicted class of each image:

``ablation``, ``score``              ours, as an audit calls them
``ablation_peer``, ``score_peer``    pytorch-grad-cam's, in the environment that ``make bench`` makes

Processor seconds of all maps, since on a busy machine the interruptions of a long run would flatter a
short one; medians of the rounds (one: each takes minutes). Ours are timed from the images on, forward
pass included, as the peer's are. Both put out maps at the input's size. Where the definitions agree the
maps must: Ablation-CAM's correlate to 0.999. Score-CAM's cannot: the peer takes logits where the paper
takes probabilities. The regions are ablation_peer >= 3 x ablation and
score_peer >= 1 x score. Run ``python benchmarks/bench_perturbation_cams.py --peers PYTHON``;
``--quick`` takes ResNet-18 at 96 x 96.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

HERE = Path(__file__).resolve()
PEERS = HERE.parents[1] / ".venv-peers" / "bin" / "python"
LAYER, IMAGES = "layer4", 2
FULL, QUICK = ("resnet50", 224), ("resnet18", 96)


def network(quick: bool):
    """Make a network with fixed random weights, and images."""
    import torch

    from wsss_probe.zoo import ensure_torchvision

    ensure_torchvision()
    from torchvision import models

    name, side = QUICK if quick else FULL
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None).eval()
    return net, torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))


def ours(explainer, quick: bool) -> tuple[float, list[float]]:
    """Seconds of one explainer through the host, and its maps."""
    import torch

    from wsss_probe.allocator import tune_allocator
    from wsss_probe.explaining import Asked, explain
    from wsss_probe.layers import describe_layers

    tune_allocator()
    net, images = network(quick)
    layers = {info.name: info for info in describe_layers(net, images[:1])}
    net(images[:1])  # the first pass of a process costs more

    def step():
        return explain(net, images, [(explainer, LAYER)], Asked(layers))[explainer.name, LAYER]

    seconds, maps = timed(step)
    grown = torch.nn.functional.interpolate(maps[:, None], images.shape[2:], mode="bilinear")
    return seconds, grown.flatten().tolist()


def ablation(quick: bool) -> tuple[float, list[float]]:
    """Ours, every channel that is active."""
    from wsss_probe_explainers.perturbations.ablation_cam import ablation_cam_map

    return ours(ablation_cam_map, quick)


def score(quick: bool) -> tuple[float, list[float]]:
    """Ours, every channel that varies."""
    from wsss_probe_explainers.perturbations.score_cam import score_cam_map

    return ours(score_cam_map, quick)


def peers(name: str, quick: bool) -> tuple[float, list[float]]:
    """Seconds of pytorch-grad-cam, and its maps."""
    net, images = network(quick)
    import pytorch_grad_cam  # after torchvision has been made ready
    import torch
    import tqdm

    tqdm.tqdm = lambda steps: steps
    with torch.no_grad():
        net(images[:1])
    explainer = getattr(pytorch_grad_cam, name)(net, [net.get_submodule(LAYER)])
    seconds, maps = timed(lambda: explainer(images, None))
    return seconds, maps.ravel().tolist()


def timed(step: Callable):
    """Processor seconds of one call, and what it gives."""
    start = time.process_time()
    maps = step()
    return time.process_time() - start, maps


METHODS = {
    "ablation": ablation,
    "ablation_peer": lambda quick: peers("AblationCAM", quick),
    "score": score,
    "score_peer": lambda quick: peers("ScoreCAM", quick),
}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Run one method in a child process."""
    python = arguments.peers if name.endswith("_peer") else sys.executable
    command = [str(python), str(HERE), "--child", name, *(["--quick"] if arguments.quick else [])]
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads)
    )
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **threads})
    result: dict[str, object] = json.loads(done.stdout)
    return result


def alike(one: list[float], two: list[float]) -> float:
    """Smallest correlation of any image's two maps."""
    pairs = zip(np.array(one).reshape(IMAGES, -1), np.array(two).reshape(IMAGES, -1), strict=True)
    return float(min(np.corrcoef(*pair)[0, 1] for pair in pairs))


def main() -> None:
    """Run the children one after another and print seconds and ratios as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=PEERS, help="python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="ResNet-18 at 96 x 96")
    parser.add_argument("--child", choices=sorted(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        seconds, maps = METHODS[arguments.child](arguments.quick)
        print(json.dumps({"seconds": seconds, "maps": maps}))
        return
    rounds = [{name: measure(name, arguments) for name in METHODS} for _ in range(arguments.rounds)]
    same = alike(rounds[0]["ablation"]["maps"], rounds[0]["ablation_peer"]["maps"])
    if not same >= 0.999:
        raise SystemExit(f"Ablation-CAM's maps differ: correlation {same}")
    middle = {name: median(float(str(one[name]["seconds"])) for one in rounds) for name in METHODS}
    report = {
        "network": (QUICK if arguments.quick else FULL)[0],
        "images": IMAGES,
        "rounds": len(rounds),
        "threads": arguments.threads,
        **{f"{name}_seconds": value for name, value in middle.items()},
        "ablation_correlation": same,
        "score_correlation": alike(rounds[0]["score"]["maps"], rounds[0]["score_peer"]["maps"]),
        "ablation_peer_over_ours": middle["ablation_peer"] / middle["ablation"],
        "score_peer_over_ours": middle["score_peer"] / middle["score"],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
