// Lists and the watch: filters, pages, resuming, gaps.
#include <set>
#include <string>

#include "tests/server/broker_fixture.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;
using Kind = v1::ConnectionEvent;

class BrokerLists : public BrokerFixture {
 protected:
  v1::ListConnectionsResponse List(const v1::ListConnectionsRequest& request) {
    v1::ListConnectionsResponse response;
    const grpc::Status status = Do(&Stub::ListConnections, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  static auto Labelled(const std::string& key, const std::string& value) {
    return [=](v1::OpenConnectionRequest* r) {
      (*r->mutable_options()->mutable_labels())[key] = value;
    };
  }
};

TEST_F(BrokerLists, PagesGoOnWhereTheLastOneEnded) {
  std::vector<Connected> connections;
  for (int i = 0; i < 7; i++) connections.push_back(Connect());
  v1::ListConnectionsRequest request;
  request.set_page_size(3);
  std::vector<std::string> seen;
  for (int page = 0; page < 3; page++) {
    const v1::ListConnectionsResponse response = List(request);
    EXPECT_EQ(response.connections_size(), page < 2 ? 3 : 1);
    EXPECT_EQ(response.next_page_token().empty(), page == 2);
    for (const auto& connection : response.connections()) seen.push_back(connection.handle());
    request.set_page_token(response.next_page_token());
  }
  std::vector<std::string> opened;
  for (const Connected& connection : connections) opened.push_back(connection.handle);
  EXPECT_EQ(seen, opened);  // oldest first
  // A full last page is the last.
  request.clear_page_token();
  request.set_page_size(7);
  EXPECT_EQ(List(request).next_page_token(), "");
}

TEST_F(BrokerLists, FiltersSelect) {
  auto [a, a_peer] = Connect(Labelled("app", "a"));
  auto [b, b_peer] = Connect(Labelled("app", "b"));
  auto [c, c_peer] = Connect();
  v1::ListConnectionsRequest request;
  (*request.mutable_labels())["app"] = "b";
  ASSERT_EQ(List(request).connections_size(), 1);
  EXPECT_EQ(List(request).connections(0).handle(), b);
  (*request.mutable_labels())["app"] = "";
  EXPECT_EQ(List(request).connections_size(), 2);
  request.clear_labels();
  request.set_handle_prefix(c.substr(0, 4));
  ASSERT_EQ(List(request).connections_size(), 1);
  EXPECT_EQ(List(request).connections(0).handle(), c);
  request.clear_handle_prefix();
  Close(a);
  EVENTUALLY(broker().open_connections() == 2);
  EXPECT_EQ(List(request).connections_size(), 2);
  request.set_include_closed(true);
  EXPECT_EQ(List(request).connections_size(), 3);
  const v1::Server server = Start();
  request.set_server(server.handle());
  EXPECT_EQ(List(request).connections_size(), 0);
  Peer client = ConnectTo(server.sockets(0));
  Get(Accept(server.handle()).handle());
  EXPECT_EQ(List(request).connections_size(), 1);
}

TEST_F(BrokerLists, APageStaysBelowWhatGrpcTakes) {
  const std::string value(255, 'x');
  std::vector<Connected> connections;
  for (int i = 0; i < 600; i++) {
    connections.push_back(Connect([&](auto* r) {
      for (int label = 0; label < 16; label++) {
        (*r->mutable_options()->mutable_labels())[std::to_string(label) + std::string(60, 'k')] =
            value;
      }
    }));
  }
  v1::ListConnectionsRequest request;
  request.set_page_size(1000);
  std::set<std::string> seen;
  do {
    const v1::ListConnectionsResponse response = List(request);
    EXPECT_LT(response.ByteSizeLong(), 4u << 20);
    for (const auto& connection : response.connections()) seen.insert(connection.handle());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && !HasFailure());
  EXPECT_EQ(seen.size(), 600u);
}

TEST_F(BrokerLists, BadFieldsAreNamed) {
  v1::ListConnectionsRequest request;
  v1::ListConnectionsResponse response;
  request.set_page_size(1001);
  EXPECT_EQ(DetailOf(Do(&Stub::ListConnections, request, &response)).field(), "page_size");
  request.set_page_size(0);
  request.set_page_token("nonsense");
  EXPECT_EQ(DetailOf(Do(&Stub::ListConnections, request, &response)).field(), "page_token");
  request.clear_page_token();
  request.set_handle_prefix(std::string(33, 'x'));
  EXPECT_EQ(DetailOf(Do(&Stub::ListConnections, request, &response)).field(), "handle_prefix");
  request.clear_handle_prefix();
  request.set_server("short");
  EXPECT_EQ(DetailOf(Do(&Stub::ListConnections, request, &response)).field(), "server");
}

// --- the watch

class BrokerWatch : public BrokerLists {
 protected:
  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::ConnectionEvent>> reader;
    v1::ConnectionEvent Next() {
      v1::ConnectionEvent event;
      EXPECT_TRUE(reader->Read(&event)) << "the watch has ended";
      return event;
    }
    ~Watch() {
      context.TryCancel();
      (void)reader->Finish();
    }
  };
  std::unique_ptr<Watch> Begin(const v1::WatchConnectionsRequest& request = {}) {
    auto watch = std::make_unique<Watch>();
    watch->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    watch->reader = stub().WatchConnections(&watch->context, request);
    return watch;
  }
};

TEST_F(BrokerWatch, AWatchTellsWhatExistsAndThenWhatHappens) {
  auto [existing, existing_peer] = Connect();
  auto watch = Begin();
  const v1::ConnectionEvent first = watch->Next();
  EXPECT_EQ(first.kind(), Kind::OPENED);
  EXPECT_TRUE(first.existing());
  EXPECT_EQ(first.connection().handle(), existing);
  const v1::ConnectionEvent synced = watch->Next();
  EXPECT_EQ(synced.kind(), Kind::SYNCED);
  EXPECT_EQ(synced.incarnation(), broker().incarnation());

  auto [handle, peer] = Connect();
  const v1::ConnectionEvent opened = watch->Next();
  EXPECT_EQ(opened.kind(), Kind::OPENED);
  EXPECT_FALSE(opened.existing());
  EXPECT_EQ(opened.connection().handle(), handle);
  EXPECT_GT(opened.sequence(), synced.sequence());
  peer.ShutdownWrite();
  EXPECT_EQ(watch->Next().kind(), Kind::PEER_EOF);
  Close(handle);
  EXPECT_EQ(watch->Next().kind(), Kind::CLOSING);
  const v1::ConnectionEvent closed = watch->Next();
  EXPECT_EQ(closed.kind(), Kind::CLOSED);
  EXPECT_EQ(closed.connection().close_reason(), v1::CLOSED_BY_CLIENT);
  existing_peer.Reset();
  const v1::ConnectionEvent reset = watch->Next();
  EXPECT_EQ(reset.kind(), Kind::CLOSED);
  EXPECT_EQ(reset.connection().close_reason(), v1::CONNECTION_RESET);
}

TEST_F(BrokerWatch, AnAcceptedConnectionShowsWhenItIsClaimed) {
  const v1::Server server = Start();
  auto watch = Begin();
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
  Peer client = ConnectTo(server.sockets(0));
  const std::string handle = Accept(server.handle()).handle();
  auto [other, peer] = Connect();
  EXPECT_EQ(watch->Next().connection().handle(), other);
  Get(handle);
  const v1::ConnectionEvent event = watch->Next();
  EXPECT_EQ(event.kind(), Kind::ACCEPTED);
  EXPECT_EQ(event.connection().handle(), handle);
}

TEST_F(BrokerWatch, AWatchResumesWhereItStopped) {
  auto watch = Begin();
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
  auto [one, one_peer] = Connect();
  const v1::ConnectionEvent last = watch->Next();
  watch.reset();
  auto [two, two_peer] = Connect();
  v1::WatchConnectionsRequest request;
  request.set_after_sequence(last.sequence());
  request.set_incarnation(last.incarnation());
  watch = Begin(request);
  const v1::ConnectionEvent missed = watch->Next();
  EXPECT_EQ(missed.kind(), Kind::OPENED);
  EXPECT_FALSE(missed.existing());
  EXPECT_EQ(missed.connection().handle(), two);
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
  auto [three, three_peer] = Connect();
  EXPECT_EQ(watch->Next().connection().handle(), three);
}

TEST_F(BrokerWatch, AnotherIncarnationsSequenceBeginsWithAGap) {
  auto [one, one_peer] = Connect();
  v1::WatchConnectionsRequest request;
  request.set_after_sequence(1);
  request.set_incarnation(broker().incarnation() + 1);
  auto watch = Begin(request);
  EXPECT_EQ(watch->Next().kind(), Kind::GAP);
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
  auto [two, two_peer] = Connect();
  EXPECT_EQ(watch->Next().connection().handle(), two);
}

TEST_F(BrokerWatch, FiltersSelect) {
  v1::WatchConnectionsRequest request;
  (*request.mutable_labels())["app"] = "b";
  auto watch = Begin(request);
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
  auto [a, a_peer] = Connect(Labelled("app", "a"));
  auto [b, b_peer] = Connect(Labelled("app", "b"));
  EXPECT_EQ(watch->Next().connection().handle(), b);
  v1::WatchConnectionsRequest bad;
  bad.set_server("short");
  grpc::ClientContext context;
  auto reader = stub().WatchConnections(&context, bad);
  v1::ConnectionEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(DetailOf(reader->Finish()).field(), "server");
}

class WatchOfFewEvents : public BrokerWatch {
 protected:
  BrokerOptions Options() override {
    BrokerOptions options = BrokerFixture::Options();
    options.limits.events = 4;
    return options;
  }
};

TEST_F(WatchOfFewEvents, WhatFellOutOfTheRingIsSaidAsAGap) {
  std::vector<Connected> connections;
  for (int i = 0; i < 8; i++) connections.push_back(Connect());
  v1::WatchConnectionsRequest request;
  request.set_after_sequence(2);
  request.set_incarnation(broker().incarnation());
  auto watch = Begin(request);
  const v1::ConnectionEvent gap = watch->Next();
  EXPECT_EQ(gap.kind(), Kind::GAP);
  EXPECT_EQ(gap.sequence(), 4u);
  for (std::size_t i = 4; i < 8; i++) {
    const v1::ConnectionEvent event = watch->Next();
    EXPECT_EQ(event.connection().handle(), connections[i].handle);
    EXPECT_EQ(event.sequence(), i + 1);
  }
  EXPECT_EQ(watch->Next().kind(), Kind::SYNCED);
}

}  // namespace
}  // namespace sockbroker::server
