"""Functions as JAX traces them: which equations a result needs, and equal ones at once.

A jaxpr is a list of equations, see https://docs.jax.dev/en/latest/jaxpr.html.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def needed(
    equations: Sequence[core.JaxprEqn], outputs: Sequence, given: Sequence = ()
) -> tuple[list[core.JaxprEqn], set[core.Var]]:
    """Returns the equations that `outputs` depend on, and the variables used.

    Args:
        equations: those of a jaxpr.
        outputs: the variables, or literals, that are wanted.
        given: variables whose values are known: what they are made of is not needed.

    Returns:
        The equations in their order; the variables that they read, and the outputs.
    """
    given = {v for v in given if isinstance(v, core.Var)}
    used = {v for v in outputs if isinstance(v, core.Var)}
    found = []
    for equation in reversed(equations):
        if equation.effects or used.intersection(equation.outvars) - given:
            found.append(equation)
            used.update(v for v in equation.invars if isinstance(v, core.Var))
    return found[::-1], used


def batched(function: Callable) -> Callable:
    """Returns a function of the same values that compiles faster.

    What the result does not need is left out, and equal equations on different values
    become one equation on all of them. Of a model's `init`, only the initialisers are
    left: one for each shape of a parameter, not one for each parameter.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(args), strict=True))

        def known(v):
            return isinstance(v, core.Literal) or v in values

        def read(v):
            return v.val if isinstance(v, core.Literal) else values[v]

        waiting, _ = needed(jaxpr.eqns, jaxpr.outvars)
        while waiting:
            groups, later = {}, []
            for equation in waiting:
                if all(map(known, equation.invars)):
                    groups.setdefault(_kind(equation), []).append(equation)
                else:
                    later.append(equation)
            for group in groups.values():
                inputs = [[read(v) for v in equation.invars] for equation in group]
                results = _apply(group[0], inputs)
                for equation, outputs in zip(group, results, strict=True):
                    values.update(zip(equation.outvars, outputs, strict=True))
            waiting = later
        leaves = [_value(read(v)) for v in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return run


class _Row(NamedTuple):
    """One row of an array of results; cut out only where it is needed alone."""

    rows: jax.Array
    index: int


def _value(value: Any) -> Any:
    return value.rows[value.index] if isinstance(value, _Row) else value


def _stack(values: Sequence) -> Any:
    """Returns the values, or rows, as the rows of one array."""
    first = values[0]
    if isinstance(first, _Row) and all(
        isinstance(value, _Row) and value.rows is first.rows for value in values
    ):
        return first.rows[np.array([value.index for value in values])]
    if all(
        isinstance(value, np.generic | np.ndarray | float | int) for value in values
    ):
        return np.stack(values)
    return jnp.stack(list(map(_value, values)))


def _kind(equation: core.JaxprEqn) -> tuple:
    """Returns what is equal for equations that differ only in values of inputs."""
    parameters = tuple(
        # JAX keeps the jaxpr of a function that it has traced: equal ones are the same.
        (name, id(value) if isinstance(value, core.ClosedJaxpr) else str(value))
        for name, value in sorted(equation.params.items())
    )
    return (
        equation.primitive,
        parameters,
        tuple(v.aval.str_short() for v in equation.invars),
        id(equation) if equation.effects else None,
    )


def _apply(equation: core.JaxprEqn, inputs: list[list]) -> list[list]:
    """Returns the results of an equation for each of several lists of inputs."""

    def apply(*inputs):
        results = equation.primitive.bind(*inputs, **equation.params)
        return results if equation.primitive.multiple_results else [results]

    if len(inputs) == 1 or not inputs[0]:
        return [apply(*map(_value, each)) for each in inputs]
    stacked = [_stack(column) for column in zip(*inputs, strict=True)]
    # In a loop: of what is vectorised, XLA computes each row again where it is cut out.
    results = jax.lax.map(lambda row: apply(*row), stacked)
    return [[_Row(result, i) for result in results] for i in range(len(inputs))]
