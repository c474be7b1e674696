"""Parts by name: `register` them, then `build` them from plain specs.

A spec is what a config file or a release file holds: a name, or a dict with a `name`
and any of the part's fields. Omitted fields take the part's defaults.

    build("darkir")
    build({"name": "darkir", "width": 64, "dilations": [1]})
    build({"name": "lfpv", "backbone": {"name": "darkir"}})

A lookup imports the modules that register the parts of its kind.
"""

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax.numpy as jnp
from flax import linen as nn

from llie_jax import messages

Spec = str | Mapping[str, Any]

_PARTS: dict[str, dict[str, "Part"]] = {}
_HOMES = {
    "model": "llie_jax.models",
    "norm": "llie_jax.models",
    "reallocation": "llie_jax.models",
    "kernel": "llie_jax.models",
    "amplitude": "llie_jax.models",
    "update_rule": "llie_jax.models",
    "loss": "llie_jax.losses",
    "weight_schedule": "llie_jax.losses",
    "metric": "llie_jax.metrics",
    "optimizer": "llie_jax.optimizers",
    "schedule": "llie_jax.schedules",
}
"""The modules whose import registers the parts of a kind."""

_MODULE_INTERNALS = ("parent", "name")
_DTYPE_FIELDS = ("dtype", "param_dtype")
_LIST = list | tuple
_LARGEST = 2**31  # no size and no count comes near it

# The type of a field's default, the accepted types, and their name in messages. In
# Python a bool is also an int.
_TYPES = (
    (bool, bool, "a boolean"),
    (int, int, "an integer"),
    (float, int | float, "a number"),
    (str, str, "a string"),
    (_LIST, _LIST, "a list"),
    (Mapping, Mapping, "a dict"),
)


@dataclasses.dataclass(frozen=True)
class Card:
    """Facts about a part; kinds with facts of their own subclass it.

    Attributes:
        kind: "model", "loss", ...; names are unique within a kind. A subclass for one
            kind sets it as the default.
        internal: fields of the part that its caller sets and specs cannot.

    Raises:
        TypeError: for an unknown fact.
    """

    kind: str
    internal: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __new__(cls, *args, **facts):
        """Rejects unknown facts and suggests the nearest known one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for fact in facts:
            if fact not in known:
                raise TypeError(
                    f"{cls.__name__} has no fact {fact!r}."
                    f"{messages.suggest(fact, known)} Facts: {', '.join(known)}."
                )
        return super().__new__(cls)


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part.

    Attributes:
        name: the name in specs.
        make: a Module class, or a function whose keyword-only options are its fields.
        card: the facts about it.
    """

    name: str
    make: Callable[..., Any]
    card: Card

    @property
    def kind(self) -> str:
        """The kind of the part: "model", "loss", ..."""
        return self.card.kind

    def fields(self) -> dict[str, Any]:
        """Returns the defaults of all fields; `inspect.Parameter.empty` if required."""
        hidden = (*_MODULE_INTERNALS, *self.card.internal)
        if dataclasses.is_dataclass(self.make):
            found = {}
            # The dtypes, inherited from `Layer`, come first; list them last.
            fields = dataclasses.fields(self.make)
            for field in sorted(fields, key=lambda field: field.name in _DTYPE_FIELDS):
                if not field.init or field.name in hidden:
                    continue
                if field.default is not dataclasses.MISSING:
                    found[field.name] = field.default
                elif field.default_factory is not dataclasses.MISSING:
                    found[field.name] = field.default_factory()
                else:
                    found[field.name] = inspect.Parameter.empty
            return found
        return {
            parameter.name: parameter.default
            for parameter in inspect.signature(self.make).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            and parameter.name not in hidden
        }

    def takes_none(self, field: str) -> bool:
        """Returns whether the annotation of a field allows None."""
        return type(None) in get_args(self.make.__annotations__.get(field))


@dataclasses.dataclass(frozen=True)
class Factory:
    """A slot's part with the fields that its spec sets; calling it makes a module.

    Factories compare by value. Two `functools.partial` objects are never equal, so a
    model that holds one would recompile each time it is built.

    Attributes:
        make: the Module class.
        fields: pairs of name and value.
    """

    make: Callable[..., nn.Module]
    fields: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any, **more: Any) -> nn.Module:
        """Returns a module; the caller's arguments override the spec's fields."""
        return self.make(*args, **{**dict(self.fields), **more})


