"""A gibibyte over TLS both ways, through unary calls, while the peer renews the keys of both sides again and again."""

from test_tls_openssl import check_transfer, s_client  # noqa: F401
from tls_kit import certificates  # noqa: F401


def test_a_gibibyte_both_ways_over_tls_with_key_updates_in_the_middle_arrives_unchanged(stub, s_client, certificates):
    check_transfer(stub, s_client, certificates, 1 << 30, 64)
