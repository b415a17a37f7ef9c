// The life of a connection: opening and its errors, request_id, handles, closing, time-outs,
// leases, tombstones.
#include <sys/stat.h>

#include <string>

#include "tests/server/broker_fixture.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;
using Async = class v1::SocketBroker::Stub::async;

class BrokerLife : public BrokerFixture {
 protected:
  grpc::Status TryGet(const std::string& handle) {
    v1::GetConnectionRequest request;
    request.set_handle(handle);
    v1::Connection response;
    return Do(&Stub::GetConnection, request, &response);
  }
  grpc::Status TryWaitClosed(const std::string& handle, v1::WaitClosedResponse* response) {
    v1::WaitClosedRequest request;
    request.set_handle(handle);
    return Do(&Stub::WaitClosed, request, response);
  }
  grpc::Status TryOpen(const std::function<void(v1::OpenConnectionRequest*)>& edit) {
    v1::OpenConnectionRequest request;
    request.set_host("127.0.0.1");
    request.set_port(listener_.port());
    edit(&request);
    v1::OpenConnectionResponse response;
    return Call(request, &response);
  }
  grpc::Status TryOpenUnix(const std::string& path, std::string* handle = nullptr) {
    v1::OpenUnixConnectionRequest request;
    request.set_path(path);
    v1::OpenConnectionResponse response;
    const grpc::Status status = Do(&Stub::OpenUnixConnection, request, &response);
    if (handle != nullptr) *handle = response.connection().handle();
    return status;
  }
};

// --- opening

TEST_F(BrokerLife, AConnectionTellsOfItself) {
  auto [handle, peer] = Connect([](auto* r) {
    (*r->mutable_options()->mutable_labels())["app"] = "test";
    r->mutable_options()->set_traceparent("00-trace");
  });
  const v1::Connection connection = Get(handle);
  EXPECT_EQ(connection.state(), v1::CONNECTION_STATE_OPEN);
  EXPECT_EQ(connection.handle().size(), 32u);
  EXPECT_EQ(connection.peer().tcp().host(), "127.0.0.1");
  EXPECT_EQ(connection.peer().tcp().port(), listener_.port());
  EXPECT_EQ(connection.local().tcp().host(), "127.0.0.1");
  EXPECT_EQ(connection.requested_host(), "127.0.0.1");
  EXPECT_EQ(connection.options().limit(), 65536u);
  EXPECT_EQ(connection.options().write_high_water(), 65536u);
  EXPECT_EQ(connection.options().write_low_water(), 16384u);
  EXPECT_EQ(connection.options().lease().seconds(), 60);
  EXPECT_EQ(connection.options().timeouts().close().seconds(), 30);
  EXPECT_EQ(connection.options().labels().at("app"), "test");
  EXPECT_EQ(connection.options().traceparent(), "00-trace");
  EXPECT_FALSE(connection.bound());
  EXPECT_TRUE(connection.has_opened_at());
}