def register(name: str, card: Card) -> Callable:
    """Registers the decorated Module class or function as `name`.

    Args:
        name: the name in specs.
        card: the facts about it. Its `kind` decides what a spec becomes: a "model" an
            instance, the part of a slot a factory; other kinds ("loss", "metric", ...)
            are looked up by the code that uses them.

    Raises:
        TypeError: if `card` is not a `Card`.
        ValueError: if the name is taken.
    """
    if not isinstance(card, Card):
        raise TypeError(
            f"register({name!r}, ...) takes a card, such as ModelCard(...) or "
            f'Card("norm"), not {card!r}.'
        )

    def add(make):
        table = _PARTS.setdefault(card.kind, {})
        if name in table and table[name].make is not make:
            raise ValueError(f"The {card.kind} name {name!r} is already registered.")
        table[name] = Part(name, make, card)
        return make

    return add


def _table(kind: str) -> Mapping[str, Part]:
    """Returns the parts of one kind, importing the module that registers them."""
    if kind in _HOMES:
        importlib.import_module(_HOMES[kind])
    return _PARTS.get(kind, {})


def names(kind: str = "model") -> list[str]:
    """Returns the registered names of one kind, sorted."""
    return sorted(_table(kind))


def kinds() -> list[str]:
    """Returns the kinds that have registered parts, sorted."""
    return sorted(kind for kind in {*_HOMES, *_PARTS} if _table(kind))


def part_of(make: Callable[..., Any]) -> Part | None:
    """Returns the part of a Module class or function, or None if unregistered."""
    for table in _PARTS.values():
        for part in table.values():
            if part.make is make:
                return part
    return None


def list_models() -> list[str]:
    """Returns the names of all registered models."""
    return names("model")


def get(name: str, *, kind: str = "model") -> Part:
    """Returns a registered part.

    Raises:
        ValueError: if the name is unknown; the message lists the registered names.
    """
    table = _table(kind)
    if name not in table:
        elsewhere = [other for other in sorted(_PARTS) if name in _PARTS[other]]
        what = (
            f" It is the name of a {messages.listed(elsewhere)}." if elsewhere else ""
        )
        raise ValueError(
            f"Unknown {kind} {name!r}.{what}{messages.suggest(name, table)} "
            f"Registered: {', '.join(sorted(table)) or 'none'}."
        )
    return table[name]


