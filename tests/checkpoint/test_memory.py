"""What `qpass quantize` frees goes back to the system."""

import json
import os
import platform
import subprocess
import sys

import pytest

HELD = """
import json, sys
import numpy as np
from qpass.cli.memory import return_freed
from qpass_bench.running.memory import held
if sys.argv[1] == "told":
    assert return_freed()
first = np.ones(30_000_000, np.uint8)
del first
before = held("VmRSS")
second, after = np.ones(20_000_000, np.uint8), [np.ones(50_000, np.uint8) for _ in range(20)]
del second
print(json.dumps(held("VmRSS") - before))
"""


def kept(how):
    """Bytes that a process has after it made and freed an array of 20 MB, and kept 1 MB."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HELD, how]
    return json.loads(subprocess.check_output(command, env=environment, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_large_arrays_are_returned():
    assert kept("told") < 5e6
    assert kept("not told") > 15e6  # else there is no need to tell
