"""Failed reads and writes of a checkpoint print nothing of their own."""

import asyncio
import gc
import logging

import pytest
from etils import epath
from orbax.checkpoint._src.path import async_path

from llie_jax.weights import noise


def collect(error):
    """Lets a future with an error, which nobody asks for, be collected."""

    async def leave():
        asyncio.get_running_loop().create_future().set_exception(error)

    asyncio.run(leave())
    gc.collect()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('Error reading "a.kernel/0.0" in OCDBT database at local file "x"', 0),
        ("See full TensorStore details: <bound method spec>", 0),
        ("the user's own future", 1),
    ],
)
def test_futures_of_checkpoints(text, lines, caplog):
    assert noise.quiet  # imported: the filter is set
    with caplog.at_level(logging.ERROR, "asyncio"):
        collect(ValueError(text))
    assert len(caplog.records) == lines


def test_a_future_of_a_full_disk(tmp_path, caplog):
    """Its message names no library; where it was raised does."""
    missing = epath.Path(tmp_path / "none" / "file")

    async def leave():
        writing = asyncio.ensure_future(async_path.write_text(missing, ""))
        await asyncio.wait([writing])

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(leave())
        gc.collect()
    assert not caplog.records
