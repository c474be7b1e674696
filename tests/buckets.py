"""A bucket on this machine: Google Cloud Storage, as gcp-storage-emulator has it.

gcsfs (behind `etils.epath`), TensorStore (behind Orbax) and tensorboardX speak to it as
they would to Google's servers.
"""

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

from tests.test_cluster import free_port

_SERVER = """
import sys
from gcp_storage_emulator.server import create_server
create_server(
    "127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket"
).run()
"""


@contextlib.contextmanager
def bucket():
    """Runs the emulator; yields the environment in which `gs://bucket` is there."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{address}/storage/v1/b/bucket").close()
                break
            assert server.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "NO_GCE_CHECK": "true",  # no search for Google's credentials
        }
    finally:
        server.kill()
        server.wait()
