import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llie_jax import losses, registry
from llie_jax.losses.frequency import laplacian_residue

BASIC = [losses.l1, losses.mse, losses.charbonnier, losses.edge]
BASIC += [losses.amplitude_spectrum, losses.ssim, losses.tonemapped_l1]


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def relative_error(value, expected):
    return np.max(np.abs(value - expected)) / np.max(np.abs(expected))


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden / "darkir_losses.npz")


def test_golden_values(data):
    prediction, target = nhwc(data["pred"]), nhwc(data["target"])
    values = {
        "l1_loss": losses.l1(prediction, target),
        "charbonnier_loss": losses.charbonnier(prediction, target, eps=1e-12),
        "edge_loss_w50": 50 * losses.edge(prediction, target),
        "frequency_l2_mean": losses.amplitude_spectrum(prediction, target),
    }
    for key, value in values.items():
        assert value.shape == (2,)
        assert relative_error(value.mean(), data[key]) < 1e-5, key


def test_golden_laplacian_and_gradient(data):
    prediction, target = nhwc(data["pred"]), nhwc(data["target"])
    residue = laplacian_residue(prediction)
    assert relative_error(residue, nhwc(data["laplacian_pred"])) < 1e-5
    grad = jax.grad(lambda p: 50 * losses.edge(p, target).mean())(prediction)
    assert relative_error(grad, nhwc(data["edge_grad_pred"])) < 1e-5


def test_laplacian_residue_at_odd_sizes_matches_the_definition():
    image = np.random.default_rng(0).random((1, 5, 7, 1))
    kernel = np.outer(*[[0.05, 0.25, 0.4, 0.25, 0.05]] * 2)

    def blur(u):
        padded = np.pad(u, 2, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
        return np.einsum("hwij,ij->hw", windows, kernel)

    sparse = np.zeros((5, 7))
    sparse[::2, ::2] = 4 * blur(image[0, :, :, 0])[::2, ::2]
    expected = image[0, :, :, 0] - blur(sparse)
    result = laplacian_residue(jnp.asarray(image, jnp.float32))[0, :, :, 0]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_hand_computed_values():
    white, black = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3))
    half = white.at[1].set(0.5)
    np.testing.assert_allclose(losses.l1(half, black), [1, 0.5])
    np.testing.assert_allclose(losses.mse(half, black), [1, 0.25])
    np.testing.assert_allclose(losses.l1(half, black, reduce="sum"), [48, 24])
    np.testing.assert_allclose(losses.charbonnier(black, black), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(
        losses.charbonnier(half, black, eps=0.75), np.sqrt([1.75, 1.0]), rtol=1e-6
    )
    # Only the mean differs: one amplitude of 16 (or 8) among 4 x 3 bins.
    np.testing.assert_allclose(
        losses.amplitude_spectrum(half, black), [256 / 12, 64 / 12], rtol=1e-6
    )


def test_tonemapped_l1_by_hand():
    """CPGA-Net+'s HDR loss: log(1 + 5000 x) / log 5001."""
    target = jnp.asarray([1.0, 0.5, 0.0, 0.01])[:, None, None, None]
    compressed = np.log([5001, 2501, 1, 51]) / np.log(5001)
    np.testing.assert_allclose(
        losses.tonemapped_l1(jnp.zeros_like(target), target), compressed, rtol=1e-6
    )
    # Outputs below 0 have no logarithm; they are pushed back up.
    slope = jax.grad(lambda p: losses.tonemapped_l1(p, target).sum())(-0.1 + 0 * target)
    assert np.isfinite(slope).all()
    assert np.all(slope < 0)


def test_ssim_of_flat_images_by_hand():
    """Flat images have no contrast, so only the window means are compared.

    At the border, the zero padding gives the windows less weight and some contrast; one
    window fits in the middle of 11 x 11 pixels.
    """
    x, y = 0.6, 0.2
    prediction, target = jnp.full((1, 11, 11, 1), x), jnp.full((1, 11, 11, 1), y)
    np.testing.assert_allclose(losses.ssim(prediction, prediction), 0, atol=1e-6)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()
    # How much of each window lies inside the image.
    inside = np.convolve(np.ones(11), taps, mode="same")
    inside = np.outer(inside, inside)
    c1, c2 = 0.01**2, 0.03**2
    spread = inside * (1 - inside)
    similarity = (2 * x * y * inside**2 + c1) * (2 * x * y * spread + c2)
    similarity /= ((x**2 + y**2) * inside**2 + c1) * ((x**2 + y**2) * spread + c2)
    np.testing.assert_allclose(
        losses.ssim(prediction, target), 1 - similarity.mean(), rtol=1e-4
    )
    # Only its centre follows the textbook formula.
    middle = (2 * x * y + c1) / (x**2 + y**2 + c1)
    np.testing.assert_allclose(similarity[5, 5], middle, rtol=1e-6)


def test_ssim_of_opposite_patterns():
    """Same contrast, opposite sign: the correlation is -1 around the mean of 0."""
    pattern = jnp.asarray(np.indices((16, 16)).sum(0) % 2 * 2.0 - 1)[None, :, :, None]
    value = losses.ssim(
        jnp.concatenate([pattern] * 2), jnp.concatenate([pattern, -pattern])
    )
    np.testing.assert_allclose(value, [0, 2], atol=0.15)  # less contrast at the border
    assert np.isfinite(losses.ssim(1e4 * pattern, 1e4 * pattern)).all()


@pytest.mark.parametrize("loss", BASIC, ids=lambda loss: loss.__name__)
def test_gradients_are_finite_on_flat_images(loss):
    black = jnp.zeros((1, 6, 5, 3))
    flat = [black, black + 0.3, black + 1, black + jnp.array([0.2, 0, 1])]
    grads = jax.jit(jax.grad(lambda p, t: loss(p, t).sum(), argnums=(0, 1)))
    for prediction in flat:
        for target in flat:
            for grad in grads(prediction, target):
                assert np.isfinite(grad).all()


@pytest.mark.parametrize("loss", BASIC, ids=lambda loss: loss.__name__)
def test_reduced_in_float32(loss):
    rng = np.random.default_rng(1)
    prediction, target = (
        jnp.asarray(rng.random((2, 8, 8, 3)), jnp.bfloat16) for _ in range(2)
    )
    value = loss(prediction, target)
    assert value.dtype == jnp.float32
    exact = loss(prediction.astype(jnp.float32), target.astype(jnp.float32))
    np.testing.assert_array_equal(value, exact)


@pytest.mark.parametrize("loss", BASIC, ids=lambda loss: loss.__name__)
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\).*\(1, 4, 4, 1\)"):
        loss(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 1)))


def test_bad_options():
    image = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="'mean' or 'sum', not 'avg'"):
        losses.l1(image, image, reduce="avg")
    with pytest.raises(ValueError, match="eps > 0"):
        losses.charbonnier(image, image, eps=0.0)
    with pytest.raises(ValueError, match="mu > 0, got 0"):
        losses.tonemapped_l1(image, image, mu=0)


def test_registered():
    for loss in BASIC:
        assert registry.get(loss.__name__, kind="loss").make is loss
