import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax.image import hvi
from tests.official import nhwc

K = 0.2
COLOURS = {
    "black": (0, 0, 0),
    "white": (1, 1, 1),
    "grey": (0.5, 0.5, 0.5),
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "dim": (1 / 255, 0, 0),
    "tiny": (1e-30, 0, 1e-38),
    "almost grey": (0.5, 0.5, 0.50000006),
    "shades": (0.25, 0.75, 0.75),
}


def pixels(dtype=jnp.float32):
    return jnp.asarray(list(COLOURS.values()), dtype)[None, None]


@pytest.fixture(scope="module")
def data(golden):
    with np.load(golden / "cidnet_hvi.npz") as file:
        return dict(file)


def test_forward_golden(data):
    result = hvi.rgb_to_hvi(nhwc(data["rgb"]), data["k"])
    assert np.max(np.abs(result - nhwc(data["hvi"]))) <= 2e-6


@pytest.mark.parametrize(
    ("source", "expected"),
    [("hvi", "rgb_back"), ("hvi_perturbed", "rgb_from_perturbed")],
)
def test_inverse_golden(data, source, expected):
    result = hvi.hvi_to_rgb(nhwc(data[source]), data["k"])
    assert np.max(np.abs(result - nhwc(data[expected]))) <= 1e-5


def test_primaries_by_hand():
    """Full colours lie on the unit circle, 60 degrees apart; greys at its centre."""
    plane = hvi.rgb_to_hvi(pixels(), K)[0, 0]
    angles = dict(red=0, yellow=60, green=120, cyan=180, blue=240, magenta=300)
    for name, row in zip(COLOURS, plane, strict=True):
        if name in angles:
            angle = np.deg2rad(angles[name])
            expected = (np.cos(angle), np.sin(angle), 1)
            np.testing.assert_allclose(row, expected, atol=1e-6)
    np.testing.assert_array_equal(plane[:3, :2], 0)
    np.testing.assert_allclose(plane[:3, 2], [0, 1, 0.5])
    # One 255th of red: saturation 1, scaled by sin(pi / 510) ** 0.2.
    np.testing.assert_allclose(plane[9, 0], np.sin(np.pi / 510) ** K, rtol=1e-5)


def test_there_and_back():
    back = hvi.hvi_to_rgb(hvi.rgb_to_hvi(pixels(), K), K)
    np.testing.assert_allclose(back, pixels(), atol=1.1e-4)


def test_hue_just_below_red_is_red():
    """There the hue is a rounding error below the full circle."""
    for shift in (0.0, -1e-9, -3e-8, -1e-7, -1e-6):
        result = hvi.hvi_to_rgb(jnp.array([0.5, shift, 1.0]), K)
        np.testing.assert_allclose(result, [1, 0.5, 0.5], atol=1e-5)


def test_saturation_and_alpha():
    pixel = jnp.array([0.5, 0.0, 1.0])
    more = hvi.hvi_to_rgb(pixel, K, saturation=1.3)
    np.testing.assert_allclose(more, [1, 0.35, 0.35], atol=1e-5)
    full = hvi.hvi_to_rgb(pixel, K, saturation=3.0, alpha=1.5)
    np.testing.assert_allclose(full, [1.5, 0, 0], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite(dtype):
    def through(image, k, shift):
        form = hvi.rgb_to_hvi(image, k)
        return jnp.sum(jnp.sin(hvi.hvi_to_rgb(form + shift, k))) + jnp.sum(form**3)

    gradient = jax.jit(jax.grad(through, argnums=(0, 1)))
    for shift in (0.0, -1e-8, 1e-3, 2.0, -2.0):
        chex.assert_tree_all_finite(gradient(pixels(dtype), jnp.array([K]), shift))


def test_gradient_of_a_colour_matches_differences():
    image = jnp.array([[0.2, 0.55, 0.4], [0.7, 0.1, 0.3], [0.3, 0.35, 0.9]])
    chex.assert_numerical_grads(
        lambda x, k: hvi.rgb_to_hvi(x, k), (image, jnp.array([K])), order=1, atol=2e-2
    )
    form = hvi.rgb_to_hvi(image, K)
    chex.assert_numerical_grads(
        lambda x: hvi.hvi_to_rgb(x, K), (form,), order=1, atol=2e-2
    )


def test_only_the_forward_transform_learns_the_exponent():
    image = jnp.array([0.2, 0.55, 0.4])
    form = hvi.rgb_to_hvi(image, K)
    assert jax.grad(lambda k: jnp.sum(hvi.rgb_to_hvi(image, k)))(K) != 0
    assert jax.grad(lambda k: jnp.sum(hvi.hvi_to_rgb(form, k)))(K) == 0


def test_always_float32():
    image = pixels(jnp.bfloat16)
    form = hvi.rgb_to_hvi(image, jnp.array([K], jnp.bfloat16))
    assert form.dtype == hvi.hvi_to_rgb(form.astype(jnp.bfloat16), K).dtype
    assert form.dtype == jnp.float32