TEST_F(BrokerLife, ARefusedTargetListsWhatWasTried) {
  uint16_t port;
  {
    Listener gone;
    port = gone.port();
  }
  const grpc::Status status = TryOpen([&](auto* r) { r->set_port(port); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const v1::ErrorDetail detail = DetailOf(status);
  EXPECT_EQ(detail.reason(), v1::CONNECTION_REFUSED);
  EXPECT_EQ(detail.os_errno(), ECONNREFUSED);
  ASSERT_EQ(detail.attempts_size(), 1);
  EXPECT_EQ(detail.attempts(0).os_errno(), ECONNREFUSED);
  EXPECT_EQ(detail.attempts(0).endpoint().tcp().port(), port);
}

TEST_F(BrokerLife, ANameThatCannotBeResolvedIsNotFound) {
  const grpc::Status status = TryOpen([](auto* r) { r->set_host(""); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(status).reason(), v1::NAME_NOT_FOUND);
  EXPECT_NE(DetailOf(status).resolver_error(), "");
}

TEST_F(BrokerLife, UnixTargetsAreReachedAndTheirErrorsTold) {
  const TemporaryDirectory directory;
  Listener unix_listener(directory.path("echo.sock"));
  std::string handle;
  ASSERT_TRUE(TryOpenUnix(directory.path("echo.sock"), &handle).ok());
  Peer peer = unix_listener.Accept();
  Write(handle, "hi");
  EXPECT_EQ(peer.Receive(2), "hi");
  EXPECT_EQ(Get(handle).peer().unix(), directory.path("echo.sock"));

  EXPECT_EQ(DetailOf(TryOpenUnix(directory.path("none.sock"))).reason(), v1::CONNECTION_REFUSED);
  const grpc::Status is_directory = TryOpenUnix(directory.path("."));
  EXPECT_EQ(is_directory.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(DetailOf(is_directory).os_errno(), 0);
  EXPECT_EQ(DetailOf(TryOpenUnix("")).field(), "path");
  EXPECT_EQ(DetailOf(TryOpenUnix(std::string(108, 'x'))).field(), "path");
  EXPECT_EQ(DetailOf(TryOpenUnix(std::string("a\0b", 3))).field(), "path");
}

TEST_F(BrokerLife, BadFieldsAreNamedWithWhatIsAllowed) {
  const auto field = [&](const std::function<void(v1::OpenConnectionRequest*)>& edit) {
    const grpc::Status status = TryOpen(edit);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    const v1::ErrorDetail detail = DetailOf(status);
    EXPECT_EQ(detail.reason(), v1::INVALID_FIELD);
    EXPECT_NE(detail.allowed(), "");
    return detail.field();
  };
  EXPECT_EQ(field([](auto* r) { r->set_port(65536); }), "port");
  EXPECT_EQ(field([](auto* r) { r->set_host(std::string("a\0b", 3)); }), "host");
  EXPECT_EQ(field([](auto* r) { r->set_host(std::string(254, 'x')); }), "host");
  EXPECT_EQ(field([](auto* r) { r->set_service(""); }), "service");
  EXPECT_EQ(field([](auto* r) { r->set_request_id("short"); }), "request_id");
  EXPECT_EQ(field([](auto* r) { r->set_request_id(std::string(17, 'x')); }), "request_id");
  EXPECT_EQ(field([](auto* r) { r->set_sock("web"); }), "sock");
  EXPECT_EQ(field([](auto* r) {
              r->clear_host();
              r->clear_port();
            }),
            "host");
  EXPECT_EQ(field([](auto* r) {
              r->clear_host();
              r->clear_port();
              r->set_sock("no-such-name");
            }),
            "sock");
  EXPECT_EQ(field([](auto* r) { r->set_family(static_cast<v1::Family>(99)); }), "family");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_limit(0); }), "options.limit");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_limit(1048577); }), "options.limit");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->mutable_lease(); }), "options.lease");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->mutable_lease()->set_seconds(86401); }),
            "options.lease");
  EXPECT_EQ(field([](auto* r) {
              r->mutable_options()->set_write_high_water(1);
              r->mutable_options()->set_write_low_water(2);
            }),
            "options.write_low_water");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->set_write_low_water(8388608); }),
            "options.write_low_water");
  EXPECT_EQ(field([](auto* r) {
              r->mutable_options()->mutable_timeouts()->mutable_idle()->set_seconds(-1);
            }),
            "options.timeouts.idle");
  EXPECT_EQ(field([](auto* r) {
              r->mutable_options()->mutable_timeouts()->mutable_connect()->set_nanos(2'000'000'000);
            }),
            "options.timeouts.connect");
  EXPECT_EQ(field([](auto* r) {
              r->mutable_options()->mutable_socket()->mutable_linger()->set_seconds(100000);
            }),
            "options.socket.linger");
  EXPECT_EQ(field([](auto* r) { r->mutable_options()->mutable_socket()->set_tos(256); }),
            "options.socket.tos");
  EXPECT_EQ(field([](auto* r) { (*r->mutable_options()->mutable_labels())[""] = "x"; }),
            "options.labels");
  EXPECT_EQ(field([](auto* r) {
              for (int i = 0; i < 17; i++) {
                (*r->mutable_options()->mutable_labels())[std::to_string(i)] = "x";
              }
            }),
            "options.labels");
  EXPECT_EQ(field([](auto* r) { r->mutable_happy_eyeballs_delay()->set_seconds(-1); }),
            "happy_eyeballs_delay");
  EXPECT_EQ(field([](auto* r) { r->set_local_host(""); }), "local_host");
  EXPECT_EQ(field([](auto* r) { r->mutable_proxy_protocol(); }), "proxy_protocol.version");
  EXPECT_EQ(field([](auto* r) {
              r->mutable_proxy_protocol()->set_version(v1::ProxyProtocol::V1);
              r->mutable_proxy_protocol()->mutable_source()->set_host("nonsense");
              r->mutable_proxy_protocol()->mutable_destination()->set_host("127.0.0.1");
            }),
            "proxy_protocol.source");
  EXPECT_EQ(broker().open_connections(), 0u);
}

