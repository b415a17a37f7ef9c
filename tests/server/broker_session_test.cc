// The Session RPC: the broker's end, with real sockets behind it.
#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/broker_fixture.h"
#include "tests/server/session_client.h"

namespace sockbroker::server {
namespace {

using session::Position;
using ::testing::HasSubstr;

std::string Pattern(std::size_t size, int seed = 0) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>((i * 2654435761u >> 7) + static_cast<unsigned>(seed));
  }
  return text;
}

v1::ErrorDetail DetailOf(const google::rpc::Status& status) {
  v1::ErrorDetail detail;
  EXPECT_EQ(status.details_size(), 1);
  if (status.details_size() == 1) EXPECT_TRUE(status.details(0).UnpackTo(&detail));
  return detail;
}

class SessionTest : public BrokerFixture {
 protected:
  // A connection that `client` opens to a socket of the test's.
  std::pair<std::shared_ptr<TestChannel>, Peer> Open(SessionClient* client) {
    auto channel = client->Open(listener_.port());
    Peer peer = listener_.Accept();
    channel->WaitBound();
    return {std::move(channel), std::move(peer)};
  }
};

TEST_F(SessionTest, AnOpenedConnectionCarriesBytesBothWays) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  connection->Write("ping");
  EXPECT_EQ(peer.Receive(4), "ping");
  peer.Send("pong");
  EXPECT_EQ(connection->Receive(4), "pong");
  EXPECT_EQ(connection->epoch(), 1u);
}

TEST_F(SessionTest, WhatIsSentAheadOfTheAnswerArrivesOnceTheConnectionIsThere) {
  SessionClient client(channel_);
  auto connection = client.Open(listener_.port());
  connection->Write("early");
  Peer peer = listener_.Accept();
  EXPECT_EQ(peer.Receive(5), "early");
}

TEST_F(SessionTest, MegabytesBothWaysArriveWholeThroughSmallWindows) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  const std::string up = Pattern(8 << 20, 1);
  const std::string down = Pattern(8 << 20, 2);
  connection->Write(up);
  std::thread sender([&socket = peer, &down] {
    socket.Send(down);
    socket.ShutdownWrite();
  });
  std::thread receiver([&socket = peer, &up] { EXPECT_TRUE(socket.Receive(up.size()) == up); });
  EXPECT_TRUE(connection->ReceiveAll() == down);
  sender.join();
  receiver.join();
  // The last ack is small, and waits a little for more.
  EVENTUALLY((Advance(session::kAckDelay), connection->unacked() == 0));
  connection->WaitFlushed(up.size());
}

TEST_F(SessionTest, BothEndsCanHalfClose) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  connection->Write("request");
  connection->WriteEof();
  EXPECT_EQ(peer.ReceiveAll(), "request");
  peer.Send("answer");
  peer.ShutdownWrite();
  EXPECT_EQ(connection->ReceiveAll(), "answer");
  connection->Close();
  const v1::Closed closed = connection->WaitClosed();
  EXPECT_EQ(closed.status().code(), 0);
  EXPECT_EQ(closed.reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(closed.offsets().flushed(), 7u);
}

TEST_F(SessionTest, CloseFlushesWhatWasWrittenBefore) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  const std::string data = Pattern(1 << 20);
  connection->Write(data);
  connection->Close();
  EXPECT_TRUE(peer.ReceiveAll() == data);
  connection->WaitClosed();
}

TEST_F(SessionTest, AbortResetsTheConnection) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  connection->Abort();
  bool reset = false;
  peer.ReceiveAll(&reset);
  EXPECT_TRUE(reset);
  EXPECT_EQ(connection->WaitClosed().reason(), v1::ABORTED_BY_CLIENT);
}

TEST_F(SessionTest, WhatCameBeforeAResetIsDeliveredBeforeItsError) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  peer.Send("last words");
  EXPECT_EQ(connection->Receive(4), "last");
  peer.Reset();
  EXPECT_EQ(connection->Receive(6), " words");
  const v1::Closed closed = connection->WaitClosed();
  EXPECT_EQ(closed.reason(), v1::CONNECTION_RESET);
  EXPECT_EQ(DetailOf(closed.status()).reason(), v1::CONNECTION_RESET);
}

