"""Who reaches whom: the client everything through the broker, and nothing without it."""

import pytest
import scenarios

BACK_ENDS = {"redis": 6379, "nginx": 80, "postgres": 5432}


def through_the_broker(stack, command):
    return stack.run("client", "sockbroker", "connect", "redis", "6379", input=f"{command}\r\nQUIT\r\n").stdout


def test_what_docker_compose_up_shows_is_so(stack):
    said = stack.run("client", "demo.sh").stdout
    for shown in "serving\n", "+PONG\n", "Hello from nginx", "visit number", "over TLSv1.3", f"Hello, {stack.address('client', 'front')}.\n":
        assert shown in said
    assert said.endswith("== All of it worked.\n")


@pytest.mark.parametrize("service", BACK_ENDS)
def test_a_python_program_asks_each_back_end_through_the_broker(stack, service):
    said = stack.run("client", "ask.py", service).stdout
    assert said.startswith(f"{service}: ")
    assert {"redis": "visit number", "nginx": "200 OK: Hello", "postgres": "over TLSv1.3"}[service] in said


@pytest.mark.parametrize("service", BACK_ENDS)
def test_the_command_line_connects_to_each_back_end(stack, service):
    assert stack.run("client", "sockbroker", "connect", "-z", service, str(BACK_ENDS[service])).returncode == 0


@pytest.mark.parametrize("service", BACK_ENDS)
def test_no_back_end_can_be_reached_without_the_broker(stack, service):
    scenarios.it_cannot_be_reached(stack, service, BACK_ENDS[service])


def test_redis_sees_the_broker_and_nobody_else(stack):
    scenarios.the_broker_is_the_peer(stack, through_the_broker)


def test_nginx_and_postgresql_see_the_broker(stack):
    from stack import docker

    address = stack.address("broker", "back")
    stack.run("client", "ask.py", "nginx")
    log = docker("logs", "--tail", "1", stack.id("nginx")).stdout
    assert log.startswith(f"{address} ")
    seen = stack.python("client", "print(ask.postgres(ask.broker(), 'select host(inet_client_addr())'))").stdout
    assert seen.strip() == address


def test_postgresql_is_upgraded_to_tls_at_an_exact_byte_and_takes_nothing_else(stack):
    query = "select ssl::text || ' ' || version from pg_stat_ssl where pid = pg_backend_pid()"
    said = stack.python("client", f'print(ask.postgres(ask.broker(), "{query}"))').stdout
    assert said == "true TLSv1.3\n"
    # The same without the upgrade: so it was TLS that let it in.
    plain = stack.python("client", "ask.postgres(ask.broker(), upgrade=False)", check=False)
    assert plain.returncode != 0
    assert "no pg_hba.conf entry" in plain.stderr and "no encryption" in plain.stderr


def test_without_a_certificate_nobody_gets_in(stack):
    for unset in ("SOCKBROKER_CERT", "SOCKBROKER_KEY"), ("SOCKBROKER_CACERT", "SOCKBROKER_CERT", "SOCKBROKER_KEY"):
        flags = [word for name in unset for word in ("-u", name)]
        ended = stack.run("client", "env", *flags, "sockbroker", "ping", check=False)
        assert (ended.returncode, ended.stdout) == (3, "")


def test_the_front_network_connects_to_a_server_whose_socket_is_the_brokers(stack):
    """The client serves, on an address that is the broker's: its own container listens nowhere."""
    from test_servers import serving

    with serving(stack, "client", "echo Hello, $SOCKBROKER_PEERADDR.") as port:
        connect = f"cat </dev/tcp/broker/{port}"
        assert stack.run("visitor", "bash", "-c", connect).stdout == f"Hello, {stack.address('visitor', 'front')}.\n"
        # Not at the client's address.
        refused = stack.run("visitor", "bash", "-c", connect.replace("broker", "client"), check=False)
        assert refused.returncode != 0 and "refused" in refused.stderr
    gone = stack.run("visitor", "bash", "-c", connect, check=False)
    assert gone.returncode != 0 and "refused" in gone.stderr
