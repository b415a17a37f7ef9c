"""What is installed beside the programs, looked at in a directory of its own: man pages, units, completions, protos."""

import configparser
import gzip
import os
import pathlib
import re
import shutil
import subprocess

import pytest

SOURCE_DIR = pathlib.Path(os.environ.get("SOCKBROKER_SOURCE_DIR", pathlib.Path(__file__).parents[2])).resolve()
BUILD_DIR = pathlib.Path(os.environ.get("SOCKBROKER_BUILD_DIR", SOURCE_DIR / "build" / "release")).resolve()


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, **options)


def configure(project, installed, *arguments):
    # By Ninja, which this build needs too; CMake's own choice is a make that may not be there.
    run("cmake", "-G", "Ninja", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={installed}", *arguments)


def words():
    """The words of the command line, as its help lists them."""
    commands = run(BUILD_DIR / "sockbroker", "--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in commands.splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`cmake --install` of everything."""
    prefix = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", BUILD_DIR, "--prefix", prefix)
    return prefix


def test_every_word_has_a_man_page_that_says_all_its_options(installed):
    assert "connect" in words()
    for word in words():
        page = gzip.decompress((installed / f"share/man/man1/sockbroker-{word}.1.gz").read_bytes()).decode()
        helped = run(BUILD_DIR / "sockbroker", word, "--help").stdout
        options = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", helped, re.MULTILINE)
        assert "--help" in options
        for option in options:
            assert option.replace("-", "\\-") in page, (word, option)


def test_the_daemons_page_says_all_its_options_and_examples(installed):
    page = gzip.decompress((installed / "share/man/man8/sockbrokerd.8.gz").read_bytes()).decode()
    for text in "--listen", "--broker-id", "--drain-timeout", "XDG_RUNTIME_DIR", "grpcurl", ".SH EXAMPLES", ".SH SYNOPSIS":
        assert text.replace("-", "\\-") in page


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_pages_are_set_without_a_warning(installed):
    for page in sorted(installed.glob("share/man/man?/*.gz")):
        text = gzip.decompress(page.read_bytes()).decode()
        ended = run("groff", "-man", "-Tutf8", "-ww", "-z", input=text)
        assert ended.stderr == "", page.name


def test_whatis_finds_every_page(installed):
    for page in sorted(installed.glob("share/man/man?/*.gz")):
        text = gzip.decompress(page.read_bytes()).decode()
        name = page.name.split(".")[0].replace("-", "\\-")
        assert re.search(rf"^\.SH NAME\n{re.escape(name)} \\- \w.+", text, re.MULTILINE), page.name


def unit(path):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(path)
    return parser


@pytest.mark.parametrize("whose", ["system", "user"])
def test_the_units_start_the_broker_on_the_socket_they_open(installed, whose):
    directory = installed / "lib/systemd" / whose
    service, socket = unit(directory / "sockbrokerd.service"), unit(directory / "sockbrokerd.socket")
    name = socket["Socket"]["FileDescriptorName"]
    assert f"--listen fd:{name}" in service["Service"]["ExecStart"]
    # Where `sockbroker` looks by itself.
    assert socket["Socket"]["ListenStream"] == {
        "system": "/run/sockbroker/sockbroker.sock",
        "user": "%t/sockbroker/sockbroker.sock",
    }[whose]
    assert socket["Socket"]["SocketMode"] == "0600"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_units(installed, tmp_path):
    # With the programs where it looks for them: it tells of those that are missing.
    for file in installed.glob("lib/systemd/system/*"):
        text = file.read_text().replace("ExecStart=sockbrokerd", f"ExecStart={installed}/bin/sockbrokerd")
        (tmp_path / file.name).write_text(text.replace("User=sockbroker", "User=root"))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "sockbrokerd.service", tmp_path / "sockbrokerd.socket"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # What it says of other units of this machine is not ours.
    assert [line for line in ended.stderr.splitlines() if "sockbroker" in line] == []


def test_completions_are_where_the_shells_look(installed):
    for path in (
        "share/bash-completion/completions/sockbroker",
        "share/zsh/site-functions/_sockbroker",
        "share/fish/vendor_completions.d/sockbroker.fish",
    ):
        text = (installed / path).read_text()
        for word in words():
            assert word in text, path


def test_a_project_finds_the_protos(installed, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(consumer LANGUAGES NONE)\n"
        "find_package(sockbroker 0.1 REQUIRED)\n"
        'file(WRITE "${CMAKE_BINARY_DIR}/found" "${sockbroker_PROTO_DIR}\\n${sockbroker_PROTOS}")\n'
    )
    configure(tmp_path, installed)
    directory, protos = (tmp_path / "build/found").read_text().split("\n")
    out = tmp_path / "out"
    out.mkdir()
    # As its own compiler would: they are complete.
    run("protoc", f"--proto_path={directory}", f"--python_out={out}", *protos.split(";"))
    assert (out / "sockbroker/v1/sockbroker_pb2.py").exists()


def test_a_program_is_built_with_the_client_library(installed, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\n"
        "project(consumer LANGUAGES CXX)\n"
        "find_package(sockbroker 0.1 REQUIRED COMPONENTS client)\n"
        "add_executable(fetch fetch.cc)\n"
        "target_link_libraries(fetch PRIVATE sockbroker::client)\n"
    )
    shutil.copy(SOURCE_DIR / "client/cpp/examples/fetch.cc", tmp_path)
    cache = (BUILD_DIR / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.MULTILINE).group(1)
    configure(tmp_path, installed, f"-DCMAKE_CXX_COMPILER={compiler}")
    run("cmake", "--build", tmp_path / "build")
    ended = subprocess.run(
        [tmp_path / "build/fetch", "127.0.0.1", "1", "/"],
        env={**os.environ, "SOCKBROKER_ADDRESS": f"unix:{tmp_path}/nobody.sock", "GRPC_VERBOSITY": "NONE"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and "UNAVAILABLE" in ended.stderr


def test_no_header_is_installed_that_finds_another_missing(installed):
    root = installed / "include/sockbroker"
    ours = r'^#include "((?:client|session|sockbroker|streams|transport)/[^"]+)"'
    for header in root.rglob("*.h"):
        for name in re.findall(ours, header.read_text(), re.MULTILINE):
            assert (root / name).exists(), f"{header.relative_to(root)} includes {name}"


def test_the_packages_scripts_are_shell():
    for script in sorted((SOURCE_DIR / "packaging/debian").glob("p*")):
        run("sh", "-n", script)
