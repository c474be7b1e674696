"""The same scores on one device, on several, and in two processes."""

import pytest

from llie_jax.image import io
from tests import processes
from tests.evaluation import toys
from tests.evaluation.test_evaluator import SIZES, VARIABLES, evaluate
from tests.processes import result
from tests.test_cluster import free_port


def start(folder, devices, **environment):
    module = "tests.evaluation.parallel_check"
    return processes.start(module, folder, devices=devices, **environment)


def saved(folder):
    return {path.stem: io.read_rgb(path).tolist() for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Scores and saved images on one device, in this process."""
    folder = tmp_path_factory.mktemp("one")
    source = toys.MemorySource(SIZES)
    scores = evaluate(source=source, variables=VARIABLES, save_images=folder)
    return scores.images, saved(folder)


def test_three_devices_equal_one(expected, tmp_path):
    images, files = expected
    found = result(start(tmp_path, 3))
    assert found["together"]["scores"]["device"] == "3 x cpu"
    assert found["together"]["scores"]["options"]["batch_size"] == 3
    for kind in ("together", "alone", "pmap"):
        assert found[kind]["scores"]["images"] == images
    assert found["pmap"]["scores"]["device"] == "3 x cpu"
    assert saved(tmp_path) == files


@pytest.mark.slow
def test_the_mean_of_fifteen_images_is_the_same_to_the_last_digit():
    """On 1 device, on 8, in 2 processes, and on 3 devices of 2 processes each."""
    found = [result(start(15, devices)) for devices in (1, 8)]
    for devices in (1, 3):
        address = f"127.0.0.1:{free_port()}"
        both = [
            start(
                15,
                devices,
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(i),
            )
            for i in range(2)
        ]
        found += [result(process) for process in both]
    assert found[0]["psnr"] > 10
    assert found == [found[0]] * 6


@pytest.mark.slow
def test_two_processes_equal_one(expected, tmp_path):
    images, files = expected
    address = f"127.0.0.1:{free_port()}"
    folders = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(
            folder,
            2,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i, folder in enumerate(folders)
    ]
    found = [result(process) for process in processes]
    assert [one["number"] for one in found] == [0, 1]
    for one in found:
        assert one["together"]["scores"]["images"] == images
        assert one["together"]["scores"]["device"] == "4 x cpu"
        assert list(one["together"]["scores"]["images"]) == list(images)
        assert one["together"]["pictures"] == ["0", "2", "4"]
        assert one["alone"]["scores"]["images"] == images
        assert one["alone"]["scores"]["device"] == "2 x cpu"
        assert sorted(one["alone"]["read"]) == list(range(len(SIZES)))
        assert one["tiled"]["scores"]["options"]["tiled"] == ["3"]
        assert "3 is damaged" in one["error"]
    assert found[0]["tiled"]["scores"] == found[1]["tiled"]["scores"]
    # Each image is read by one process, and written by the first.
    read = [set(one["together"]["read"]) for one in found]
    assert not read[0] & read[1]
    assert read[0] | read[1] == set(range(len(SIZES)))
    assert all(read)
    assert saved(folders[0]) == files
    assert not folders[1].exists()
