"""scripts/demo.sh, what ./dev run shows: it is right, it stays until Ctrl-C, and it leaves nothing behind."""

import os
import pathlib
import signal
import subprocess

import pytest
from conftest import BUILD_DIR, PATIENCE, SOURCE_DIR, wait_until

DEMO = SOURCE_DIR / "scripts" / "demo.sh"


@pytest.fixture
def start(directory, unprivileged):
    """start(*arguments): the script in a session of its own, as from a terminal, by a user whose default address is the
    test's own."""
    demos = []

    def start(*arguments):
        demos.append(launch(directory, unprivileged, *arguments))
        return demos[-1]

    yield start
    for demo in demos:
        demo.terminate()
        demo.wait(PATIENCE)


def launch(directory, user, *arguments):
    environment = dict(os.environ, SOCKBROKER_BUILD_DIR=str(BUILD_DIR), XDG_RUNTIME_DIR=str(directory))
    environment.pop("SOCKBROKER_ADDRESS", None)
    with open(directory / "demo.out", "wb") as out:
        return subprocess.Popen(
            [DEMO, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **user,
        )


def left_in_session(session):
    """Processes of that session that still run."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((entry.name, (entry / "comm").read_text()))
    return found


def said(directory):
    return (directory / "demo.out").read_text(errors="replace")


def test_once_shows_everything_and_ends_well(start, directory):
    demo = start("--once")
    assert demo.wait(PATIENCE) == 0, said(directory)
    assert "Hello from a real HTTP server." in said(directory)
    assert "All of it worked." in said(directory)
    assert left_in_session(demo.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_until_it_is_interrupted_and_leaves_no_process(start, directory, number):
    demo = start()
    wait_until(lambda: demo.poll() is not None or "connect --help" in said(directory), "it says what to try")
    assert demo.poll() is None, said(directory)
    # On the default address, so that the CLI finds it without a word.
    assert (directory / "sockbroker" / "sockbroker.sock").exists()
    # Ctrl-C reaches every process of the terminal.
    os.killpg(demo.pid, number) if number == signal.SIGINT else demo.send_signal(number)
    assert demo.wait(PATIENCE) == 0, said(directory)
    assert left_in_session(demo.pid) == []
    assert not (directory / "sockbroker" / "sockbroker.sock").exists()


def test_beside_a_broker_that_runs_already_it_takes_another_place(start, directory, start_broker, unprivileged):
    running = start_broker(env={"XDG_RUNTIME_DIR": str(directory)}, **unprivileged)
    demo = start()
    wait_until(lambda: demo.poll() is not None or "connect --help" in said(directory), "it says what to try")
    assert demo.poll() is None, said(directory)
    assert "export SOCKBROKER_ADDRESS=unix:" in said(directory)
    demo.terminate()
    assert demo.wait(PATIENCE) == 0
    assert running.process.poll() is None
