"""The machine a benchmark runs on: where the programs are, and which processor runs what."""

import os
import pathlib
import platform
import resource
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The distribution's interpreter is the one its uvloop is installed for.
PYTHON = "/usr/bin/python3"


class Unfit(Exception):
    """Something that the benchmark needs isn't here."""


class Machine:
    def __init__(self, build_dir, pin=True):
        self._programs = pathlib.Path(build_dir).resolve() / "bench"
        self.build_dir = self._programs.parent
        processors = sorted(os.sched_getaffinity(0))
        # The load generator gets a processor of its own, where it may poll without sleeping.
        self.apart = pin and len(processors) > 1
        self.load_processors = {processors[-1]} if self.apart else set(processors)
        self.server_processors = set(processors[:1]) if self.apart else set(processors)
        self.server_processors_all = set(processors[:-1]) if self.apart else set(processors)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.descriptors = hard

    def has(self, name):
        return (self._programs / name).exists()

    def program(self, name):
        if not self.has(name):
            raise Unfit(f"{self._programs / name} is not built; ./dev bench builds it first")
        return str(self._programs / name)

    def has_python_module(self, name):
        return subprocess.run([PYTHON, "-c", f"import {name}"], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def load(self, *command):
        """Runs a load generator to its end and gives what it printed."""
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=120,
                                preexec_fn=lambda: os.sched_setaffinity(0, self.load_processors))
        if result.returncode != 0:
            raise Unfit(f"{' '.join(command)} ended with {result.returncode}")
        return result.stdout

    def describe(self):
        return {
            "processor": _processor(),
            "processors": os.cpu_count(),
            "kernel": platform.release(),
            "server_on": sorted(self.server_processors),
            "load_on": sorted(self.load_processors),
        }

    def summary(self):
        where = "server and load each on a processor of its own" if self.apart else "nothing pinned"
        return f"{_processor()}, {os.cpu_count()} processors, Linux {platform.release()}; {where}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
