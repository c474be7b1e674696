"""Parts by name: `register` them, then `build` them from plain specs.

A spec is what a config file or a release file holds: a name, or a dict with a `name`
and any of the part's fields. Fields that are left out have the part's own defaults.

    build("darkir")
    build({"name": "darkir", "width": 64, "dilations": [1]})
    build({"name": "lfpv", "host": {"name": "darkir"}})

Parts of the package are registered when a lookup first asks for their kind.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax.numpy as jnp
from flax import linen as nn

from llie_jax import messages

Spec = str | Mapping[str, Any]

_PARTS: dict[str, dict[str, "Part"]] = {}
_HOMES = {
    "model": "llie_jax.models",
    "layer": "llie_jax.models",
    "loss": "llie_jax.losses",
    "weight_schedule": "llie_jax.losses",
    "metric": "llie_jax.metrics",
}
"""The packages whose import registers the parts of a kind."""

_MODULE_INTERNALS = ("parent", "name")
_DTYPE_FIELDS = ("dtype", "param_dtype")
_LIST = list | tuple

# Type of a field's default, accepted types, and their name. A bool is an int too.
_TYPES = (
    (bool, bool, "a boolean"),
    (int, int, "an integer"),
    (float, int | float, "a number"),
    (str, str, "a string"),
    (_LIST, _LIST, "a list"),
    (Mapping, Mapping, "a dict"),
)


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part.

    Attributes:
        name: the name in specs.
        kind: "model", "layer", "loss", ...; names are unique within a kind.
        make: a Module class, or a function whose keyword-only options are its fields.
        facts: what else the registering module wants known. Of a model, for example,
            `sizes` (name -> fields), `parity` (what it was compared with) and
            `trained`, a dict of `config`, `data`, `protocol` and `score` (metric ->
            value).
    """

    name: str
    kind: str
    make: Callable[..., Any]
    facts: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        """Returns the defaults of all fields; `inspect.Parameter.empty` if required."""
        hidden = (*_MODULE_INTERNALS, *self.facts.get("internal", ()))
        if dataclasses.is_dataclass(self.make):
            found = {}
            for field in dataclasses.fields(self.make):
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
        """Returns whether a field is annotated to take None too."""
        return type(None) in get_args(self.make.__annotations__.get(field))


@dataclasses.dataclass(frozen=True)
class Factory:
    """A slot's part with the fields of its spec, called for each module it makes.

    `functools.partial` would do, but two of them are never equal: a model that holds
    one would compile anew each time it is built.

    Attributes:
        make: the Module class.
        fields: pairs of name and value.
    """

    make: Callable[..., nn.Module]
    fields: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any, **more: Any) -> nn.Module:
        """Returns a module; what the caller gives wins over the spec's fields."""
        return self.make(*args, **{**dict(self.fields), **more})


def register(name: str, *, kind: str = "model", **facts: Any) -> Callable:
    """Registers the decorated Module class or function as `name`.

    Args:
        name: the name in specs.
        kind: the table; "model" (built to an instance), "layer" (built to a factory),
            or any other ("loss", "metric": looked up by the code that uses them).
        **facts: stored with the part, read with `get(...).facts`. `internal` lists
            what the caller of the part decides, and no spec.

    Raises:
        ValueError: if the name is taken.
    """

    def add(make):
        table = _PARTS.setdefault(kind, {})
        if name in table and table[name].make is not make:
            raise ValueError(f"The {kind} name {name!r} is registered twice.")
        table[name] = Part(name, kind, make, facts)
        return make

    return add


def _table(kind: str) -> Mapping[str, "Part"]:
    """Returns the parts of one kind; imports what registers them."""
    if kind in _HOMES:
        importlib.import_module(_HOMES[kind])
    return _PARTS.get(kind, {})


def names(kind: str = "model") -> list[str]:
    """Returns the registered names of one kind, sorted."""
    return sorted(_table(kind))


def list_models() -> list[str]:
    """Returns the names of all registered models."""
    return names("model")


def get(name: str, *, kind: str = "model") -> Part:
    """Returns a registered part.

    Raises:
        ValueError: if there is none of that name; the message lists what there is.
    """
    table = _table(kind)
    if name not in table:
        raise ValueError(
            f"Unknown {kind} {name!r}.{messages.suggest(name, table)} "
            f"Registered: {', '.join(sorted(table)) or 'none'}."
        )
    return table[name]