TEST_F(SessionTest, ARefusedConnectionFailsItsChannelAsTheUnaryCallWould) {
  SessionClient client(channel_);
  uint16_t port;
  {
    const Listener gone;
    port = gone.port();
  }
  const auto refused = client.Open(port);
  const google::rpc::Status status = refused->WaitFailed();
  EXPECT_EQ(status.code(), static_cast<int>(grpc::StatusCode::FAILED_PRECONDITION));
  EXPECT_EQ(DetailOf(status).reason(), v1::CONNECTION_REFUSED);
  // The session goes on.
  auto [connection, peer] = Open(&client);
  connection->Write("x");
  EXPECT_EQ(peer.Receive(1), "x");
}

TEST_F(SessionTest, ALostLinkResumesAtTheExactByteBothWays) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  connection->Write("one ");
  EXPECT_EQ(peer.Receive(4), "one ");
  peer.Send("eins ");
  EXPECT_EQ(connection->Receive(5), "eins ");
  client.Cut();
  connection->Write("two");
  peer.Send("zwei");
  client.Connect();
  connection->WaitBound();
  EXPECT_EQ(peer.Receive(3), "two");
  EXPECT_EQ(connection->Receive(4), "zwei");
  EXPECT_EQ(connection->epoch(), 2u);
}

TEST_F(SessionTest, BytesThatTheClientHadButNotConsumedComeAgainAfterABreak) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  peer.Send("abcdef");
  EXPECT_EQ(connection->Receive(2), "ab");
  client.Cut();
  // Another process takes over, and knows only what the first had written out.
  SessionClient other(channel_);
  auto taken = other.Bind(connection->handle(), false, Position{2, 0});
  taken->WaitBound();
  EXPECT_EQ(taken->Receive(4), "cdef");
}

TEST_F(SessionTest, UnaryReadsFindWhatASessionLeftUnread) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  peer.Send("one\ntwo\n");
  EXPECT_EQ(connection->Receive(4), "one\n");
  connection->Detach();
  connection->WaitDetached();
  EXPECT_EQ(ReadLine(connection->handle()).data(), "two\n");
  EXPECT_EQ(Get(connection->handle()).offsets().read_offset(), 8u);
}

TEST_F(SessionTest, AUnaryConnectionCanBeBoundAndGoesOnWhereItStands) {
  auto [handle, peer] = Connect();
  Write(handle, "unary ");
  peer.Send("line\nrest");
  EXPECT_EQ(ReadLine(handle).data(), "line\n");
  SessionClient client(channel_);
  auto connection = client.Bind(handle);
  connection->WaitBound();
  connection->Write("session");
  EXPECT_EQ(peer.Receive(13), "unary session");
  EXPECT_EQ(connection->Receive(4), "rest");
}

TEST_F(SessionTest, UnaryReadsAndWritesOfABoundConnectionAreRefusedInspectionIsNot) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  v1::ReadRequest read;
  read.set_handle(connection->handle());
  read.set_n(1);
  v1::ReadResponse got;
  const grpc::Status status = Do(&v1::SocketBroker::Stub::Read, read, &got);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(server::DetailOf(status).reason(), v1::BOUND);
  EXPECT_EQ(server::DetailOf(status).epoch(), 1u);
  v1::WriteRequest write;
  write.set_handle(connection->handle());
  write.set_data("x");
  v1::WriteResponse wrote;
  EXPECT_EQ(server::DetailOf(Do(&v1::SocketBroker::Stub::Write, write, &wrote)).reason(),
            v1::BOUND);
  EXPECT_EQ(Get(connection->handle()).epoch(), 1u);
  EXPECT_TRUE(Get(connection->handle()).bound());
  // Close remains.
  Close(connection->handle());
  EXPECT_EQ(connection->WaitClosed().reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(peer.ReceiveAll(), "");
}

TEST_F(SessionTest, AReadThatWaitsEndsWhenASessionBindsTheConnection) {
  auto [handle, peer] = Connect();
  v1::ReadRequest read;
  read.set_handle(handle);
  read.set_n(10);
  auto pending =
      Begin<v1::ReadRequest, v1::ReadResponse>(&v1::SocketBroker::Stub::async::Read, read);
  AwaitReader(handle);
  SessionClient client(channel_);
  auto connection = client.Bind(handle);
  connection->WaitBound();
  EXPECT_EQ(server::DetailOf(pending->Wait()).reason(), v1::BOUND);
  peer.Send("hello");
  EXPECT_EQ(connection->Receive(5), "hello");
}

