"""One stack for all tests (see stack.py). Run by ../compose/run, that is by `./dev compose-test`, which makes the images."""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
sys.dont_write_bytecode = True

from scenarios import BIG, SMALL  # noqa: E402
from stack import Stack, docker  # noqa: E402


@pytest.fixture(scope="session")
def stack():
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers; ./dev compose-test starts one")
    with Stack(f"sockbroker-test-{os.getpid()}") as stack:
        stack.big = stack.make_file(BIG, "/big")
        stack.small = stack.make_file(SMALL, "/small")
        yield stack


@pytest.fixture(autouse=True)
def healthy(request):
    """Every test begins with all of them up, whatever the one before has done, and tells the broker's log if it fails."""
    if "stack" not in request.fixturenames:
        yield
        return
    stack = request.getfixturevalue("stack")
    stack.await_broker()
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print("--- the broker's log:\n" + docker("logs", "--tail", "40", stack.id("broker"), check=False).stderr)
