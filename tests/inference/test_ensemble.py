import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.inference.enhancer import Enhancer
from llie_jax.inference.ensemble import SelfEnsemble
from llie_jax.models.base import Model
from llie_jax.types import Outputs
from tests.evaluation.test_evaluator import evaluate


class Slanted(Model):
    """Adds a shifted copy of the image times a map: knows left, right, up and down."""

    multiple: int = 4
    pad_mode: str = "constant"

    def __call__(self, image, *, target=None, train=False, gain=1.0):
        return Outputs(image + gain * jnp.roll(image, (1, 2), (1, 2)))


def slanted(image, gain):
    height, width = (side + -side % 4 for side in image.shape[:2])
    padded = np.zeros((2, height, width, 3))
    for whole, part in zip(padded, (image, gain), strict=True):
        whole[: image.shape[0], : image.shape[1]] = part
    output = padded[0] + padded[1] * np.roll(padded[0], (1, 2), (0, 1))
    return output[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("whole", [True, False])
def test_the_mean_of_eight_views(whole):
    rng = np.random.default_rng(0)
    images = [rng.random((7, 10, 3), np.float32) for _ in range(2)]
    gains = [rng.random((7, 10, 1), np.float32) for _ in range(2)]
    ensemble = SelfEnsemble(Enhancer(Slanted(), {}))
    if whole:
        found = [
            ensemble(image, raw=True, gain=gain)
            for image, gain in zip(images, gains, strict=True)
        ]
    else:
        found = ensemble.batch(images, raw=True, gain=gains)
    for image, gain, output in zip(images, gains, found, strict=True):
        expected = 0
        for k in range(4):
            turned = slanted(np.rot90(image, k), np.rot90(gain, k))
            expected = expected + np.rot90(turned, -k)
            # The other order of mirror and turn: the same eight views.
            turned = slanted(np.rot90(image, k)[::-1], np.rot90(gain, k)[::-1])
            expected = expected + np.rot90(turned[::-1], -k)
        np.testing.assert_allclose(output, expected / 8, atol=1e-6)


def test_scores_of_an_ensemble_are_marked():
    plain, found = evaluate(), evaluate(self_ensemble=True, batch_size=2)
    # A gain does not see how an image is turned.
    assert found.mean == pytest.approx(plain.mean, abs=1e-4)
    assert found.marks == ["self-ensemble of 8"]
    assert found.to_dict()["options"]["self_ensemble"] is True
    assert plain.to_dict()["options"]["self_ensemble"] is False
    assert evaluate(self_ensemble=True, tile=16).mean == pytest.approx(plain.mean)
    with pytest.raises(ValueError, match="does not suit turned images"):
        evaluate(self_ensemble=True, protocol="snr")