def split_spec(spec: Spec, *, kind: str = "model") -> tuple[Part, dict[str, Any]]:
    """Returns the part that a spec names, and the fields that the spec sets.

    Raises:
        TypeError: if the spec is neither a name nor a mapping.
        ValueError: if it has no name, an unknown name, an unknown field, or a value of
            another type than the field's default.
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
        if isinstance(value, str) and (_is_slot(fields[key]) or _is_model(fields[key])):
            value = given[key] = {"name": value}
        if value is None and part.takes_none(key):
            continue
        if expected := _expected(value, fields[key]):
            raise ValueError(
                f"The field {key!r} of {part.name!r} is {expected}; got {value!r}."
            )
    return part, given


def complete_spec(spec: Spec, *, kind: str = "model") -> dict[str, Any]:
    """Returns the spec with every plain field filled in, as JSON can hold it.

    Fields without a plain form (functions, callables) are left to their defaults.

    Raises:
        ValueError: as `split_spec`, or if a required field is missing.
    """
    part, given = split_spec(spec, kind=kind)
    complete = {"name": part.name}
    for key, default in part.fields().items():
        if kind == "layer" and key in _DTYPE_FIELDS and key not in given:
            continue  # the module that has the slot decides
        value = given.get(key, default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{part.name!r} needs a value for its field {key!r}.")
        plain, value = _to_plain(key, value)
        if plain:
            complete[key] = value
    return complete


def default_spec(name: str, *, kind: str = "model") -> dict[str, Any]:
    """Returns the complete spec of a part with its default fields."""
    return complete_spec({"name": name}, kind=kind)


def build(spec: Spec) -> nn.Module:
    """Builds a model from its spec.

    Sub-specs are built too: a model inside a model becomes an instance, a layer becomes
    its class, or a `Factory` if fields are set.

    Raises:
        ValueError, TypeError: if the spec names something unknown, see `split_spec`.
    """
    part, given = split_spec(spec)
    complete_spec(spec)  # a required field that is missing is an error here
    return part.make(**{key: _to_field(key, value) for key, value in given.items()})


def _is_slot(default: Any) -> bool:
    """Returns whether a field takes a part: its default is a Module class."""
    return inspect.isclass(default) and issubclass(default, nn.Module)


def _is_model(default: Any) -> bool:
    """Returns whether a field takes a model: its default is one."""
    return isinstance(default, nn.Module)


def _expected(value: Any, default: Any) -> str:
    """Returns what a field with this default takes, "" if the value is of that type."""
    if _is_model(default):
        fits = isinstance(value, Mapping | nn.Module)
        return "" if fits else "a model: its name, or a dict with its 'name'"
    if _is_slot(default):
        fits = isinstance(value, Mapping) or callable(value)
        return "" if fits else "a layer: its name, or a dict with its 'name'"
    for kind, accepted, words in _TYPES:
        if isinstance(default, kind):
            fits = isinstance(value, accepted)
            fits = fits and isinstance(value, bool) == isinstance(default, bool)
            if fits and default and kind is _LIST:
                fits = not any(all(_expected(x, y) for y in default) for x in value)
            example = list(default) if kind is _LIST else default
            return "" if fits else f"{words} such as {example!r}"
    return ""


def _to_plain(key: str, value: Any) -> tuple[bool, Any]:
    """Returns whether a field's value has a plain form, and that form."""
    if isinstance(value, Mapping):
        if "name" in value:
            return True, complete_spec(value, kind=_kind_of(value["name"]))
        return True, {k: _to_plain(k, v)[1] for k, v in value.items()}
    if key in _DTYPE_FIELDS and value is not None:
        return True, jnp.dtype(value).name
    if isinstance(value, list | tuple):
        return True, [_to_plain("", item)[1] for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return True, value
    for part in _table("layer").values():
        if part.make is value:
            return True, complete_spec(part.name, kind="layer")
    for part in _table("model").values():
        if part.make is type(value):
            fields = {field: getattr(value, field) for field in part.fields()}
            return True, complete_spec({"name": part.name, **fields})
    return False, None


def _to_field(key: str, value: Any) -> Any:
    """Returns the value that a Module's field takes for a plain value of a spec."""
    if isinstance(value, Mapping) and "name" in value:
        if _kind_of(value["name"]) == "model":
            return build(value)
        part, given = split_spec(value, kind="layer")
        complete_spec(value, kind="layer")
        fields = {key: _to_field(key, item) for key, item in given.items()}
        return (
            Factory(part.make, tuple(sorted(fields.items()))) if fields else part.make
        )
    if key in _DTYPE_FIELDS and value is not None:
        return jnp.dtype(value)
    if isinstance(value, list | tuple):
        # JSON has no tuples, and Modules must stay hashable.
        return tuple(_to_field("", item) for item in value)
    return value


def _kind_of(name: str) -> str:
    """Returns the kind of a part inside a model's spec."""
    for kind in ("model", "layer"):
        if name in _table(kind):
            return kind
    known = names("model") + names("layer")
    raise ValueError(
        f"Unknown part {name!r}.{messages.suggest(name, known)} "
        f"Registered: {', '.join(known)}."
    )