def split_spec(spec: Spec, *, kind: str = "model") -> tuple[Part, dict[str, Any]]:
    """Returns the part that a spec names, and the fields that the spec sets.

    Raises:
        TypeError: if the spec is neither a name nor a mapping.
        ValueError: if it has no name, an unknown name, an unknown field, or a value
            whose type differs from that of the field's default.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        raise TypeError(
            f"A {kind} spec is a name or a dict with a 'name', not {spec!r}."
        )
    if "name" not in spec:
        raise ValueError(f"A {kind} spec needs a 'name'; got the keys {sorted(spec)}.")
    part = get(spec["name"], kind=kind)
    fields = part.fields()
    given = {key: value for key, value in spec.items() if key != "name"}
    for key, value in given.items():
        if key not in fields:
            raise ValueError(
                f"{part.name!r} has no field {key!r}.{messages.suggest(key, fields)} "
                f"Fields: {', '.join(fields)}."
            )
        kind = slot_kind(fields[key])
        if kind and isinstance(value, str):
            value = given[key] = {"name": value}
        if value is None and part.takes_none(key):
            continue
        _check_numbers(part.name, key, value)
        if expected := _expected(value, fields[key]):
            raise ValueError(
                f"The field {key!r} of {part.name!r} is {expected}; got {value!r}."
            )
    return part, given


def complete_spec(spec: Spec, *, kind: str = "model") -> dict[str, Any]:
    """Returns the spec with every plain field filled in, ready for JSON.

    Fields without a plain form (functions, callables) are omitted and keep their
    defaults.

    Raises:
        ValueError: as `split_spec`, or if a required field is missing.
    """
    part, given = split_spec(spec, kind=kind)
    complete = {"name": part.name}
    for key, default in part.fields().items():
        if kind != "model" and key in _DTYPE_FIELDS and key not in given:
            continue  # set by the module that has the slot
        value = given.get(key, default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{part.name!r} needs a value for its field {key!r}.")
        plain, value = _to_plain(key, value, slot_kind(default))
        if plain:
            complete[key] = value
    return complete


def default_spec(name: str, *, kind: str = "model") -> dict[str, Any]:
    """Returns the complete spec of a part with its default fields."""
    return complete_spec({"name": name}, kind=kind)


def spec_of(model: nn.Module) -> dict[str, Any]:
    """Returns the complete spec of a model.

    Raises:
        ValueError: if its class is not registered.
    """
    plain, spec = _to_plain("", model)
    if not plain:
        raise ValueError(f"{type(model).__name__} is not a registered model.")
    return spec


def build(spec: Spec) -> nn.Module:
    """Builds a model from its spec.

    Nested specs are built too: a model inside a model becomes an instance, the part of
    a slot its class, or a `Factory` if the spec sets fields.

    Raises:
        ValueError, TypeError: if the spec names something unknown, see `split_spec`.
    """
    part, given = split_spec(spec)
    complete_spec(spec)  # raises if a required field is missing
    return part.make(**_to_fields(part, given))


def slot_kind(default: Any) -> str:
    """Returns the kind of part that a field takes, or "" if it takes a plain value.

    A field takes parts if its default is one: a model for a model inside a model, a
    registered Module class for a slot.
    """
    make = default if inspect.isclass(default) else type(default)
    if not issubclass(make, nn.Module):
        return ""
    part = part_of(make)
    if part is not None:
        return part.kind
    return "" if inspect.isclass(default) else "model"


def _check_numbers(part: str, key: str, value: Any) -> None:
    """Raises ValueError for numbers that no field accepts, such as NaN.

    Whole numbers are counts and sizes in every part; floats may be negative.
    """
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(
                f"The field {key!r} of {part!r} is {number}; give a finite number."
            )
        if isinstance(number, int) and not 0 <= number < _LARGEST:
            raise ValueError(
                f"The field {key!r} of {part!r} is {str(number)[:20]}; give 0 or more, "
                f"below {_LARGEST:,}."
            )


def _expected(value: Any, default: Any) -> str:
    """Returns what a field with this default accepts, or "" if the value fits."""
    if kind := slot_kind(default):
        if isinstance(value, Mapping):
            return ""
        if kind == "model":
            fits = isinstance(value, nn.Module)
        else:
            part = part_of(value) if inspect.isclass(value) else None
            fits = callable(value) and (part is None or part.kind == kind)
        options = messages.listed(names(kind))
        return "" if fits else f"a {kind}, by name or as a dict with 'name': {options}"
    for kind, accepted, words in _TYPES:
        if isinstance(default, kind):
            fits = isinstance(value, accepted)
            fits = fits and isinstance(value, bool) == isinstance(default, bool)
            if fits and default and kind is _LIST:
                fits = not any(all(_expected(x, y) for y in default) for x in value)
            example = list(default) if kind is _LIST else default
            return "" if fits else f"{words} such as {example!r}"
    return ""


def _to_plain(key: str, value: Any, kind: str = "") -> tuple[bool, Any]:
    """Returns whether the value of a field has a plain form, and that form.

    Args:
        key: the field.
        value: its value.
        kind: from `slot_kind`.
    """
    if kind and isinstance(value, Mapping):
        return True, complete_spec(value, kind=kind)
    if isinstance(value, Mapping):
        return True, {k: _to_plain(k, v)[1] for k, v in value.items()}
    if key in _DTYPE_FIELDS and value is not None:
        return True, jnp.dtype(value).name
    if isinstance(value, list | tuple):
        return True, [_to_plain("", item)[1] for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return True, value
    if isinstance(value, Factory):
        part, fields = part_of(value.make), dict(value.fields)
    elif inspect.isclass(value):
        part, fields = part_of(value), {}
    else:
        part = part_of(type(value))
        fields = {name: getattr(value, name) for name in part.fields()} if part else {}
    if part is None:
        return False, None
    return True, complete_spec({"name": part.name, **fields}, kind=part.kind)


def _to_fields(part: Part, given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the plain values of a spec to the values of a part's fields."""
    defaults = part.fields()
    return {
        key: _to_field(key, value, slot_kind(defaults[key]))
        for key, value in given.items()
    }


def _to_field(key: str, value: Any, kind: str = "") -> Any:
    """Converts a plain value of a spec to the value of a Module's field."""
    if kind and isinstance(value, Mapping):
        if kind == "model":
            return build(value)
        part, given = split_spec(value, kind=kind)
        complete_spec(value, kind=kind)
        # Without defaults, so that equivalent specs build equal models.
        defaults = part.fields()
        fields = {
            name: item
            for name, item in _to_fields(part, given).items()
            if item != defaults[name]
        }
        return (
            Factory(part.make, tuple(sorted(fields.items()))) if fields else part.make
        )
    if key in _DTYPE_FIELDS and value is not None:
        return jnp.dtype(value)
    if isinstance(value, list | tuple):
        # JSON has no tuples, and Modules must stay hashable.
        return tuple(_to_field("", item) for item in value)
    return value
