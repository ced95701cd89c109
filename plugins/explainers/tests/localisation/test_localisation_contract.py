"""The contract of the probe, and every kind of input that it must survive."""

from wsss_probe_explainers.explainers import class_activation_map, grad_cam_map, plus_plus_map
from wsss_probe_explainers.localisation.localisation_probe import Localisation

from wsss_probe.testing import ProbeSuite, make_scene


class TestLocalisation(ProbeSuite):
    """The contract of probes."""

    probe = Localisation()

    def scene(self):
        """Images with and without the object, three explainers."""
        return make_scene(images=8).with_explainers([class_activation_map, grad_cam_map, plus_plus_map])
