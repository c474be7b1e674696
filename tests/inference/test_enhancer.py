"""The enhancer: cached programs, inputs, random keys, batches, padding."""

import gc
import json
import os
import subprocess
import sys
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llie_jax
from llie_jax.inference import programs
from llie_jax.inference.enhancer import Enhancer, check_finite
from llie_jax.models.base import ModelCard, card, variable_shapes
from llie_jax.registry import register
from tests.conftest import ROOT
from tests.inference import toys


def random_variables(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        variable_shapes(model),
    )


def floats(height, width, seed=0):
    return toys.photo(height, width, seed=seed) / np.float32(255)


def test_few_programs_are_alive_and_the_others_are_freed():
    enhancer = Enhancer(toys.Gain(), {})
    first = None
    for number in range(programs.LIMIT + 3):
        image = np.full((8, 8 + 8 * number, 3), 9, np.uint8)
        np.testing.assert_array_equal(enhancer(image), 2 * image)
        assert len(programs.PROGRAMS) <= programs.LIMIT
        if first is None:
            newest = next(reversed(programs.PROGRAMS._programs))
            first = weakref.ref(programs.PROGRAMS._programs[newest])
            assert first() is not None
    gc.collect()
    assert first() is None


def test_the_least_recently_used_program_is_given_up():
    made = []
    kept = programs.Programs(limit=2)

    def program(key):
        return kept.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        assert program(key) == key
    assert made == ["a", "b", "c", "b"]
    assert len(kept) == 2
    kept.clear()
    assert len(kept) == 0


def test_programs_that_are_given_up_leave_compiled_functions_alone():
    traced = []

    @jax.jit
    def function(x):
        traced.append(x.shape)
        return jnp.sin(x)

    function(np.ones(3, np.float32))
    kept = programs.Programs(limit=2)
    for key in range(7):
        kept.get(key, object)
    function(np.ones(3, np.float32))
    assert traced == [(3,)]


def test_a_program_that_does_not_compile_is_not_kept():
    kept = programs.Programs(limit=2)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)
    assert kept.get("a", lambda: 5) == 5


