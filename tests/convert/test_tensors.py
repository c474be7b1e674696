import numpy as np

from llie_jax.convert.tensors import to_flax


def test_convolution():
    tensor = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    found = to_flax(tensor, "kernel", (5, 7, 3, 2))
    assert found[4, 6, 2, 1] == tensor[1, 2, 4, 6]


def test_depthwise():
    tensor = np.arange(8 * 9).reshape(8, 1, 3, 3)
    found = to_flax(tensor, "kernel", (3, 3, 1, 8))
    assert found[1, 2, 0, 5] == tensor[5, 0, 1, 2]


def test_linear():
    tensor = np.arange(6).reshape(2, 3)
    assert np.array_equal(to_flax(tensor, "kernel", (3, 2)), tensor.T)


def test_linear_and_1x1_convolution_stand_for_each_other():
    linear = np.arange(6).reshape(2, 3)
    convolution = linear[:, :, None, None]
    assert np.array_equal(to_flax(linear, "kernel", (1, 1, 3, 2))[0, 0], linear.T)
    assert np.array_equal(to_flax(convolution, "kernel", (3, 2)), linear.T)


def test_vectors():
    vector = np.arange(4)
    assert np.array_equal(to_flax(vector, "scale", (4,)), vector)
    assert np.array_equal(to_flax(vector.reshape(1, 4, 1, 1), "beta", (4,)), vector)


def test_other_shapes_are_refused():
    assert to_flax(np.zeros((4,)), "bias", (5,)) is None
    assert to_flax(np.zeros((2, 4, 1, 1)), "beta", (4,)) is None
    # 64 -> 1 channels is no depthwise convolution, although the sizes agree.
    assert to_flax(np.zeros((1, 64, 3, 3)), "kernel", (3, 3, 1, 64)) is None