TEST_F(SessionTest, AnotherHolderNeedsSteal) {
  SessionClient first(channel_);
  auto [connection, peer] = Open(&first);
  SessionClient second(channel_);
  auto refused = second.Bind(connection->handle());
  EXPECT_EQ(DetailOf(refused->WaitFailed()).reason(), v1::BOUND);
  auto stolen = second.Bind(connection->handle(), /*steal=*/true);
  stolen->WaitBound();
  EXPECT_EQ(connection->WaitFenced(), 2u);
  stolen->Write("mine");
  EXPECT_EQ(peer.Receive(4), "mine");
}

TEST_F(SessionTest, WhatAFencedClientSaysAfterTheStealNeverReachesThePeer) {
  SessionClient first(channel_);
  auto [connection, peer] = Open(&first);
  connection->Write("before ");
  EXPECT_EQ(peer.Receive(7), "before ");
  first.Hold(true);  // it does not hear that it was fenced
  SessionClient second(channel_);
  auto stolen = second.Bind(connection->handle(), /*steal=*/true);
  stolen->WaitBound();
  connection->Write("POISON");
  stolen->Write("after");
  stolen->Close();
  EXPECT_EQ(peer.ReceiveAll(), "after");
  first.Hold(false);
  connection->WaitFenced();
}

TEST_F(SessionTest, AFencedClientThatComesBackIsStale) {
  SessionClient first(channel_);
  auto [connection, peer] = Open(&first);
  const std::string handle = connection->handle();
  first.Cut();
  SessionClient second(channel_);
  auto other = second.Bind(handle);
  other->WaitBound();
  other->Detach();
  other->WaitDetached();
  // Nobody has it now, but what the first knows of it is out of date.
  first.Connect();
  const google::rpc::Status status = connection->WaitFailed();
  EXPECT_EQ(status.code(), static_cast<int>(grpc::StatusCode::ABORTED));
  EXPECT_EQ(DetailOf(status).reason(), v1::STALE_EPOCH);
}

TEST_F(SessionTest, AnOffsetThatIsNotHeldIsOutOfRangeWithTheRange) {
  SessionClient first(channel_);
  auto [connection, peer] = Open(&first);
  peer.Send("abcdef");
  EXPECT_EQ(connection->Receive(6), "abcdef");
  connection->Detach();
  connection->WaitDetached();
  SessionClient second(channel_);
  for (const uint64_t offset : {2, 7}) {
    auto bound = second.Bind(connection->handle(), false, Position{offset, 0});
    const google::rpc::Status status = bound->WaitFailed();
    EXPECT_EQ(status.code(), static_cast<int>(grpc::StatusCode::OUT_OF_RANGE));
    EXPECT_EQ(DetailOf(status).offsets().read_kept(), 6u);
  }
  auto bound = second.Bind(connection->handle(), false, Position{6, 0});
  bound->WaitBound();
  peer.Send("g");
  EXPECT_EQ(bound->Receive(1), "g");
}

TEST_F(SessionTest, WhoeverTakesOverIsToldOfAnEndThatItsPredecessorHasSeen) {
  SessionClient first(channel_);
  auto [connection, peer] = Open(&first);
  peer.Send("all");
  peer.ShutdownWrite();
  EXPECT_EQ(connection->ReceiveAll(), "all");
  connection->Detach();
  connection->WaitDetached();
  SessionClient second(channel_);
  auto bound = second.Bind(connection->handle());
  bound->WaitEof();
  bound->Write("answer");
  bound->Close();
  EXPECT_EQ(peer.ReceiveAll(), "answer");
}

TEST_F(SessionTest, AConnectionLivesForItsLeaseAfterTheLinkBroke) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  // Bound, it has no need of calls.
  Advance(absl::Seconds(600));
  connection->Write("still here");
  EXPECT_EQ(peer.Receive(10), "still here");
  client.Cut();
  EVENTUALLY(Get(connection->handle()).epoch() == 1);
  Advance(absl::Seconds(61));
  EXPECT_EQ(peer.ReceiveAll(), "");
  client.Connect();
  EXPECT_EQ(connection->WaitClosed().reason(), v1::LEASE_EXPIRED);
}

TEST_F(SessionTest, BindingAConnectionThatIsGoneAnswersClosedWithTheReasonAndTheOffsets) {
  auto [handle, peer] = Connect();
  Write(handle, "bye");
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "bye");
  SessionClient client(channel_);
  auto connection = client.Bind(handle);
  const v1::Closed closed = connection->WaitClosed();
  EXPECT_EQ(closed.reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(closed.offsets().write_offset(), 3u);
}

