"""Tools for jaxprs: finds the equations that a result needs, and batches equal ones.

A jaxpr is a list of equations, see https://docs.jax.dev/en/latest/jaxpr.html.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core


def needed(
    equations: Sequence[core.JaxprEqn], outputs: Sequence, given: Sequence = ()
) -> tuple[list[core.JaxprEqn], set[core.Var]]:
    """Returns the equations that `outputs` depend on, and the variables used.

    Args:
        equations: those of a jaxpr.
        outputs: the variables, or literals, that are wanted.
        given: variables with known values, whose own equations are not needed.

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
    """Returns an equivalent function that compiles faster.

    Each array of the result has a recipe, the equations that it needs. Recipes that
    differ only in their literal numbers run in one loop over these numbers, and
    equations that no array needs are dropped. Of a model's `init`, only the
    initialisers remain: one per kind of parameter, not one per parameter.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        jaxpr = closed.jaxpr
        given = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        given.update(zip(jaxpr.invars, jax.tree.leaves(args), strict=True))
        makers = {v: equation for equation in jaxpr.eqns for v in equation.outvars}

        groups = {}
        for position, variable in enumerate(jaxpr.outvars):
            recipe = _Recipe(variable, makers)
            groups.setdefault(recipe.kind, []).append((position, recipe))
        leaves = [None] * len(jaxpr.outvars)
        for group in groups.values():
            positions, recipes = zip(*group, strict=True)
            for position, value in zip(positions, _make(recipes, given), strict=True):
                leaves[position] = value
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return run


class _Recipe:
    """How one variable of a jaxpr is computed.

    Attributes:
        equations: the equations it needs, in an order of execution.
        numbers: the literals that may differ between recipes of the same kind.
        kind: equal for recipes that differ in `numbers` only.
    """

    def __init__(self, variable, makers: Mapping[core.Var, core.JaxprEqn]):
        self.equations, self.numbers, self._variable = [], [], variable
        kind, places = [], {}

        def describe(v, open_=False):
            if isinstance(v, core.Var):
                return places.get(v, v)
            if open_:
                self.numbers.append(v.val)
            return str(v.aval) if open_ else str(v)

        def collect(v):
            if not isinstance(v, core.Var) or v in places or v not in makers:
                return
            equation = makers[v]
            for needed_ in equation.invars:
                collect(needed_)
            open_ = _takes_numbers(equation)
            inputs = tuple(describe(needed_, open_) for needed_ in equation.invars)
            kind.append((_operation(equation), inputs))
            self.equations.append(equation)
            for made in equation.outvars:
                places[made] = len(places)

        collect(variable)
        self.kind = (*kind, describe(variable))

    def __call__(self, numbers: Sequence, given: Mapping[core.Var, Any]) -> jax.Array:
        """Returns the variable's value.

        Args:
            numbers: replace those of the recipe.
            given: values of the jaxpr's inputs and constants.
        """
        values, numbers = dict(given), iter(numbers)

        def read(v, open_=False):
            if isinstance(v, core.Var):
                return values[v]
            return next(numbers) if open_ else v.val

        for equation in self.equations:
            open_ = _takes_numbers(equation)
            inputs = [read(v, open_) for v in equation.invars]
            results = equation.primitive.bind(*inputs, **equation.params)
            if not equation.primitive.multiple_results:
                results = [results]
            values.update(zip(equation.outvars, results, strict=True))
        return read(self._variable)


def _takes_numbers(equation: core.JaxprEqn) -> bool:
    """Returns whether an equation's literals are numbers of its recipe.

    Other literals stay constants, which XLA folds: a loop over them would round
    differently.
    """
    return equation.primitive.name in ("jit", "random_fold_in")


def _operation(equation: core.JaxprEqn) -> tuple:
    """Returns what an equation computes, regardless of the values of its inputs."""
    parameters = (
        # JAX caches the jaxpr of a traced function, so equal ones are the same object.
        (name, id(value) if isinstance(value, core.ClosedJaxpr) else str(value))
        for name, value in sorted(equation.params.items())
    )
    shapes = (str(v.aval) for v in equation.invars)
    return equation.primitive, *parameters, *shapes


def _make(recipes: Sequence[_Recipe], given: Mapping[core.Var, Any]) -> Sequence:
    """Returns the values of recipes of the same kind."""
    first = recipes[0]
    if len(recipes) == 1 or not first.numbers:
        return [first(first.numbers, given)] * len(recipes)
    columns = zip(*(recipe.numbers for recipe in recipes), strict=True)
    # Not vmapped: XLA would recompute each row where it is sliced out.
    return jax.lax.map(
        lambda numbers: first(numbers, given), [np.stack(column) for column in columns]
    )