TEST_F(BrokerLife, TextThatIsNotUtf8IsRefusedAndNothingElseSuffers) {
  auto [handle, peer] = Connect();
  const auto refused = [](const grpc::Status& status) {
    // Such a message can't be decoded; gRPC answers before the broker is asked.
    return status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
  };
  const std::string text = "a\xff";
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->set_host(text); })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->set_service(text); })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->set_sock(text); })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->set_local_host(text); })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->mutable_options()->set_traceparent(text); })));
  EXPECT_TRUE(
      refused(TryOpen([&](auto* r) { (*r->mutable_options()->mutable_labels())["k"] = text; })));
  EXPECT_TRUE(
      refused(TryOpen([&](auto* r) { (*r->mutable_options()->mutable_labels())[text] = "v"; })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->mutable_tls()->set_server_hostname(text); })));
  EXPECT_TRUE(refused(TryOpen([&](auto* r) { r->mutable_tls()->add_alpn(text); })));
  v1::StartServerRequest start;
  start.add_hosts(text);
  v1::StartServerResponse started;
  EXPECT_TRUE(refused(Do(&Stub::StartServer, start, &started)));
  v1::ListConnectionsRequest list;
  list.set_page_token(text);
  v1::ListConnectionsResponse listed;
  EXPECT_TRUE(refused(Do(&Stub::ListConnections, list, &listed)));
  // A path is bytes: it is taken, and what is said of it can be read.
  EXPECT_EQ(DetailOf(TryOpenUnix("/nowhere/" + text)).reason(), v1::CONNECTION_REFUSED);

  EXPECT_EQ(broker().open_connections(), 1u);
  EXPECT_EQ(budget_->in_use(), 1u);
  Write(handle, "fine");
  EXPECT_EQ(peer.Receive(4), "fine");
}

