"""The inputs of a run: training data, held-out data, and the pipeline."""

from llie_jax import data, parallel
from llie_jax.data import mixture


def open_data(config):
    """Returns the training data of a config, and the data for validation, or None.

    Raises:
        ValueError, FileNotFoundError: if the data are missing or unusable.
    """
    where = config.data.train
    if where.name == mixture.NAME:
        source = data.open_mixture(config.data.mixture.to_dict())
    else:
        source = data.open_source(
            where.name, root=where.root or None, split=where.split or None
        )
    if config.data.validation.select_on == "test":
        return source, _test_split(where)
    fraction = config.data.validation.fraction
    if not fraction:
        return source, None
    return data.split_by_reference(
        source, fraction=fraction, seed=config.data.validation.seed
    )


def _test_split(where):
    """Returns the test split, which is to select the checkpoint.

    Raises:
        ValueError: if there is none, or it has no references.
    """
    found = data.open_source(where.name, root=where.root or None, split="test")
    what = "config.data.validation.select_on is 'test', but"
    if found.split != "test":  # a folder without splits
        raise ValueError(
            f"{what} {where.root or where.name} has no test split; use 'held_out'."
        )
    if "target" not in found.keys:
        raise ValueError(
            f"{what} {where.name} has no references to score with; use 'held_out'."
        )
    return found


def open_pipeline(config, source, *, overview: int = 0):
    """Returns the pipeline that feeds the training step of a config.

    Args:
        config: the experiment.
        source: the training data.
        overview: of the model, see `llie_jax.models.base.Model`.
    """
    return data.make_pipeline(
        source,
        [data.Stage(**stage.to_dict()) for stage in config.stages.values()],
        size=config.data.train.size,
        seed=config.seed,
        augment=data.Augment(**config.data.augment.to_dict()),
        residence=config.data.residence,
        device_limit_bytes=config.data.device_limit_mb * 2**20,
        process_index=parallel.process_index(),
        process_count=parallel.process_count(),
        workers=config.data.workers,
        overview=overview,
    )
