import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import sys, time
if len("{platform}"): sys.platform = "{platform}"
from ovparts_lib.processes import end_with_parent
end_with_parent({number})
open("{ready}", "w").close()
time.sleep(60)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("platform", ["", "another"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_even_by_kill_9(tmp_path, platform, number):
    ready = tmp_path / "ready"
    child = CHILD.format(platform=platform, number=int(number), ready=ready)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    while is_alive(pid):
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.02)


def test_the_limit_of_open_files_is_raised_to_what_is_allowed():
    code = (
        "import resource; from ovparts_lib.processes import allow_open_files\n"
        "hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "allow_open_files(); assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