TEST_F(BrokerLife, WithTlsOptionsTheFirstByteIsAHandshakes) {
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(listener_.port());
  request.mutable_tls();
  auto pending =
      Begin<v1::OpenConnectionRequest, v1::OpenConnectionResponse>(&Async::OpenConnection, request);
  Peer peer = listener_.Accept();
  EXPECT_EQ(peer.Receive(1), "\x16");
  peer.Close();
  EXPECT_EQ(pending->Wait().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EVENTUALLY(budget_->in_use() == 0);
}

TEST_F(BrokerLife, AProxyHeaderGoesInFrontAndCountsForNothing) {
  auto [handle, peer] = Connect([](auto* r) {
    auto* proxy = r->mutable_proxy_protocol();
    proxy->set_version(v1::ProxyProtocol::V1);
    proxy->mutable_source()->set_host("192.0.2.1");
    proxy->mutable_source()->set_port(1000);
    proxy->mutable_destination()->set_host("192.0.2.2");
    proxy->mutable_destination()->set_port(80);
  });
  const v1::WriteResponse written = Write(handle, "data");
  EXPECT_EQ(written.write_offset(), 4u);
  EXPECT_EQ(written.flushed(), 4u);
  const std::string expected = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\ndata";
  EXPECT_EQ(peer.Receive(expected.size()), expected);
}

TEST_F(BrokerLife, ConnectingEndsAtItsTimeout) {
  // A backlog that is full: the kernel answers no further SYN.
  const TemporaryDirectory directory;
  const std::string path = directory.path("full.sock");
  streams::Descriptor full(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = streams::SocketAddress::FromUnixPath(path);
  ASSERT_EQ(bind(full.get(), address->data(), address->size()), 0);
  ASSERT_EQ(listen(full.get(), 0), 0);
  streams::Descriptor filler(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(filler.get(), address->data(), address->size()), 0);

  v1::OpenUnixConnectionRequest request;
  request.set_path(path);
  request.mutable_options()->mutable_timeouts()->mutable_connect()->set_seconds(5);
  auto pending = Begin<v1::OpenUnixConnectionRequest, v1::OpenConnectionResponse>(
      &Async::OpenUnixConnection, request);
  EVENTUALLY((Advance(absl::Seconds(1)), pending->done.load()));
  EXPECT_EQ(pending->status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(DetailOf(pending->status).reason(), v1::TIMED_OUT);
  EXPECT_EQ(DetailOf(pending->status).phase(), v1::PHASE_CONNECT);

  // Cancelled while it dials: nothing is left.
  auto cancelled = Begin<v1::OpenUnixConnectionRequest, v1::OpenConnectionResponse>(
      &Async::OpenUnixConnection, request);
  EVENTUALLY(budget_->in_use() == 1);
  cancelled->context.TryCancel();
  EXPECT_EQ(cancelled->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EVENTUALLY(budget_->in_use() == 0);
}

// --- request_id

TEST_F(BrokerLife, TheSameRequestIdGivesTheSameConnection) {
  v1::OpenConnectionRequest request;
  request.set_request_id("0123456789abcdef");
  request.set_host("127.0.0.1");
  request.set_port(listener_.port());
  v1::OpenConnectionResponse first;
  v1::OpenConnectionResponse second;
  ASSERT_TRUE(Call(request, &first).ok());
  ASSERT_TRUE(Call(request, &second).ok());
  EXPECT_EQ(first.connection().handle(), second.connection().handle());
  EXPECT_EQ(broker().open_connections(), 1u);
  Peer peer = listener_.Accept();

  request.set_port(request.port() ^ 1);
  v1::OpenConnectionResponse other;
  const grpc::Status status = Call(request, &other);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf(status).reason(), v1::DIFFERENT_REQUEST);
  request.set_port(request.port() ^ 1);

  // Until the tombstone ends.
  Close(first.connection().handle());
  EVENTUALLY(broker().open_connections() == 0);
  ASSERT_TRUE(Call(request, &second).ok());
  EXPECT_EQ(first.connection().handle(), second.connection().handle());
  EXPECT_EQ(second.connection().state(), v1::CONNECTION_STATE_CLOSED);
  Advance(absl::Minutes(11));
  ASSERT_TRUE(Call(request, &second).ok());
  EXPECT_NE(first.connection().handle(), second.connection().handle());
}

TEST_F(BrokerLife, AFailureIsRememberedByItsRequestId) {
  const TemporaryDirectory directory;
  v1::OpenUnixConnectionRequest request;
  request.set_request_id("0123456789abcdef");
  request.set_path(directory.path("later.sock"));
  v1::OpenConnectionResponse response;
  EXPECT_EQ(DetailOf(Do(&Stub::OpenUnixConnection, request, &response)).reason(),
            v1::CONNECTION_REFUSED);
  Listener now(request.path());
  EXPECT_EQ(DetailOf(Do(&Stub::OpenUnixConnection, request, &response)).reason(),
            v1::CONNECTION_REFUSED);
  Advance(absl::Minutes(11));
  EXPECT_TRUE(Do(&Stub::OpenUnixConnection, request, &response).ok());
}

TEST_F(BrokerLife, AnAttemptWithAnIdGoesOnWithoutItsCaller) {
  const TemporaryDirectory directory;
  const std::string path = directory.path("full.sock");
  streams::Descriptor full(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = streams::SocketAddress::FromUnixPath(path);
  ASSERT_EQ(bind(full.get(), address->data(), address->size()), 0);
  ASSERT_EQ(listen(full.get(), 0), 0);
  streams::Descriptor filler(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(filler.get(), address->data(), address->size()), 0);

  v1::OpenUnixConnectionRequest request;
  request.set_request_id("0123456789abcdef");
  request.set_path(path);
  auto first = Begin<v1::OpenUnixConnectionRequest, v1::OpenConnectionResponse>(
      &Async::OpenUnixConnection, request);
  EVENTUALLY(budget_->in_use() == 1);
  first->context.TryCancel();
  EXPECT_EQ(first->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(budget_->in_use(), 1u);
  // A retry waits for the same attempt, which ends when there is room.
  auto retry = Begin<v1::OpenUnixConnectionRequest, v1::OpenConnectionResponse>(
      &Async::OpenUnixConnection, request);
  streams::Descriptor taken(accept(full.get(), nullptr, nullptr));
  EVENTUALLY((Advance(absl::Milliseconds(50)), retry->done.load()));
  EXPECT_TRUE(retry->status.ok()) << retry->status.error_message();
  EXPECT_EQ(broker().open_connections(), 1u);
  EXPECT_EQ(budget_->in_use(), 1u);
}

// --- handles

TEST_F(BrokerLife, HandlesThatNameNothingAreToldApart) {
  auto [handle, peer] = Connect();
  EXPECT_EQ(TryGet("").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TryGet(std::string(65, 'x')).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TryGet(handle.substr(1)).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf(TryGet("short")).field(), "handle");

  std::string unknown = handle;
  unknown[0] ^= 1;
  const grpc::Status no_such = TryGet(unknown);
  EXPECT_EQ(no_such.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf(no_such).reason(), v1::NO_SUCH_HANDLE);
  std::string other_incarnation = handle;
  other_incarnation[16] ^= 1;
  EXPECT_EQ(DetailOf(TryGet(other_incarnation)).reason(), v1::LOST);
  std::string other_broker = handle;
  other_broker[31] ^= 1;
  EXPECT_EQ(DetailOf(TryGet(other_broker)).reason(), v1::WRONG_BROKER);
  EXPECT_EQ(TryGet(other_broker).error_code(), grpc::StatusCode::NOT_FOUND);
  // A server's handle is no connection's.
  EXPECT_EQ(DetailOf(TryGet(Start().handle())).reason(), v1::NO_SUCH_HANDLE);
}

// --- closing

TEST_F(BrokerLife, CloseFlushesAndAnswersAtOnceAndIsIdempotent) {
  auto [handle, peer] =
      Connect([](auto* r) { r->mutable_options()->mutable_socket()->set_send_buffer(65536); });
  const std::string megabyte(1 << 20, 'x');
  for (int i = 0; i < 4; i++) Write(handle, megabyte);
  Close(handle);
  Close(handle);
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_CLOSING);
  v1::IsClosingRequest is_closing;
  is_closing.set_handle(handle);
  v1::IsClosingResponse closing;
  EXPECT_TRUE(Do(&Stub::IsClosing, is_closing, &closing).ok());
  EXPECT_TRUE(closing.is_closing());
  // Nothing else works on it any more.
  v1::ReadRequest read;
  read.set_handle(handle);
  read.set_n(1);
  v1::ReadResponse response;
  EXPECT_EQ(DetailOf(Do(&Stub::Read, read, &response)).reason(), v1::CLOSED);
  EXPECT_EQ(peer.ReceiveAll().size(), 4u << 20);
  v1::WaitClosedResponse closed;
  EXPECT_TRUE(TryWaitClosed(handle, &closed).ok());
  EXPECT_EQ(closed.connection().state(), v1::CONNECTION_STATE_CLOSED);
  EXPECT_EQ(closed.connection().close_reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(closed.connection().offsets().flushed(), 4u << 20);
}

TEST_F(BrokerLife, AClosedHandleAnswersFromItsTombstoneForTenMinutes) {
  auto [handle, peer] = Connect();
  Write(handle, "abc");
  Close(handle);
  peer.ReceiveAll();
  EVENTUALLY(broker().open_connections() == 0);
  const v1::Connection connection = Get(handle);
  EXPECT_EQ(connection.state(), v1::CONNECTION_STATE_CLOSED);
  EXPECT_EQ(connection.offsets().write_offset(), 3u);
  EXPECT_EQ(connection.peer().tcp().port(), listener_.port());
  Close(handle);
  v1::WriteRequest write;
  write.set_handle(handle);
  v1::WriteResponse written;
  const grpc::Status status = Do(&Stub::Write, write, &written);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(status).reason(), v1::CLOSED);
  EXPECT_EQ(DetailOf(status).close_reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(DetailOf(status).offsets().write_offset(), 3u);
  Advance(absl::Minutes(9));
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_CLOSED);
  Advance(absl::Minutes(2));
  EXPECT_EQ(DetailOf(TryGet(handle)).reason(), v1::NO_SUCH_HANDLE);
}

TEST_F(BrokerLife, AbortResetsAndDiscardEndsWithFin) {
  auto [aborted, aborted_peer] = Connect();
  v1::AbortRequest abort;
  abort.set_handle(aborted);
  v1::AbortResponse done;
  EXPECT_TRUE(Do(&Stub::Abort, abort, &done).ok());
  bool reset = false;
  aborted_peer.ReceiveAll(&reset);
  EXPECT_TRUE(reset);
  v1::WaitClosedResponse closed;
  EXPECT_TRUE(TryWaitClosed(aborted, &closed).ok());
  EXPECT_EQ(closed.connection().close_reason(), v1::ABORTED_BY_CLIENT);
  EXPECT_TRUE(Do(&Stub::Abort, abort, &done).ok());

  auto [discarded, discarded_peer] = Connect();
  v1::CloseRequest close;
  close.set_handle(discarded);
  close.set_discard_pending(true);
  v1::CloseResponse ok;
  EXPECT_TRUE(Do(&Stub::Close, close, &ok).ok());
  discarded_peer.ReceiveAll(&reset);
  EXPECT_FALSE(reset);
  EXPECT_TRUE(TryWaitClosed(discarded, &closed).ok());
  EXPECT_EQ(closed.connection().close_reason(), v1::ABORTED_BY_CLIENT);
}

TEST_F(BrokerLife, WaitClosedGivesTheErrorOfALossEachTime) {
  auto [handle, peer] = Connect();
  v1::WaitClosedRequest request;
  request.set_handle(handle);
  auto cancelled =
      Begin<v1::WaitClosedRequest, v1::WaitClosedResponse>(&Async::WaitClosed, request);
  auto waiting = Begin<v1::WaitClosedRequest, v1::WaitClosedResponse>(&Async::WaitClosed, request);
  Settle();
  // Waiters are independent of one another.
  cancelled->context.TryCancel();
  EXPECT_EQ(cancelled->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_FALSE(waiting->done.load());
  peer.Reset();
  EXPECT_EQ(waiting->Wait().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(waiting->status).reason(), v1::CONNECTION_RESET);
  v1::WaitClosedResponse again;
  EXPECT_EQ(DetailOf(TryWaitClosed(handle, &again)).reason(), v1::CONNECTION_RESET);
  const v1::Connection connection = Get(handle);
  EXPECT_EQ(connection.close_reason(), v1::CONNECTION_RESET);
  EXPECT_EQ(connection.close_errno(), ECONNRESET);
}

// --- time

TEST_F(BrokerLife, AnUntouchedConnectionIsClosedWhenItsLeaseEnds) {
  auto [handle, peer] = Connect();
  Advance(absl::Seconds(59));
  Get(handle);  // touches it
  Advance(absl::Seconds(59));
  EXPECT_EQ(broker().open_connections(), 1u);
  Advance(absl::Seconds(1));
  EXPECT_EQ(peer.ReceiveAll(), "");
  EVENTUALLY(broker().open_connections() == 0);
  const v1::Connection connection = Get(handle);
  EXPECT_EQ(connection.close_reason(), v1::LEASE_EXPIRED);
  EXPECT_EQ(connection.close_phase(), v1::PHASE_LEASE);
  EXPECT_EQ(budget_->in_use(), 0u);
}

TEST_F(BrokerLife, APendingCallKeepsTheLease) {
  auto [handle, peer] =
      Connect([](auto* r) { r->mutable_options()->mutable_lease()->set_seconds(5); });
  v1::ReadRequest read;
  read.set_handle(handle);
  read.set_n(1);
  auto pending = Begin<v1::ReadRequest, v1::ReadResponse>(&Async::Read, read);
  AwaitReader(handle);
  Advance(absl::Hours(1));
  EXPECT_FALSE(pending->done.load());
  peer.Send("x");
  EXPECT_TRUE(pending->Wait().ok());
  // From its end on the lease counts again.
  Settle();
  Advance(absl::Seconds(5));
  EXPECT_EQ(peer.ReceiveAll(), "");
}

TEST_F(BrokerLife, AfterAStallCallsThatCameMeanwhileKeepTheLease) {
  auto [handle, peer] = Connect();
  // The loops stand still while the lease's time passes and a call comes.
  std::atomic<bool> go_on{false};
  for (streams::EventLoop* loop : broker().loops()) {
    loop->Post([&] { go_on.wait(false); });
  }
  clock_.Advance(absl::Seconds(62));
  v1::GetConnectionRequest request;
  request.set_handle(handle);
  auto queued = Begin<v1::GetConnectionRequest, v1::Connection>(&Async::GetConnection, request);
  go_on.store(true);
  go_on.notify_all();
  EXPECT_TRUE(queued->Wait().ok());
  EXPECT_EQ(queued->response.state(), v1::CONNECTION_STATE_OPEN);
  Advance(absl::Seconds(5));
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_OPEN);
}

TEST_F(BrokerLife, AnIdleConnectionEndsAtItsTimeout) {
  auto [handle, peer] = Connect([](auto* r) {
    r->mutable_options()->mutable_timeouts()->mutable_idle()->set_seconds(8);
    r->mutable_options()->mutable_lease()->set_seconds(3600);
  });
  for (int i = 0; i < 7; i++) Advance(absl::Seconds(1));
  peer.Send("x");
  EVENTUALLY(Get(handle).offsets().received() == 1);
  for (int i = 0; i < 7; i++) Advance(absl::Seconds(1));
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_OPEN);
  for (int i = 0; i < 3; i++) Advance(absl::Seconds(1));
  EVENTUALLY(Get(handle).state() == v1::CONNECTION_STATE_CLOSED);
  EXPECT_EQ(Get(handle).close_reason(), v1::ENDED_BY_TIMEOUT);
  EXPECT_EQ(Get(handle).close_phase(), v1::PHASE_IDLE);
}

TEST_F(BrokerLife, TheOtherHalfHasItsTimeout) {
  const auto options = [](auto* r) {
    r->mutable_options()->mutable_timeouts()->mutable_half_close()->set_seconds(5);
  };
  auto [ours, our_peer] = Connect(options);
  auto [theirs, their_peer] = Connect(options);
  v1::WriteEofRequest eof;
  eof.set_handle(ours);
  v1::WriteEofResponse done;
  EXPECT_TRUE(Do(&Stub::WriteEof, eof, &done).ok());
  their_peer.ShutdownWrite();
  EVENTUALLY(Get(theirs).at_eof());
  Advance(absl::Seconds(4));
  EXPECT_EQ(Get(ours).state(), v1::CONNECTION_STATE_OPEN);
  EXPECT_EQ(Get(theirs).state(), v1::CONNECTION_STATE_OPEN);
  Advance(absl::Seconds(1));
  for (const std::string& handle : {ours, theirs}) {
    EVENTUALLY(Get(handle).state() == v1::CONNECTION_STATE_CLOSED);
    EXPECT_EQ(Get(handle).close_reason(), v1::ENDED_BY_TIMEOUT);
    EXPECT_EQ(Get(handle).close_phase(), v1::PHASE_HALF_CLOSE);
  }
  // With both directions ended in time it stays, as in asyncio, until it is closed.
  auto [both, both_peer] = Connect(options);
  eof.set_handle(both);
  EXPECT_TRUE(Do(&Stub::WriteEof, eof, &done).ok());
  both_peer.ShutdownWrite();
  EVENTUALLY(Get(both).at_eof());
  Advance(absl::Seconds(10));
  EXPECT_EQ(Get(both).state(), v1::CONNECTION_STATE_OPEN);
}

TEST_F(BrokerLife, AClosePeerNeverReadsEndsAtTheCloseTimeout) {
  auto [handle, peer] = Connect([](auto* r) {
    r->mutable_options()->mutable_socket()->set_send_buffer(65536);
    r->mutable_options()->mutable_timeouts()->mutable_close()->set_seconds(3);
  });
  const std::string megabyte(1 << 20, 'x');
  for (int i = 0; i < 7; i++) Write(handle, megabyte);
  Close(handle);
  Advance(absl::Seconds(2));
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_CLOSING);
  Advance(absl::Seconds(1));
  v1::WaitClosedResponse closed;
  const grpc::Status status = TryWaitClosed(handle, &closed);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(DetailOf(status).phase(), v1::PHASE_CLOSE);
  EXPECT_LT(DetailOf(status).offsets().flushed(), DetailOf(status).offsets().write_offset());
  EXPECT_EQ(Get(handle).close_reason(), v1::ENDED_BY_TIMEOUT);
}

// --- options and information

TEST_F(BrokerLife, OptionsChangeWhileItLives) {
  auto [handle, peer] =
      Connect([](auto* r) { (*r->mutable_options()->mutable_labels())["a"] = "1"; });
  v1::SetOptionsRequest request;
  request.set_handle(handle);
  request.mutable_options()->mutable_lease()->set_seconds(300);
  request.mutable_options()->set_limit(10);
  request.mutable_options()->mutable_socket()->set_keepalive(true);
  (*request.mutable_options()->mutable_labels())["b"] = "2";
  v1::SetOptionsResponse response;
  ASSERT_TRUE(Do(&Stub::SetOptions, request, &response).ok());
  const v1::ConnectionOptions& options = response.connection().options();
  EXPECT_EQ(options.lease().seconds(), 300);
  EXPECT_EQ(options.limit(), 10u);
  EXPECT_EQ(options.labels().size(), 1u);
  EXPECT_EQ(options.labels().at("b"), "2");
  EXPECT_EQ(options.write_high_water(), 65536u);
  v1::GetExtraInfoRequest info;
  info.set_handle(handle);
  info.set_name("socket");
  v1::GetExtraInfoResponse socket;
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, info, &socket).ok());
  EXPECT_TRUE(socket.socket().keepalive());
  Advance(absl::Seconds(200));
  EXPECT_EQ(Get(handle).state(), v1::CONNECTION_STATE_OPEN);

  request.clear_options();
  request.set_clear_labels(true);
  ASSERT_TRUE(Do(&Stub::SetOptions, request, &response).ok());
  EXPECT_EQ(response.connection().options().labels().size(), 0u);
  request.mutable_options()->mutable_timeouts()->mutable_connect()->set_seconds(1);
  EXPECT_EQ(DetailOf(Do(&Stub::SetOptions, request, &response)).field(),
            "options.timeouts.connect");
}

