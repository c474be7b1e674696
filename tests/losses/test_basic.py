import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from llie_jax import losses, registry
from llie_jax.losses.frequency import laplacian_residue
from tests.official import nhwc

BASIC = [losses.l1, losses.mse, losses.charbonnier, losses.edge]
BASIC += [losses.amplitude_spectrum, losses.ssim, losses.smooth_l1, losses.psnr]
BASIC += [losses.brightness, losses.soft_histogram]
BASIC += [losses.outlier_aware, losses.rgb_cosine, losses.tonemapped_l1]


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


def test_psnr_by_hand():
    black = jnp.zeros((2, 4, 5, 3))
    values = losses.psnr(black + jnp.array([0.1, 1])[:, None, None, None], black)
    np.testing.assert_allclose(values, [30, 50], rtol=1e-6)
    np.testing.assert_allclose(losses.psnr(black, black), -30, rtol=1e-6)
    with pytest.raises(ValueError, match="psnr needs eps > 0"):
        losses.psnr(black, black, eps=0.0)


def test_angles_between_colours_by_hand():
    red, yellow = jnp.array([0.5, 0, 0]), jnp.array([0.1, 0.1, 0])
    colours = jnp.stack([red, red + 7, -red, yellow])[:, None, None]
    values = losses.rgb_cosine(colours, jnp.broadcast_to(red, colours.shape))
    clipped = 1 - np.array([1, 1 / np.sqrt(3), 0, 1 / np.sqrt(2)])
    np.testing.assert_allclose(values, clipped, atol=1e-6)


def test_outliers_by_hand():
    error = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(0.4)  # mean 0.1, deviation 0.2
    weight = np.tanh(0.3 / (0.2 / np.sqrt(2)))
    value, gradient = jax.value_and_grad(
        lambda x: losses.outlier_aware(x, jnp.zeros_like(x))[0]
    )(error)
    np.testing.assert_allclose(value, 0.4 * weight / 4, rtol=1e-4)
    np.testing.assert_allclose(gradient[0, 0, 0, 0], weight / 4, rtol=1e-4)
    flat = jnp.full((1, 2, 2, 1), 0.3)
    np.testing.assert_allclose(losses.outlier_aware(flat, 0 * flat), 0, atol=1e-6)


def test_ms_ssim_follows_the_definition():
    """Against float64 windows of SciPy; pytorch_msssim 1.0 gives the same to 1e-5."""
    rng = np.random.default_rng(0)
    target = rng.random((161, 166, 2))
    prediction = np.clip(target + 0.3 * rng.standard_normal(target.shape), 0, 1)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(x):
        rows = ndimage.correlate1d(x, taps, axis=0)[5:-5]
        return ndimage.correlate1d(rows, taps, axis=1)[:, 5:-5]

    x, y, expected = prediction, target, 1.0
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (
                np.pad(z, ((z.shape[0] % 2, 0), (z.shape[1] % 2, 0), (0, 0)))
                .reshape(-(-z.shape[0] // 2), 2, -(-z.shape[1] // 2), 2, 2)
                .mean((1, 3))
                for z in (x, y)
            )
        mean_x, mean_y = blur(x), blur(y)
        covariance = blur(x * y) - mean_x * mean_y
        variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
        similarity = (2 * covariance + 9e-4) / (variances + 9e-4)
        if scale == 4:
            similarity *= (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        expected = expected * similarity.mean((0, 1)) ** power
    found = jax.jit(losses.ms_ssim)(
        jnp.asarray(prediction[None], jnp.float32),
        jnp.asarray(target[None], jnp.float32),
    )
    np.testing.assert_allclose(found, [1 - expected.mean()], atol=1e-5)


@pytest.mark.usefixtures("native_convolutions")
def test_ms_ssim_of_extremes():
    """Equal images, and negatives, whose negative correlation counts as none."""
    image = jnp.asarray(np.random.default_rng(0).random((1, 161, 161, 1)), jnp.float32)
    shades = (image, 1 - image, 0 * image, 0 * image + 1, 0 * image + 0.5)
    images, target = jnp.concatenate(shades), jnp.concatenate([image] * 5)

    @jax.jit
    def both(images, target):
        values, pull = jax.vjp(losses.ms_ssim, images, target)
        return values, pull(jnp.ones_like(values))

    values, gradients = both(images, target)
    np.testing.assert_allclose(values[:2], [0, 1], atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    with pytest.raises(ValueError, match="at least 161 x 161 pixels; got 160 x 161"):
        losses.ms_ssim(image[:, 1:], image[:, 1:])


def test_distributions_by_hand():
    """Half of the values at one of two bins, all at the other: they differ by half."""
    target = jnp.zeros((2, 1, 2, 1))
    prediction = target.at[0, 0, 1].set(1.0)
    options = dict(bins=2, sigma=0.1)
    found = losses.soft_histogram(prediction, target, **options)
    # Weights of 1/2 each, one of them in another bin, over 2 values and 2 bins.
    np.testing.assert_allclose(found, [(0.5 + 0.5) / 4, 0], atol=1e-6)
    np.testing.assert_allclose(losses.brightness(prediction, target), [0.5, 0])
    with pytest.raises(ValueError, match="bins=1 and sigma"):
        losses.soft_histogram(prediction, target, bins=1, sigma=0.1)
    far = losses.soft_histogram(prediction + 100, target, **options)
    assert np.isfinite(far).all()


def test_smooth_l1_by_hand():
    target = jnp.zeros((3, 2, 2, 1))
    prediction = target + jnp.array([0.1, 1.0, 3.0])[:, None, None, None]
    np.testing.assert_allclose(
        losses.smooth_l1(prediction, target), [0.005, 0.5, 2.5], rtol=1e-6
    )
    with pytest.raises(ValueError, match="beta > 0"):
        losses.smooth_l1(prediction, target, beta=0.0)


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
    for loss in [*BASIC, losses.ms_ssim]:
        assert registry.get(loss.__name__, kind="loss").make is loss


def test_charbonnier_of_a_clipped_prediction():
    prediction = jnp.asarray([-1.0, 0.25, 3.0]).reshape(1, 1, 3, 1)
    target = jnp.asarray([0.0, 0.75, 0.5]).reshape(1, 1, 3, 1)

    def loss(prediction):
        return losses.charbonnier(prediction, target, clip=True, reduce="sum")[0]

    value, gradient = jax.value_and_grad(loss)(prediction)
    np.testing.assert_allclose(value, 1e-3 + 2 * np.sqrt(0.25 + 1e-6), rtol=1e-6)
    np.testing.assert_allclose(gradient.ravel(), [0, -1, 0], atol=1e-5)
