"""Loads a recipe with its arguments, and applies overrides from the command line."""

import ast
import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from llie_jax import configs, files, messages

_NO_RECIPES = ("__init__", "base")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


def load_config(config: str, overrides: Sequence[str] = ()):
    """Returns the checked config of an experiment.

    The recipe is executed once, and checked once with all overrides.

    Args:
        config: "RECIPE" or "RECIPE:argument=value,..."; RECIPE is a Python file or the
            name of a recipe in `llie_jax/configs`.
        overrides: arguments `--config.KEY=VALUE`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a recipe, argument or key is unknown, or a value has the wrong
            type or is not accepted; or if the recipe fails, naming its file.
    """
    from llie_jax.configs import base

    name, text = re.fullmatch(r"((?:\w+:/)?[^:]*):?(.*)", str(config), re.S).groups()
    found = _execute(name, _find(name), text)

    def read(key: str, text: str, like: Any) -> Any:
        # `check` decides whether the field of the part accepts None.
        none = text.lower() == "none" and not isinstance(like, str)
        part = base.kind_at(found, key.rpartition(".")[0])
        return None if none and part else _read(key, text, like)

    base.override(found, _changes(overrides), read)
    return base.check(found)


def recipes() -> dict[str, pathlib.Path]:
    """Returns the recipes of the package, name -> file."""
    folder = pathlib.Path(configs.__file__).parent
    return {
        file.stem: file
        for file in sorted(folder.glob("*.py"))
        if file.stem not in _NO_RECIPES
    }


def _find(name: str) -> pathlib.Path:
    """Returns the file of a recipe that is given as a path or by name."""
    path, known = files.path(name), recipes()
    if path.is_file():
        return files.local_copy(path)
    if name in known:
        return known[name]
    if path.name == name and path.suffix != ".py":
        raise ValueError(
            f"There is no recipe {name!r}.{messages.suggest(name, known)} "
            f"Recipes: {', '.join(known)}; or give a Python file."
        )
    shipped = [file.name for file in known.values()]
    raise FileNotFoundError(
        f"There is no config file {path}.{messages.suggest(path.name, shipped)} "
        f"llie_jax/configs has: {', '.join(shipped)}."
    )


def _execute(name: str, path: pathlib.Path, text: str):
    """Returns the unchecked config from a recipe's `get_config` with arguments."""
    from ml_collections import ConfigDict

    module_spec = importlib.util.spec_from_file_location("recipe", path)
    if module_spec is None:
        raise ValueError(f"{name} is not a Python file; configs are Python files.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("the file has no function get_config().")
        parameters = inspect.signature(module.get_config, eval_str=True).parameters
    except Exception as error:  # user code may raise anything; the message names it
        raise ValueError(f"{name}: {_explained(error, path)}") from error
    arguments = _arguments(text, parameters, name)
    try:
        found = module.get_config(**arguments)
    except Exception as error:
        raise ValueError(f"{name}: {_explained(error, path)}") from error
    if not isinstance(found, ConfigDict):
        raise ValueError(f"{name}: get_config() returns {found!r}, not a config.")
    return ConfigDict(found)  # unfreezes a config that the recipe has checked


def _arguments(
    text: str, parameters: Mapping[str, inspect.Parameter], recipe: str
) -> dict[str, Any]:
    """Parses "key=value,key=value", with the types of the parameters' defaults.

    Raises:
        ValueError: for an unknown or repeated argument, or a value of another type.
    """
    known = ", ".join(map(_described, parameters.values())) or "none"
    found = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in parameters:
            raise ValueError(
                f"{recipe} has no argument {key!r}.{messages.suggest(key, parameters)} "
                f"Arguments: {known}."
            )
        if not equals or key in found:
            problem = "is given twice" if equals else "needs a value, =VALUE"
            raise ValueError(
                f"{recipe}: the argument {key} {problem}. Arguments: {known}."
            )
        choices, default = _choices(parameters[key]), parameters[key].default
        like = "" if default is inspect.Parameter.empty else default
        try:
            found[key] = _read(key, value, like)
            if choices and found[key] not in choices:
                raise ValueError(
                    f"{item} is not accepted.{messages.suggest(value, choices)}"
                )
        except ValueError as error:
            raise ValueError(f"{recipe}: {error} Arguments: {known}.") from None
    return found


def _choices(parameter: inspect.Parameter) -> tuple:
    """Returns the accepted values of a parameter annotated as a Literal, or ()."""
    literal = get_origin(parameter.annotation) is Literal
    return get_args(parameter.annotation) if literal else ()


def _described(parameter: inspect.Parameter) -> str:
    """Returns e.g. "data=lol_v1 (or lol_v2_real, lol_v2_syn)"."""
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name} (required)"
    default = parameter.default
    if isinstance(default, bool):
        default = str(default).lower()
    others = [str(value) for value in _choices(parameter) if value != parameter.default]
    default = default if default != "" else '""'
    return f"{parameter.name}={default}" + (f" (or {', '.join(others)})" * bool(others))


def _changes(overrides: Sequence[str]) -> dict[str, str]:
    """Returns the overrides as key -> text; the last of equal keys wins."""
    found = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        prefix, _, key = key.partition("--config.")
        if prefix or not key or not equals:
            raise ValueError(
                f"unknown argument {override!r}; use --config.KEY=VALUE to change "
                "values of the config."
            )
        found[key] = value
    return found


def _read(key: str, text: str, like: Any) -> Any:
    """Parses a text as a value of the same type as `like`.

    Raises:
        ValueError: if it has another type.
    """
    if isinstance(like, str):
        return text
    word = text.lower() in ("true", "false", "none")
    try:
        value = ast.literal_eval(text.capitalize() if word else text)
    except (ValueError, SyntaxError):
        value = text
    if like is None:
        return value
    try:
        return _cast(value, like)
    except TypeError:
        wanted = _WORDS.get(type(like), f"a tuple such as {like!r}")
        raise ValueError(f"{key}={text} is not {wanted}.") from None


def _cast(value: Any, like: Any) -> Any:
    """Returns a value as the type of `like`; raises TypeError if that is impossible."""
    if isinstance(like, tuple):
        if not isinstance(value, tuple | list):
            raise TypeError
        return tuple(_cast(item, like[0]) if like else item for item in value)
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if type(value) is not type(like):
        raise TypeError
    return value


def _explained(error: Exception, path: pathlib.Path) -> str:
    """Returns what failed in a recipe, and in which line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    where = f"line {lines[-1]}: " if lines else ""
    text = str(error)
    key = re.search(r'instead of "(\w+)"', text) or re.search(r"\W(\w+)['\"]", text)
    missing = isinstance(error, AttributeError | KeyError)
    if missing and key and "ml_collections" in frames[-1].filename:
        from llie_jax.configs import base

        keys = base.flatten(base.get_config())
        known = {part for each in keys for part in each.split(".")}
        return (
            f"{where}the config has no key {key[1]!r} there."
            f"{messages.suggest(key[1], sorted(known))}"
        )
    what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{where}{what}{text}"
