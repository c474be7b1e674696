"""What must stay the same when a run is resumed: its config and its data.

Every checkpoint holds the facts of its run, so that neither depends on a file that
something may have damaged since.
"""

import fnmatch
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax

from llie_jax import messages, parallel
from llie_jax.configs import base
from llie_jax.data import sources
from llie_jax.weights.record import Record
from llie_jax.weights.run import RunFolder

_LISTED = 2000
"""Records whose names are saved; of more, only a digest of all names."""

_SAMPLE = 32
"""Records whose content is compared."""

_PACKAGES = ("llie_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

ACCEPT = "--accept-changed-data"
"""The flag of `llie-jax train` that resumes on other data."""


def facts(config, data: Mapping[str, Any], mesh: parallel.Mesh) -> dict[str, Any]:
    """Returns what each checkpoint of a run holds beside its state, as JSON values.

    Args:
        config: the checked config.
        data: from `describe_data`.
        mesh: the devices.
    """
    return {
        "config": json.loads(base.to_json(config)),
        "data": data,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        # With the step, these determine all random draws and the order of the data.
        "random": {
            "seed": config.seed,
            "implementation": jax.config.jax_default_prng_impl,
            "partitionable": jax.config.jax_threefry_partitionable,
        },
        "devices": {
            "count": mesh.size,
            "kind": parallel.device_kind(),
            "processes": parallel.process_count(),
        },
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from its source


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a note for each fact that may differ, but may also change the numbers.

    Args:
        saved: the facts in the checkpoint that a run resumes from, {} if it has none.
        now: the facts of this process.
    """
    phrases = {
        "versions": "saved with other versions",
        "random": "random numbers are drawn in another way",
        "devices": "saved on other devices",
    }
    found = []
    for kind, phrase in phrases.items():
        changed = [
            f"{name} {saved[kind].get(name)} then, {value} now"
            for name, value in now[kind].items()
            if kind in saved and saved[kind].get(name) != value
        ]
        if changed:
            found.append(f"{phrase}: {', '.join(changed)}")
    return found


def check_config(
    run: RunFolder,
    config,
    saved: tuple[int, Record] | None,
    *,
    may_change: Collection[str],
) -> None:
    """Checks that a folder holds a run of the same config, if it holds one.

    The copy in the newest checkpoint counts; a damaged `config.json` is named in a
    warning and ignored.

    Args:
        run: the folder.
        config: the checked config.
        saved: the newest record of the run's checkpoints.
        may_change: keys that may differ; * matches any text.

    Raises:
        ValueError: naming the keys that differ, or if an older version wrote them.
    """
    if saved is None and not run.config.exists():
        return
    old = None
    try:
        if wrong := damage_to_config(run, saved, may_change=may_change):
            parallel.note(
                f"{run.config} differs from the config in checkpoint {saved[0]} and is "
                f"ignored ({messages.listed(wrong, limit=4)})."
            )
        old = _config_file(run)
    except ValueError as error:
        if saved is None and not isinstance(error, _DamagedError):
            raise
        copy = f"checkpoint {saved[0]} has a copy" if saved else "nothing was compared"
        parallel.note(f"{error} That is ignored: {copy}.")
    if saved:
        old = _copy(saved)
    if old is None:
        return
    if differing := _differing(old, base.flatten(config), may_change):
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(
            f"{run.path} holds a run of a different config ({'; '.join(differing[:4])}"
            f"{more}). Use another --workdir, or the old values to resume it."
        )


def damage_to_config(
    run: RunFolder, saved: tuple[int, Record] | None, *, may_change: Collection[str]
) -> list[str]:
    """Returns where `config.json` differs from its copy in the newest checkpoint.

    Args:
        run: the folder.
        saved: the newest record of the run's checkpoints.
        may_change: keys that may differ; * matches any text.

    Raises:
        ValueError: if the file is missing, damaged, or of an older version.
    """
    beside = _config_file(run)
    return _differing(_copy(saved), beside, may_change) if saved else []


def _copy(saved: tuple[int, Record]) -> dict[str, Any]:
    """Returns the flat config in a checkpoint."""
    step, record = saved
    return _flat(json.dumps(record.facts["config"]), f"The config of checkpoint {step}")


class _DamagedError(ValueError):
    """There is no config in the file at all."""


def _config_file(run: RunFolder) -> dict[str, Any]:
    """Returns the flat content of `config.json`.

    Raises:
        ValueError: if it is damaged or missing, or of an older version.
    """
    if not run.config.exists():
        raise _DamagedError(f"{run.config} is missing.")
    try:
        text = run.config.read_text()
        valid = isinstance(json.loads(text), dict)
    except (ValueError, OSError, RecursionError):
        valid = False
    if not valid:
        raise _DamagedError(f"{run.config} is damaged.")
    return _flat(text, str(run.config))


def _flat(text: str, where: str) -> dict[str, Any]:
    try:
        return base.flatten(base.from_json(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where} is from an older version of llie_jax, or damaged ({error}). Use "
            "another --workdir."
        ) from error


def _differing(
    old: Mapping[str, Any], new: Mapping[str, Any], may_change: Collection[str]
) -> list[str]:
    return [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in may_change)
    ]


def describe_data(
    training: sources.Source, held_out: sources.Source | None
) -> dict[str, Any]:
    """Returns a fingerprint of the data of a run, as JSON values.

    Names of all records, sizes of their files where they are known without reading, and
    the pixels of a sample. It does not depend on where the data are; a set that is
    prepared for TFDS agrees with its folders in all that both know.
    """
    parts = {"training": training, "held-out": held_out}
    return {name: _describe(part) for name, part in parts.items() if part is not None}


def _describe(source: sources.Source) -> dict[str, Any]:
    numbers = range(len(source))
    sizes = sources.parallel_map(
        lambda i: [source.byte_size(i, key) for key in source.keys], numbers
    )
    # By a hash of the name: records that are added leave the sample much as it was.
    sample = sorted(numbers, key=lambda i: _digest([source.names[i]]))[:_SAMPLE]
    content = sources.parallel_map(
        lambda i: [source.content_digest(i, key) for key in source.keys], sample
    )
    named = dict(zip(source.names, sizes, strict=True))
    known = not any(None in each for each in sizes)
    return {
        "count": len(source),
        "names": _digest(source.names),
        "sizes": _digest(map(str, sizes)) if known else "",
        "records": named if len(named) <= _LISTED else {},
        # Older versions saved a "sample" of hashed files instead.
        "pixels": {source.names[i]: c for i, c in zip(sample, content, strict=True)},
    }


def _digest(texts: Iterable[str]) -> str:
    data = "\n".join(texts).encode(errors="surrogateescape")
    return hashlib.sha256(data).hexdigest()


def check_data(
    saved: tuple[int, Record] | None, data: Mapping[str, Any], *, accept: bool
) -> None:
    """Checks that a run resumes on the data that it was started with.

    Args:
        saved: the newest record of the run's checkpoints.
        data: from `describe_data`.
        accept: goes on with a warning.

    Raises:
        ValueError: saying what changed.
    """
    if saved is None or "data" not in saved[1].facts:
        return
    step, record = saved
    found = [
        f"{part}: {'; '.join(changes)}"
        for part in sorted(record.facts["data"].keys() | data.keys())
        if (changes := _changes(record.facts["data"].get(part), data.get(part)))
    ]
    if not found:
        return
    text = f"The data changed since checkpoint {step} was saved ({', '.join(found)})."
    if not accept:
        raise ValueError(
            f"{text} Held-out records may have been trained on. Restore the data, or "
            f"use another --workdir; {ACCEPT} goes on nevertheless."
        )
    parallel.note(f"{text} Going on, as {ACCEPT} says.")


def _changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[str]:
    """Returns a phrase for each kind of change between two descriptions."""
    if old is None or new is None:
        return ["absent then" if old is None else "absent now"]
    if old == new:
        return []
    found = []
    before, after = old["records"], new["records"]
    if before and after:
        common = before.keys() & after.keys()
        resized = {name for name in common if _resized(before[name], after[name])}
        kinds = {
            "added": after.keys() - before.keys(),
            "removed": before.keys() - after.keys(),
            "of another size": resized,
        }
    else:
        kinds, resized = {}, set()
        if old["names"] != new["names"]:
            found.append(f"other names, {old['count']} then and {new['count']} now")
        elif old["sizes"] and new["sizes"] and old["sizes"] != new["sizes"]:
            found.append("files of other sizes")
    seen, sees = old.get("pixels", {}), new.get("pixels", {})
    kinds["of other content"] = {
        name for name in seen.keys() & sees.keys() if seen[name] != sees[name]
    } - resized
    for kind, names in kinds.items():
        if names:
            listed = messages.listed(sorted(names), limit=3)
            found.append(f"{len(names)} {kind} ({listed})")
    if not found and old["names"] != new["names"]:
        return ["in another order"]
    return found


def _resized(before: Sequence[int | None], after: Sequence[int | None]) -> bool:
    """Returns whether the files of a record differ in a size that both sides know."""
    return len(before) != len(after) or any(
        None not in pair and pair[0] != pair[1]
        for pair in zip(before, after, strict=True)
    )