TEST_F(SessionTest, TheTailOfALostConnectionIsKeptForTheNextBinding) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  peer.Send("tail");
  EVENTUALLY(connection->Waiting() == "tail");
  peer.Reset();
  client.Cut();
  SessionClient other(channel_);
  auto bound = other.Bind(connection->handle());
  EXPECT_EQ(bound->Receive(4), "tail");
  EXPECT_EQ(bound->WaitClosed().reason(), v1::CONNECTION_RESET);
}

TEST_F(SessionTest, ARepeatedOpenFindsTheConnectionThatItsFirstMade) {
  SessionClient client(channel_);
  const std::string id(16, 'r');
  auto first = client.Open(listener_.port(), id);
  Peer peer = listener_.Accept();
  first->WaitBound();
  const std::string handle = first->handle();
  first->Detach();
  first->WaitDetached();
  auto again = client.Open(listener_.port(), id);
  again->WaitBound();
  EXPECT_EQ(again->handle(), handle);
}

// --- accepting

TEST_F(SessionTest, AcceptedConnectionsComeOnChannelsOfTheBrokersAndOnlyAsManyAsCredits) {
  const v1::Server server = Start();
  SessionClient client(channel_);
  client.Listen(server.handle(), 1);
  Peer one = ConnectTo(server.sockets(0));
  Peer two = ConnectTo(server.sockets(0));
  auto first = client.WaitAccepted();
  one.Send("1");
  two.Send("2");
  EXPECT_EQ(first->Receive(1), "1");
  // The other waits in the kernel's backlog for somebody who wants it.
  EXPECT_EQ(Accept(server.handle()).server(), server.handle());
}

