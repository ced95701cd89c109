"""The plugin keeps the contract, and its numbers are what they should be."""

import torch
import wsss_probe_hello as hello

from wsss_probe.testing import ExplainerSuite, ProbeSuite, run_in_memory


class TestMeanMap(ExplainerSuite):
    """The mean map keeps the contract of explainers."""

    explainer = hello.MeanMap()

    def test_is_the_mean(self):
        """The value at a position is the mean over channels there."""
        batch = self.scene().batch()
        maps = hello.MeanMap().attribute(batch, "features", "predicted")

        by_hand = sum(batch.activations["features"][1, k, 2, 3] for k in range(8)) / 8
        assert torch.isclose(maps[1, 2, 3], by_hand)


class TestEnergy(ProbeSuite):
    """The probe keeps the contract of probes."""

    probe = hello.Energy()

    def test_is_the_mean_square(self):
        """The energy of an image is the mean of the squares of its activations."""
        scene = self.scene()
        rows = run_in_memory([hello.Energy()], scene).rows("energy")

        values = scene.batch().activations["features"][2].flatten().tolist()
        by_hand = sum(value * value for value in values) / len(values)
        assert abs(float(rows["energy"].sel(layer="features")[2]) - by_hand) < 1e-6


def test_is_offered(plugin_host):
    """A host that loads the module finds both."""
    plugin_host.register(hello, "hello")

    offered = [*plugin_host.collect_explainers(), *plugin_host.collect_probes()]
    assert [item.name for item in offered] == ["mean", "energy"]
