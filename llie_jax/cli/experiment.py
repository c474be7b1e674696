"""A config file and the values that the command line changes in it."""

from collections.abc import Sequence

from llie_jax import messages


def load_config(path: str, overrides: Sequence[str] = ()):
    """Returns the checked config of an experiment.

    Args:
        path: the config file.
        overrides: `--config.KEY=VALUE` each.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is unknown, or a value of the wrong type or not accepted.
    """
    from absl import flags
    from ml_collections import config_flags

    from llie_jax.configs import base

    config = base.load(path)
    known = base.flatten(config)
    for override in overrides:
        prefix, _, key = override.partition("=")[0].partition("--config.")
        if prefix or not key:
            raise ValueError(
                f"I do not know {override!r}; values of the config are changed with "
                "--config.KEY=VALUE."
            )
        if key not in known:
            raise ValueError(
                f"Unknown key config.{key}.{messages.suggest(key, known)} "
                "llie_jax/configs/base.py explains the keys."
            )
    values, argv = flags.FlagValues(), ["", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.Error as error:
        raise ValueError(error) from error
    return base.check(values.config)