TEST_F(SessionTest, AFullSessionLeavesConnectionsToOthersAndGetsOneWhenAChannelHasEnded) {
  const v1::Server server = Start();
  SessionClient client(channel_);
  client.Bind("none")->WaitFailed();
  client.Listen(server.handle(), 2);
  // All channels that there may be, but one.
  for (int i = 2; i < 100'000; ++i) {
    client.Listen(server.handle(), 0);
    if (i % 10'000 == 0) client.SendRaw({});  // no message becomes larger than gRPC allows
  }
  client.Bind("none")->WaitFailed();  // behind all that

  Peer one = ConnectTo(server.sockets(0));
  auto first = client.WaitAccepted();
  Peer two = ConnectTo(server.sockets(0));
  two.Send("2");
  EXPECT_EQ(Read(Accept(server.handle()).handle(), 1).data(), "2");
  Peer three = ConnectTo(server.sockets(0));
  three.Send("3");
  Settle();
  first->Detach();
  EXPECT_EQ(client.WaitAccepted()->Receive(1), "3");
}

TEST_F(SessionTest, AnOfferThatNobodyClaimsGoesBackToTheServersQueueWithItsBytes) {
  const v1::Server server = Start();
  SessionClient client(channel_);
  client.Listen(server.handle(), 1);
  Settle();
  client.Hold(true);
  Peer peer = ConnectTo(server.sockets(0));
  peer.Send("unclaimed");
  Settle();
  Advance(absl::Seconds(11));
  const v1::Connection accepted = Accept(server.handle());
  EXPECT_EQ(Read(accepted.handle(), 100).data(), "unclaimed");
}

TEST_F(SessionTest, AnOfferThatIsUnclaimedWhenTheSessionEndsGoesBack) {
  const v1::Server server = Start();
  auto client = std::make_unique<SessionClient>(channel_);
  client->Listen(server.handle(), 1);
  Settle();
  client->Hold(true);
  Peer peer = ConnectTo(server.sockets(0));
  peer.Send("again");
  Settle();
  client.reset();
  const v1::Connection accepted = Accept(server.handle());
  EXPECT_EQ(Read(accepted.handle(), 100).data(), "again");
}

TEST_F(SessionTest, ListeningToAClosedServerFails) {
  const v1::Server server = Start();
  SessionClient client(channel_);
  client.Listen(server.handle(), 1);
  Settle();
  v1::CloseServerRequest close;
  close.set_handle(server.handle());
  v1::CloseServerResponse closed;
  ASSERT_TRUE(Do(&v1::SocketBroker::Stub::CloseServer, close, &closed).ok());
  EXPECT_EQ(DetailOf(client.WaitListenFailed()).reason(), v1::SERVER_CLOSED);
}

// --- the broker stops

TEST_F(SessionTest, ADrainWaitsForWhatIsHeldBackUntilMoreHasArrived) {
  SessionClient client(channel_, "", /*window=*/16 << 20);
  auto [small, small_peer] = Open(&client);
  auto [bulk, bulk_peer] = Open(&client);
  // The small one keeps the way short for the bulk: time stands still.
  small_peer.Send("x");
  EXPECT_EQ(small->Receive(1), "x");
  client.Hold(true);  // it answers no pings
  bulk_peer.Send(Pattern(session::Flight::kLeast + 2 * session::kTurn));
  EVENTUALLY(Get(bulk->handle()).offsets().received() >= session::Flight::kLeast);
  broker().Drain(absl::ZeroDuration());
  Settle();
  client.Hold(false);
  EXPECT_EQ(small->WaitClosed().reason(), v1::BROKER_STOPPED);
  EXPECT_EQ(server::DetailOf(client.WaitEnd()).reason(), v1::DRAINING);
}

// --- budgets

class SmallBudgetTest : public SessionTest {
 protected:
  static constexpr std::size_t kBudget = 64 * 1024;
  BrokerOptions Options() override {
    BrokerOptions options = BrokerFixture::Options();
    options.limits.buffer_memory = kBudget;
    options.limits.buffer_memory_per_principal = kBudget;
    return options;
  }
};

TEST_F(SmallBudgetTest, AConnectionThatHasNoRoomOfItsOwnIsRefusedAndTheOthersGoOn) {
  SessionClient client(channel_);
  std::vector<std::pair<std::shared_ptr<TestChannel>, Peer>> open;
  // The first takes what there is for its window, the others are left with their reserve.
  for (int i = 0; i < 20; ++i) {
    auto channel = client.Open(listener_.port());
    Peer peer = listener_.Accept();
    EVENTUALLY(channel->ended() || !channel->handle().empty());
    if (channel->ended()) {
      const google::rpc::Status status = channel->WaitFailed();
      EXPECT_EQ(status.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
      EXPECT_EQ(DetailOf(status).reason(), v1::BUDGET);
      EXPECT_EQ(DetailOf(status).limit_name(), "buffer_memory");
      break;
    }
    open.emplace_back(std::move(channel), std::move(peer));
    ASSERT_LT(i, 19) << "nothing was refused";
  }
  ASSERT_FALSE(open.empty());
  open[0].first->Write("x");
  EXPECT_EQ(open[0].second.Receive(1), "x");
}

TEST_F(SmallBudgetTest, TwoChannelsThatProxyToEachOtherMakeProgress) {
  SessionClient client(channel_);
  auto [left, left_peer] = Open(&client);
  auto [right, right_peer] = Open(&client);
  const std::string data = Pattern(2 << 20);
  std::thread forth([&socket = left_peer, &data] {
    socket.Send(data);
    socket.ShutdownWrite();
  });
  std::thread back([&socket = right_peer, &data] {
    socket.Send(data);
    socket.ShutdownWrite();
  });
  std::thread left_receiver(
      [&socket = left_peer, &data] { EXPECT_TRUE(socket.Receive(data.size()) == data); });
  std::thread right_receiver(
      [&socket = right_peer, &data] { EXPECT_TRUE(socket.Receive(data.size()) == data); });
  std::size_t forwarded = 0;
  while (forwarded < 2 * data.size()) {
    const std::string from_left = left->TakeSome();
    right->Write(from_left);
    const std::string from_right = right->TakeSome();
    left->Write(from_right);
    forwarded += from_left.size() + from_right.size();
  }
  forth.join();
  back.join();
  left_receiver.join();
  right_receiver.join();
}

TEST_F(SmallBudgetTest, WhatIsHeldForAClientThatDoesNotReadStaysWithinTheBudget) {
  SessionClient client(channel_, "", /*window=*/16 << 20);
  client.Hold(false);
  auto [channel, peer] = Open(&client);
  // It takes nothing: the broker stops reading, and TCP holds the peer back.
  std::thread sender([&socket = peer] {
    const std::string data(1 << 20, 'x');
    timeval patience{.tv_sec = 0, .tv_usec = 200'000};
    setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    while (send(socket.fd(), data.data(), data.size(), MSG_NOSIGNAL) > 0) {
    }
  });
  EVENTUALLY(channel->Waiting().size() >= kBudget / 2);
  sender.join();
  const v1::Offsets offsets = Get(channel->handle()).offsets();
  EXPECT_LE(offsets.received(), kBudget);
  channel->Abort();
}

class ShortBudgetTest : public SmallBudgetTest {
 protected:
  BrokerOptions Options() override {
    BrokerOptions options = SmallBudgetTest::Options();
    options.limits.buffer_memory = 1 << 20;
    options.limits.buffer_memory_per_principal = 1 << 20;
    return options;
  }
};

TEST_F(ShortBudgetTest, WhatAGrownWindowDoesNotNeedIsRevokedForThoseWhoAreShort) {
  SessionClient client(channel_);
  auto [grown, peer] = Open(&client);
  const std::string data = Pattern(8 << 20);
  std::thread receiver([&socket = peer, &data] { (void)socket.Receive(data.size()); });
  grown->Write(data);
  receiver.join();
  // Time stands still: all of it went through within a round trip, and the window took what there
  // was.
  EVENTUALLY((Advance(session::kAckDelay), grown->edge() > data.size() + (512 << 10)));
  // The next one gets less than a window begins with. Meanwhile the first has needed nothing.
  Advance(absl::Seconds(5));
  const auto bind = [&] {
    auto channel = client.Bind(Connect().handle);
    channel->WaitBound();
    return channel;
  };
  EXPECT_LT(bind()->edge(), 64u << 10);
  EVENTUALLY(grown->edge() == data.size() + (64 << 10));
  EXPECT_EQ(bind()->edge(), 64u << 10);
  // And the first goes on, and may grow again.
  grown->Write(data);
  EXPECT_TRUE(peer.Receive(data.size()) == data);
}

// --- bad input

TEST_F(SessionTest, TheFirstFrameMustBeHello) {
  SessionClient client(channel_);
  client.SendRaw({});
  v1::ClientFrames frames;
  frames.add_frames()->mutable_hello()->set_holder("0123456789abcdef");
  client.SendRaw(frames);
  const grpc::Status status = client.WaitEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(server::DetailOf(status).reason(), v1::SESSION_FAULT);
  EXPECT_THAT(status.error_message(), HasSubstr("Hello"));
}

TEST_F(SessionTest, TextThatIsNotUtf8EndsTheStreamAndNoConnection) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  v1::ClientFrames frames;
  v1::Open* open = frames.add_frames()->mutable_open();
  open->set_channel(3);
  open->mutable_tcp()->set_host("\xff.test");
  open->mutable_tcp()->set_port(80);
  client.SendRaw(frames);
  const grpc::Status status = client.WaitEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(server::DetailOf(status).reason(), v1::SESSION_FAULT);
  EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
  client.Cut();
  client.Connect();
  connection->WaitBound();
  connection->Write("still here");
  EXPECT_EQ(peer.Receive(10), "still here");
}

TEST_F(SessionTest, BytesBeyondTheEdgeEndTheirChannelAndNoOther) {
  SessionClient client(channel_);
  auto [connection, peer] = Open(&client);
  auto [other, other_peer] = Open(&client);
  v1::ClientFrames frames;
  v1::Data* data = frames.add_frames()->mutable_data();
  data->set_channel(1);
  data->set_offset(0);
  data->set_data(std::string(64 * 1024 + 1, 'x'));
  client.SendRaw(frames);
  EXPECT_EQ(DetailOf(connection->WaitFailed()).reason(), v1::SESSION_FAULT);
  other->Write("fine");
  EXPECT_EQ(other_peer.Receive(4), "fine");
}

TEST_F(SessionTest, AnotherPrincipalsConnectionIsNotFound) {
  auto [handle, peer] = Connect();
  SessionClient stranger(loopback_channel_);
  auto bound = stranger.Bind(handle);
  EXPECT_EQ(bound->WaitFailed().code(), static_cast<int>(grpc::StatusCode::NOT_FOUND));
}

TEST_F(SessionTest, ManySessionsLeaveNothingBehind) {
  for (int i = 0; i < 20; ++i) {
    SessionClient client(channel_);
    auto [connection, peer] = Open(&client);
    connection->Write("x");
    EXPECT_EQ(peer.Receive(1), "x");
    connection->Close();
    connection->WaitClosed();
  }
  EXPECT_EQ(broker().open_connections(), 0u);
}

}  // namespace
}  // namespace sockbroker::server
