"""Parameters and multiply-accumulates (MACs) of a model, counted from shapes.

The model is traced, never compiled or run, so any size is counted in about a second.
XLA's own estimate is no substitute: it is wrong for padded convolutions, for FFTs and
for loops.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from llie_jax import jaxprs, registry
from llie_jax.models.base import Model, variable_shapes
from llie_jax.nn import conv_kernels
from llie_jax.nn.layers import FvcoreCounted

_RESIZES = ("adaptive_mean", "resize_aligned", "resize_bilinear")
"""Names of jitted functions whose products only average or interpolate."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one image costs.

    Attributes:
        size: (height, width) of the image in pixels, divisible by the model's
            `multiple`.
        params: number of parameters, including values learned without a gradient
            (LFPV's bank).
        inference_params: of these, the ones that the enhanced image depends on; heads
            that serve only the training loss are excluded.
        macs: multiply-accumulates of convolutions, linear layers and matrix products
            that the enhanced image depends on. Activations, norms, biases, resizes and
            FFTs are not counted.
        macs_fvcore: the same as the tool fvcore counts the authors' code, which papers
            report. It adds layer norms (5 per element), bilinear resizes (4 per
            output element) and adaptive pooling (1 per input element), but only where
            the authors use PyTorch's own layers for them. Where our form of a
            computation needs fewer products than theirs (ADR's generated kernels),
            theirs are counted.
    """

    size: tuple[int, int]
    params: int
    inference_params: int
    macs: int
    macs_fvcore: int


def count(spec: registry.Spec, size: Sequence[int] = (256, 256)) -> Costs:
    """Returns the costs of a model for one image.

    Args:
        spec: the model.
        size: (height, width) in pixels, rounded up to the model's `multiple`, as
            inference pads.

    Raises:
        ValueError: if the spec is unknown or a side is less than 1.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}; give (height, width) in pixels.")
    model = registry.build(spec)
    height, width = (-(-side // model.multiple) * model.multiple for side in size)
    with conv_kernels.use_implementation("lax"):  # the fastest to trace
        return _count(model, (height, width))


def _count(model: Model, size: tuple[int, int]) -> Costs:
    variables = variable_shapes(model, size)
    learned = {name: variables.pop(name) for name in model.learned if name in variables}
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    fvcore = _FvcoreRules()

    def enhance(learned, rest, image):
        outputs, made = model.apply({**rest, **learned}, image, mutable=["cache"])
        return outputs.image, made

    with nn.intercept_methods(fvcore):
        jaxpr = jax.make_jaxpr(enhance)(learned, variables, image).jaxpr
    image, *cache = jaxpr.outvars
    # Inference has the cache already.
    needed, _ = jaxprs.needed(jaxpr.eqns, [image], given=cache)
    # The cache is computed from parameters too.
    _, used = jaxprs.needed(jaxpr.eqns, [image])
    sizes = [leaf.size for leaf in jax.tree.leaves(learned)]
    return Costs(
        size=size,
        params=sum(sizes),
        inference_params=sum(
            size
            for size, variable in zip(sizes, jaxpr.invars, strict=False)
            if variable in used  # `learned` is first among the inputs
        ),
        macs=sum(map(_macs, needed)),
        macs_fvcore=fvcore.macs(needed),
    )


class _FvcoreRules:
    """Counts as fvcore does, with special rules for `FvcoreCounted` Modules.

    Each call of such a Module is traced in its own named scope, which identifies its
    equations.
    """

    _SCOPE = re.compile(r"fvcore_rule_(\d+)_")

    def __init__(self):
        self._counts = []
        self._inside = False

    def __call__(self, call, args, kwargs, context):
        """Interceptor of `flax.linen.intercept_methods`."""
        module = context.module
        covered = isinstance(module, FvcoreCounted) and not self._inside
        if not covered or context.method_name != "__call__":
            return call(*args, **kwargs)
        scope = f"fvcore_rule_{len(self._counts)}_"
        self._counts.append(module.fvcore_macs(*args, **kwargs))
        self._inside = True  # the rule covers the modules inside
        try:
            with jax.named_scope(scope):
                return call(*args, **kwargs)
        finally:
            self._inside = False

    def macs(self, equations: Sequence[core.JaxprEqn]) -> int:
        """Returns the count of the rules that apply, and of the other equations."""
        applied = set()

        def covered(equation):
            rule = self._SCOPE.search(str(equation.source_info.name_stack))
            if rule:
                applied.add(int(rule[1]))
            return bool(rule)

        others = sum(_macs(equation, covered) for equation in equations)
        return others + sum(self._counts[rule] for rule in applied)


def count_macs(function: Callable, *args: Any) -> int:
    """Returns the MACs of all convolutions and matrix products in a function.

    Args:
        function: any function that JAX can trace.
        *args: its arguments, arrays or `jax.ShapeDtypeStruct`s. Inside `shard_map`
            the count is that of one device.

    Raises:
        ValueError: if a loop of unknown length contains any.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return sum(map(_macs, jaxprs.needed(jaxpr.eqns, jaxpr.outvars)[0]))


def _macs(equation: core.JaxprEqn, skip: Callable = lambda equation: False) -> int:
    """Returns the MACs of an equation and those inside it; `skip` excludes some."""
    name, parameters = equation.primitive.name, equation.params
    if skip(equation) or parameters.get("name") in _RESIZES:
        return 0
    if name == "conv_general_dilated":
        return _convolution_macs(equation)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)

    inner = [
        sum(_macs(inner, skip) for inner in jaxprs.needed(jaxpr.eqns, jaxpr.outvars)[0])
        for value in parameters.values()
        for jaxpr in _jaxprs(value)
    ]
    if name == "cond":
        # The branches implement the same computation for different backends. The last
        # one is the plain one; others avoid products, or add some with zeros.
        return inner[-1]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "while" and any(inner):
        raise ValueError(
            "A loop of unknown length contains convolutions or matrix products, whose "
            "MACs cannot be counted; use lax.scan or a fixed number of iterations."
        )
    return sum(inner)


def _convolution_macs(equation: core.JaxprEqn) -> int:
    """Returns weights times positions; zero padding counts, as in the papers."""
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    # A transposed convolution multiplies each weight once per position of its input.
    transposed = max(parameters["lhs_dilation"]) > 1
    shape, axes = (
        (image, numbers.lhs_spec)
        if transposed
        else (equation.outvars[0].aval.shape, numbers.out_spec)
    )
    positions = math.prod(shape[axis] for axis in axes[2:])
    batch = image[numbers.lhs_spec[0]] // parameters["batch_group_count"]
    return batch * positions * math.prod(kernel)


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    """Returns the jaxprs in one parameter of an equation."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, list | tuple):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    return []