def run_photos(count):
    done = subprocess.run(
        [sys.executable, "-m", "tests.inference.memory_check", str(count)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_two_hundred_photos_of_two_hundred_sizes():
    found = run_photos(200)
    assert found["difference"] <= 1
    assert max(found["alive"]) <= programs.LIMIT
    assert max(found["memory"][20:]) - found["memory"][19] < 50


def test_other_variables_compile_nothing():
    calls = chex.assert_max_traces(lambda: None, n=2)  # looks for the cache once

    class Counted(toys.Convolutions):
        def __call__(self, image, **options):
            calls()
            return super().__call__(image, **options)

    model = Counted()
    variables = [random_variables(toys.Convolutions(), seed) for seed in range(3)]
    chex.clear_trace_counter()
    image = floats(8, 16)
    enhancer = Enhancer(model, variables[0])
    results = [enhancer(image)]
    for other in variables[1:]:
        enhancer = enhancer.with_variables(other)
        results.append(enhancer(image))
    results.append(Enhancer(model, variables[0])(image))
    np.testing.assert_array_equal(results[0], results[3])
    assert np.abs(results[0] - results[1]).max() > 1e-3
    assert np.abs(results[1] - results[2]).max() > 1e-3
    wrong = {"params": {"first": variables[0]["params"]["first"]}}
    with pytest.raises(ValueError, match="make a new Enhancer for them"):
        enhancer.with_variables(wrong)


def test_enhance_prepares_once_and_keeps_little(monkeypatch):
    from llie_jax.inference import enhancer as module

    prepared = []
    prepare = module.prepare.prepare
    monkeypatch.setattr(
        module.prepare,
        "prepare",
        lambda model, variables: prepared.append(1) or prepare(model, variables),
    )
    model, image = toys.Convolutions(), toys.photo(16, 16)
    variables = random_variables(model)
    for _ in range(3):
        llie_jax.enhance(model, variables, image)
    assert len(prepared) == 1
    old = weakref.ref(variables["params"]["first"]["kernel"])
    del variables
    for seed in range(1, 4):
        llie_jax.enhance(model, random_variables(model, seed), image)
    assert len(prepared) == 4
    gc.collect()
    assert old() is None


def test_numpy_variables_may_be_changed_in_place():
    model, image = toys.Convolutions(), floats(8, 8)
    variables = jax.tree.map(np.array, random_variables(model))
    before = llie_jax.enhance(model, variables, image, clip=False)
    variables["params"]["last"]["bias"] += 0.25
    after = llie_jax.enhance(model, variables, image, clip=False)
    np.testing.assert_allclose(after, before + 0.25, atol=1e-6)


def test_results_belong_to_the_caller():
    image = floats(8, 8)
    enhancer = Enhancer(toys.Gain(), {})
    for raw in (True, False):
        result = enhancer(image, raw=raw)
        result += 1  # neither read-only nor the program's own memory
        np.testing.assert_allclose(enhancer(image, raw=raw), result - 1, atol=1e-6)


def test_a_sampled_image_does_not_depend_on_its_batch():
    images = np.stack([floats(8, 12, seed) for seed in range(3)])
    enhancer = Enhancer(toys.Sampler(), {}, rng=5)
    together = enhancer.batch(images, raw=True)
    for number, image in enumerate(images):
        alone = enhancer(image, raw=True, number=number)
        np.testing.assert_array_equal(alone, together[number])
    swapped = enhancer.batch(images[::-1], raw=True, numbers=[2, 1, 0])
    np.testing.assert_array_equal(swapped, together[::-1])
    noise = together - images
    assert 0 <= noise.min() < noise.max() <= 0.0101
    assert np.abs(noise[0] - noise[1]).max() > 1e-3
    other = Enhancer(toys.Sampler(), {}, rng=jax.random.key(6))
    assert np.abs(other(images[0], raw=True) - together[0]).max() > 1e-3
    same = Enhancer(toys.Sampler(), {}, rng=jax.random.key(5))
    np.testing.assert_array_equal(same(images[0], raw=True), together[0])


def test_tiles_have_noise_of_their_own_and_options_count():
    image = np.zeros((8, 16, 3), np.float32)
    enhancer = Enhancer(toys.Sampler(), {}, tile=8, overlap=0)
    result = enhancer(image)
    assert np.abs(result[:, :8] - result[:, 8:]).max() > 1e-3
    many = Enhancer(toys.Sampler(), {}, options={"steps": 50})(image)
    assert many.mean() == pytest.approx(50 * 0.005, abs=0.01)
    with pytest.raises(ValueError, match="no test option 'stepps'"):
        Enhancer(toys.Sampler(), {}, options={"stepps": 1})


@pytest.mark.parametrize("tile", [1024, 16])
def test_inputs_follow_the_image(tile):
    image = floats(21, 30)
    light = np.random.default_rng(0).random((21, 30, 1), np.float32) / 4
    enhancer = Enhancer(toys.Sampler(steps=0), {}, tile=tile, overlap=0)
    result = enhancer(image, raw=True, light=light, level=np.float32(0.125))
    np.testing.assert_allclose(result, image + light + 0.125, atol=1e-6)
    if tile == 1024:
        batch = enhancer.batch(
            [image, image[:21, :29]],
            raw=True,
            light=[light, light[:21, :29] / 2],
            level=[0.125, 0.25],
        )
        np.testing.assert_allclose(batch[0], result, atol=1e-6)
        expected = image[:21, :29] + light[:21, :29] / 2 + 0.25
        np.testing.assert_allclose(batch[1], expected, atol=1e-6)


def test_snr_net_takes_a_map():
    model = llie_jax.build({"name": "snr_net", **card("snr_net").tiny})
    variables = random_variables(model)
    image = floats(16, 16)
    enhancer = Enhancer(model, variables)
    own = np.asarray(model.native_inputs(image[None])["snr_map"])[0]
    np.testing.assert_allclose(
        enhancer(image, raw=True, snr_map=own), enhancer(image, raw=True), atol=1e-5
    )
    changed = enhancer(image, raw=True, snr_map=np.zeros_like(own))
    assert np.abs(changed - enhancer(image, raw=True)).max() > 1e-4


def test_batches():
    enhancer = Enhancer(toys.Gain(), {})
    images = np.stack([toys.photo(9, 12, seed=seed) for seed in range(2)])
    result = enhancer.batch(images)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.minimum(2 * images.astype(int), 255))
    several = enhancer.batch([images[0], images[1][:10, :10]])
    assert [each.shape for each in several] == [(9, 12, 3), (9, 10, 3)]
    with pytest.raises(ValueError, match=r"\(8, 8\), \(16, 16\)"):
        enhancer.batch([images[0], images[1][:8, :8]])
    with pytest.raises(ValueError, match="one dtype"):
        enhancer.batch([images[0], floats(9, 12)])


def test_the_plan_says_tiles_and_memory():
    enhancer = Enhancer(toys.Gain(), {}, tile=64, overlap=8)
    assert enhancer.plan((60, 60)).tiles == 1
    plan = enhancer.plan((100, 100))
    assert plan.tiles == 4
    tile, result = 64 * 64 * 3, 64 * 64 * 3 * 4
    assert tile + result <= plan.memory < 10 * result
    small = Enhancer(toys.Gain(), {}, tile=32, overlap=8).plan((100, 100))
    assert small.memory < plan.memory


def test_other_rules_of_padding():
    image = floats(9, 9)
    whole = Enhancer(toys.Normalize(), {}, multiple=32)(image)
    expected = image * 0.5 / (image.sum() / (32 * 32 * 3))
    np.testing.assert_allclose(whole, np.clip(expected, 0, 1), rtol=1e-5)
    mirrored = Enhancer(toys.Normalize(), {}, pad_mode="reflect")(image)
    assert mirrored.mean() < 0.8 * whole.mean()
    with pytest.raises(
        ValueError, match=r"12 is invalid for Normalize.*multiples of 8"
    ):
        Enhancer(toys.Normalize(), {}, multiple=12)
    with pytest.raises(ValueError, match=r"\(8, 12\) is invalid"):
        Enhancer(toys.Normalize(), {}, size=(8, 12))


@register("toy_unpadded", ModelCard(padding=False))
class Unpadded(toys.Gain):
    """A model whose images must not be padded."""


def test_a_model_that_must_not_be_padded():
    enhancer = Enhancer(Unpadded(), {})
    image = toys.photo(16, 24)
    np.testing.assert_array_equal(enhancer(image), 2 * image)
    for call in (enhancer, lambda x: enhancer.batch([x])):
        with pytest.raises(ValueError, match=r"13 x 24; Unpadded .* multiples of 8"):
            call(toys.photo(13, 24))


def test_what_is_not_finite_is_named():
    check_finite(np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.png: the model's output is not finite"):
        check_finite(np.array([0, np.inf]), "a.png")
    enhancer = Enhancer(toys.Gain(gain=float("inf")), {})
    image = np.full((8, 8, 3), 1, np.uint8)
    assert np.isinf(enhancer(image, raw=True)).all()
    with pytest.raises(ValueError, match=r"^The model's output is not finite"):
        enhancer.batch([image])
