"""What README.md shows is what works."""

import os
import pathlib
import re
import subprocess
import sys

from conftest import BUILD_DIR, PATIENCE, SOURCE_DIR


def test_the_first_program_of_the_readme_runs_as_it_stands(broker, redis_server, directory):
    readme = (SOURCE_DIR / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    script = pathlib.Path(directory) / "first.py"
    script.write_text(program)
    environment = dict(os.environ, PYTHONPATH=str(BUILD_DIR / "python"))
    done = subprocess.run(
        [sys.executable, script, broker.addresses[0], redis_server.host, str(redis_server.port)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "b'+PONG\\r\\n'\n"), done.stderr


def test_the_first_cpp_program_of_the_readme_is_the_example(broker, redis_server):
    # The same block is built as a program of the examples, so that it need not be compiled here.
    readme = (SOURCE_DIR / "README.md").read_text()
    (program,) = re.findall(r"```cpp\n(.*?)```", readme, re.S)
    assert program == (SOURCE_DIR / "client/cpp/examples/first.cc").read_text()
    done = subprocess.run(
        [BUILD_DIR / "example_client_first", broker.addresses[0], redis_server.host, str(redis_server.port)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "+PONG\n"), done.stderr


def test_every_link_of_the_readme_leads_somewhere():
    readme = (SOURCE_DIR / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)", readme)
    assert links
    assert [link for link in links if not (SOURCE_DIR / link).exists()] == []