TEST_F(BrokerLife, ExtraInfoIsWhatAsyncioHas) {
  auto [handle, peer] = Connect();
  v1::GetExtraInfoRequest request;
  request.set_handle(handle);
  v1::GetExtraInfoResponse response;
  request.set_name("peername");
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, request, &response).ok());
  EXPECT_EQ(response.endpoint().tcp().port(), listener_.port());
  request.set_name("socket");
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, request, &response).ok());
  EXPECT_GE(response.socket().fileno(), 0);
  EXPECT_TRUE(response.socket().nodelay());
  EXPECT_EQ(response.socket().family(), v1::FAMILY_INET);
  EXPECT_GT(response.socket().send_buffer(), 0u);
  request.set_name("nonsense");
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, request, &response).ok());
  EXPECT_EQ(response.value_case(), v1::GetExtraInfoResponse::VALUE_NOT_SET);
  // After the end the names stay, and the socket has no descriptor.
  Close(handle);
  EVENTUALLY(broker().open_connections() == 0);
  request.set_name("peername");
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, request, &response).ok());
  EXPECT_EQ(response.endpoint().tcp().port(), listener_.port());
  request.set_name("socket");
  ASSERT_TRUE(Do(&Stub::GetExtraInfo, request, &response).ok());
  EXPECT_EQ(response.socket().fileno(), -1);
}

