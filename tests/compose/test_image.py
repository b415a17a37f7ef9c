"""The broker's image, as it was built."""

from stack import docker


def size(image):
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)


def test_it_is_at_most_60_mb_on_top_of_its_base():
    assert 0 < size("sockbroker") - size("debian:bookworm-slim") <= 60_000_000