// --- who may what

TEST_F(BrokerLife, TheBrokerNeverDialsItself) {
  const TemporaryDirectory directory;
  Listener unix_listener(directory.path("own.sock"));
  broker().AddOwnListener(listener_.address());
  broker().AddOwnListener(unix_listener.address());
  const grpc::Status status = TryOpen([](auto*) {});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(DetailOf(status).reason(), v1::POLICY);
  EXPECT_EQ(DetailOf(status).rule(), "own-listener");
  EXPECT_EQ(DetailOf(TryOpen([](auto* r) { r->set_host("0.0.0.0"); })).rule(), "own-listener");
  // By another path to the same socket.
  ASSERT_EQ(symlink((directory.path("own.sock")).c_str(), (directory.path("alias")).c_str()), 0);
  EXPECT_EQ(DetailOf(TryOpenUnix(directory.path("alias"))).rule(), "own-listener");
}

TEST_F(BrokerLife, CallersOverLoopbackGetNoUnixSocketsAndNothingAdopted) {
  v1::OpenConnectionResponse opened;
  v1::StartServerResponse started;
  grpc::Status status;
  const auto refused = [&](const grpc::Status& result) {
    EXPECT_EQ(result.error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(DetailOf(result).reason(), v1::POLICY);
    EXPECT_EQ(DetailOf(result).rule(), "insecure-loopback");
  };
  {
    grpc::ClientContext context;
    v1::OpenUnixConnectionRequest request;
    request.set_path(directory_.path("broker.sock"));
    refused(loopback_stub_->OpenUnixConnection(&context, request, &opened));
  }
  {
    grpc::ClientContext context;
    v1::StartUnixServerRequest request;
    request.set_path(directory_.path("new.sock"));
    refused(loopback_stub_->StartUnixServer(&context, request, &started));
  }
  {
    grpc::ClientContext context;
    v1::OpenConnectionRequest request;
    request.set_sock("web");
    refused(loopback_stub_->OpenConnection(&context, request, &opened));
  }
  // TCP is theirs, and nobody else's.
  grpc::ClientContext context;
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(listener_.port());
  ASSERT_TRUE(loopback_stub_->OpenConnection(&context, request, &opened).ok());
  const grpc::Status foreign = TryGet(opened.connection().handle());
  std::string unknown = opened.connection().handle();
  unknown[0] ^= 1;
  const grpc::Status no_such = TryGet(unknown);
  // The same to the byte.
  EXPECT_EQ(foreign.error_code(), no_such.error_code());
  EXPECT_EQ(foreign.error_message(), no_such.error_message());
  EXPECT_EQ(foreign.error_details(), no_such.error_details());
}

TEST_F(BrokerLife, ADrainFlushesAndEndsEverything) {
  auto [handle, peer] = Connect();
  const v1::Server server = Start();
  v1::AcceptRequest accept;
  accept.set_server(server.handle());
  auto waiting = Begin<v1::AcceptRequest, v1::AcceptResponse>(&Async::Accept, accept);
  EVENTUALLY([&] {
    v1::GetServerRequest get;
    get.set_handle(server.handle());
    v1::Server response;
    return Do(&Stub::GetServer, get, &response).ok() && response.waiting_accepts() == 1;
  }());
  Write(handle, "last words");
  EXPECT_TRUE(broker().Drain(absl::Seconds(8)));
  EXPECT_EQ(peer.ReceiveAll(), "last words");
  EXPECT_EQ(waiting->Wait().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf(waiting->status).reason(), v1::DRAINING);
  const grpc::Status refused = TryOpen([](auto*) {});
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf(refused).reason(), v1::DRAINING);
  EXPECT_EQ(Get(handle).close_reason(), v1::BROKER_STOPPED);
  EXPECT_EQ(broker().open_connections(), 0u);
  EXPECT_EQ(budget_->in_use(), 0u);
}

// --- descriptors

class BrokerWithFewDescriptors : public BrokerFixture {
 protected:
  BrokerOptions Options() override {
    budget_ = std::make_unique<DescriptorBudget>(266);
    BrokerOptions options = BrokerFixture::Options();
    options.descriptors = budget_.get();
    return options;
  }
};

TEST_F(BrokerWithFewDescriptors, AThousandOpensAreRefusedAndTheRestStillWorks) {
  std::vector<Connected> connections;
  for (uint64_t i = 0; i < budget_->capacity(); i++) connections.push_back(Connect());
  v1::OpenConnectionRequest request;
  request.set_host("127.0.0.1");
  request.set_port(listener_.port());
  request.set_request_id("0123456789abcdef");
  v1::OpenConnectionResponse response;
  for (int i = 0; i < 1000; i++) {
    const grpc::Status status = Call(request, &response);
    ASSERT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    ASSERT_EQ(DetailOf(status).reason(), v1::DESCRIPTOR_RESERVE);
    ASSERT_TRUE(DetailOf(status).has_retry_after());
  }
  EXPECT_EQ(Get(connections[0].handle).state(), v1::CONNECTION_STATE_OPEN);
  // The refusal is not remembered: with room again the same request succeeds.
  Close(connections[0].handle);
  EVENTUALLY(budget_->in_use() < budget_->capacity());
  EXPECT_TRUE(Call(request, &response).ok());
}

}  // namespace
}  // namespace sockbroker::server
