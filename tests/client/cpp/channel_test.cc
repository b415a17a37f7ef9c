// Connections over a link that breaks: every byte once, and every end told for what it is.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/error.h"
#include "streams/sleep.h"
#include "streams/streams.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "tests/client/cpp/memory_broker.h"

namespace sockbroker::client {
namespace {

using streams::CreateTask;
using streams::Idle;
using streams::IsOk;
using streams::IsOkAndHolds;
using streams::StatusIs;
using streams::Task;
using ::testing::Ge;
using ::testing::Le;

std::string Pattern(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 % 251);
  return bytes;
}

Task<void> WriteAll(StreamWriter writer, std::string bytes, std::size_t piece) {
  for (std::size_t i = 0; i < bytes.size(); i += piece) {
    EXPECT_THAT(writer.Write(bytes.substr(i, piece)), IsOk());
    EXPECT_THAT(co_await writer.Drain(), IsOk());
  }
}

CO_TEST(Channel, ReadsAndWritesAsTheEnginesStreams) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto connection = co_await broker.OpenConnection("peer", 80);
  CO_ASSERT_OK(connection);
  auto [reader, writer] = *std::move(connection);
  CO_ASSERT_OK(writer.Write("GET /\r\n"));
  co_await Idle();
  EXPECT_EQ(memory.peer(0).received(), "GET /\r\n");
  memory.peer(0).Send("200 OK\r\nbody");
  memory.peer(0).SendEof();
  EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("200 OK\r\n"));
  EXPECT_THAT(co_await reader.ReadAll(), IsOkAndHolds("body"));
  EXPECT_TRUE(reader.AtEof());
  EXPECT_EQ(writer.peername().ToString(), "192.0.2.1:80");
  EXPECT_EQ(writer.handle(), "handle0.1");
  writer.Close();
  CO_ASSERT_OK(co_await writer.WaitClosed());
  EXPECT_EQ(writer.read_offset(), 12u);
  EXPECT_EQ(writer.flushed_offset(), 7u);
}

CO_TEST(Channel, ARefusalSaysWhatTheBrokerMet) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto connection = co_await broker.OpenConnection("peer", 9);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(GetReason(connection.status()), v1::CONNECTION_REFUSED);
  EXPECT_EQ(streams::GetErrno(connection.status()), ECONNREFUSED);
}

CO_TEST(Channel, EveryByteComesOnceHoweverOftenTheLinkBreaks) {
  MemoryBroker memory;
  BrokerOptions options;
  options.window = 4096;
  Broker broker = *co_await memory.Connect(options);
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  const std::string out = Pattern(300'000);
  const std::string in = Pattern(200'000);
  auto writing = CreateTask(WriteAll(writer, out, 7'001));
  memory.peer(0).Send(in);
  memory.peer(0).SendEof();
  std::string got;
  int cuts = 0;
  while (got.size() < in.size()) {
    auto data = co_await reader.Read(3'000);
    CO_ASSERT_OK(data);
    got += std::string(*data);
    if (got.size() % 7 == 0 && cuts < 50) {
      memory.Cut();
      cuts++;
    }
  }
  EXPECT_EQ(got, in);
  EXPECT_THAT(co_await reader.Read(1), IsOkAndHolds(""));
  co_await writing.Join();
  CO_ASSERT_OK(writer.WriteEof());
  memory.Cut();
  CO_ASSERT_OK(co_await writer.Flush());
  (void)co_await streams::Sleep(absl::Seconds(10));
  EXPECT_EQ(memory.peer(0).received(), out);
  EXPECT_TRUE(memory.peer(0).saw_eof());
  EXPECT_THAT(cuts, Ge(5));
  EXPECT_EQ(memory.peers(), 1u);
}

CO_TEST(Channel, AnOpenWhoseAnswerWasLostDialsOnce) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  memory.HoldOpens(true);
  auto opening = CreateTask(broker.OpenConnection("peer", 1));
  co_await Idle();
  memory.HoldOpens(false);
  memory.Cut();
  auto connection = co_await opening.Join();
  CO_ASSERT_OK(connection);
  EXPECT_EQ(memory.peers(), 1u);
}

CO_TEST(Channel, AnUnreadChannelIsHeldBackByItsWindow) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  ConnectionOptions options;
  options.limit = 1000;
  v1::OpenConnectionRequest request;
  request.set_port(1);
  auto [reader, writer] = *co_await broker.Open(request, options);
  memory.peer(0).Send(std::string(1'000'000, 'x'));
  co_await Idle();
  EXPECT_EQ(memory.peer(0).unread(), 1'000'000u - 64 * 1024);
  EXPECT_THAT(co_await reader.ReadExactly(500'000), IsOk());
  EXPECT_EQ(writer.read_offset(), 500'000u);
}

CO_TEST(Channel, DrainWaitsForThePeerAndNoLonger) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Hold(true);
  CO_ASSERT_OK(writer.Write(std::string(60'000, 'x')));
  co_await Idle();
  CO_ASSERT_OK(writer.Write(std::string(60'000, 'x')));
  CO_ASSERT_OK(co_await writer.Drain());  // what the window takes does not count
  CO_ASSERT_OK(writer.Write(std::string(80'000, 'x')));
  auto drain = CreateTask(writer.Drain());
  co_await Idle();
  EXPECT_FALSE(drain.done());
  EXPECT_THAT(writer.GetWriteBufferSize(), Ge(130'000u));
  memory.peer(0).Hold(false);
  CO_ASSERT_OK(co_await drain.Join());
  CO_ASSERT_OK(co_await writer.Flush());
  EXPECT_EQ(memory.peer(0).received().size(), 200'000u);
}

CO_TEST(Channel, HalvesEndOneByOne) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  CO_ASSERT_OK(writer.Write("question"));
  CO_ASSERT_OK(writer.WriteEof());
  co_await Idle();
  EXPECT_EQ(memory.peer(0).received(), "question");
  EXPECT_TRUE(memory.peer(0).saw_eof());
  memory.peer(0).Send("answer");
  EXPECT_THAT(co_await reader.ReadExactly(6), IsOkAndHolds("answer"));
  memory.peer(0).SendEof();
  EXPECT_THAT(co_await reader.Read(1), IsOkAndHolds(""));
  EXPECT_FALSE(memory.peer(0).closed());
  EXPECT_THAT(writer.Write("more"), StatusIs(absl::StatusCode::kFailedPrecondition));

  auto [reader2, writer2] = *co_await broker.OpenConnection("peer", 2);
  memory.peer(1).SendEof();
  EXPECT_THAT(co_await reader2.Read(1), IsOkAndHolds(""));
  CO_ASSERT_OK(writer2.Write("still"));
  co_await Idle();
  EXPECT_EQ(memory.peer(1).received(), "still");
}

CO_TEST(Channel, WhatCameBeforeAResetIsReadFirst) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Send("last words");
  google::rpc::Status reset;
  reset.set_code(9);
  v1::ErrorDetail detail;
  detail.set_reason(v1::CONNECTION_RESET);
  detail.set_os_errno(ECONNRESET);
  reset.add_details()->PackFrom(detail);
  memory.peer(0).End(reset, v1::CONNECTION_RESET);
  // Known before it is read.
  auto closed = co_await writer.WaitClosed();
  EXPECT_EQ(GetReason(closed), v1::CONNECTION_RESET);
  EXPECT_EQ(streams::GetErrno(closed), ECONNRESET);
  EXPECT_EQ(memory.channels(), 1u) << "the broker must keep what was not read";
  EXPECT_THAT(co_await reader.Read(4), IsOkAndHolds("last"));
  EXPECT_THAT(co_await reader.Read(100), IsOkAndHolds(" words"));
  EXPECT_EQ(GetReason((co_await reader.Read(1)).status()), v1::CONNECTION_RESET);
  co_await Idle();
  EXPECT_EQ(memory.channels(), 0u);
}

CO_TEST(Channel, AReaderThatIsDroppedUnreadKeepsNothing) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  {
    auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
    memory.peer(0).Send(std::string(200'000, 'x'));
    co_await Idle();
  }
  co_await Idle();
  EXPECT_TRUE(memory.peer(0).closed());
  EXPECT_EQ(memory.channels(), 0u);
  {
    auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
    memory.peer(1).Send("unread");
    memory.peer(1).End();
    co_await Idle();
  }
  co_await Idle();
  EXPECT_EQ(memory.channels(), 0u);
}

CO_TEST(Channel, DrainFailsOnceThePeerTakesNoMore) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Hold(true);
  CO_ASSERT_OK(writer.Write(std::string(300'000, 'x')));
  auto drain = CreateTask(writer.Drain());
  co_await Idle();
  EXPECT_FALSE(drain.done());
  memory.peer(0).TakeNoMore();
  EXPECT_THAT(co_await drain.Join(), StatusIs(absl::StatusCode::kFailedPrecondition));
  memory.peer(0).Send("but it talks");
  EXPECT_THAT(co_await reader.Read(100), IsOkAndHolds("but it talks"));
}

CO_TEST(Channel, ALostBrokerIsToldWithTheLastOffsets) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  CO_ASSERT_OK(writer.Write("12345"));
  CO_ASSERT_OK(co_await writer.Flush());
  memory.peer(0).Hold(true);
  CO_ASSERT_OK(writer.Write("678"));
  memory.peer(0).Send("abc");
  EXPECT_THAT(co_await reader.Read(2), IsOkAndHolds("ab"));
  memory.Restart();
  EXPECT_THAT(co_await reader.Read(1), IsOkAndHolds("c"));
  auto lost = co_await reader.Read(1);
  EXPECT_THAT(lost, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(GetStreamEnd(lost.status()), StreamEnd::kLost);
  EXPECT_EQ(GetReason(lost.status()), v1::LOST);
  auto offsets = GetOffsets(lost.status());
  CO_ASSERT_TRUE(offsets.has_value());
  EXPECT_EQ(offsets->flushed(), 5u);
  EXPECT_EQ(offsets->write_offset(), 8u);
  EXPECT_EQ(offsets->read_kept(), 3u);
  EXPECT_EQ(GetStreamEnd(co_await writer.Drain()), StreamEnd::kLost);
  // The link itself is up, to the new broker.
  EXPECT_THAT(co_await broker.OpenConnection("peer", 1), IsOk());
}

CO_TEST(Channel, WhoIsFencedHearsItAndDoesNotComeBack) {
  MemoryBroker memory;
  Broker mine = *co_await memory.Connect();
  Broker theirs = *co_await memory.Connect();
  auto [reader, writer] = *co_await mine.OpenConnection("peer", 1);
  EXPECT_EQ(GetReason((co_await theirs.Attach(writer.handle())).status()), v1::BOUND);
  AttachOptions options;
  options.steal = true;
  auto stolen = co_await theirs.Attach(writer.handle(), options);
  CO_ASSERT_OK(stolen);
  EXPECT_THAT(stolen->writer.epoch(), Ge(2u));
  auto fenced = co_await reader.Read(1);
  EXPECT_EQ(GetStreamEnd(fenced.status()), StreamEnd::kFenced);
  CO_ASSERT_OK(writer.Write("poison"));
  CO_ASSERT_OK(stolen->writer.Write("good"));
  (void)co_await streams::Sleep(absl::Minutes(1));
  EXPECT_EQ(memory.peer(0).received(), "good");
}

CO_TEST(Channel, WhatTheBrokerHasTakenItsClientNeedNotSeeThrough) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Hold(true);
  CO_ASSERT_OK(writer.Write(std::string(200'000, 'x')));
  auto taken = CreateTask(writer.WaitTaken());
  auto progress = CreateTask(writer.WaitProgress());
  CO_ASSERT_OK(co_await progress.Join());
  EXPECT_THAT(writer.taken_offset(), Ge(1u));
  (void)co_await streams::Sleep(absl::Seconds(1));
  EXPECT_FALSE(taken.done()) << "the window holds some of it back";
  memory.peer(0).Hold(false);
  CO_ASSERT_OK(co_await taken.Join());
  writer.Close();
  CO_ASSERT_OK(co_await writer.WaitTaken());
  CO_ASSERT_OK(co_await writer.WaitClosed());
  EXPECT_EQ(writer.close_reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(writer.taken_offset(), 200'000u);
  EXPECT_THAT(co_await writer.WaitProgress(), StatusIs(absl::StatusCode::kUnavailable));
}

CO_TEST(Channel, WhatIsNotTakenWhenItEndsNeverWillBe) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Hold(true);
  CO_ASSERT_OK(writer.Write(std::string(200'000, 'x')));
  auto taken = CreateTask(writer.WaitTaken());
  co_await Idle();
  memory.peer(0).End({}, v1::ENDED_BY_PEER);
  EXPECT_THAT(co_await taken.Join(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(writer.close_reason(), v1::ENDED_BY_PEER);
}

CO_TEST(Channel, AttachingToOneThatHasEndedWellSaysThatItIsClosed) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  memory.peer(0).Send("read before");
  EXPECT_THAT(co_await reader.ReadExactly(11), IsOkAndHolds("read before"));
  writer.Close();
  CO_ASSERT_OK(co_await writer.WaitClosed());
  auto again = co_await broker.Attach(writer.handle());
  EXPECT_THAT(again, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(GetReason(again.status()), v1::CLOSED);
  EXPECT_EQ(GetErrorDetail(again.status())->close_reason(), v1::CLOSED_BY_CLIENT);
  EXPECT_EQ(GetOffsets(again.status())->received(), 11u);
}

CO_TEST(Channel, ADetachedConnectionGoesOnWhereItWasRead) {
  MemoryBroker memory;
  std::string handle;
  uint64_t read_offset = 0;
  {
    Broker broker = *co_await memory.Connect();
    auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
    memory.peer(0).Send("line one\nline two\n");
    EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("line one\n"));
    CO_ASSERT_OK(writer.Write("from the first; "));
    auto detached = co_await writer.Detach();
    CO_ASSERT_OK(detached);
    EXPECT_EQ(detached->write_offset, 16u);
    EXPECT_EQ(detached->read_offset, 9u);
    handle = detached->handle;
    read_offset = detached->read_offset;
    // What is left in the broker is nobody's here.
    EXPECT_EQ(GetStreamEnd((co_await reader.Read(1)).status()), StreamEnd::kDetached);
    EXPECT_EQ(GetStreamEnd(co_await writer.WaitClosed()), StreamEnd::kDetached);
  }
  EXPECT_FALSE(memory.peer(0).closed());
  Broker broker = *co_await memory.Connect();
  AttachOptions options;
  options.read_offset = read_offset;
  auto again = co_await broker.Attach(handle, options);
  CO_ASSERT_OK(again);
  EXPECT_EQ(again->writer.write_offset(), 16u);
  EXPECT_EQ(again->writer.read_offset(), 9u);
  EXPECT_THAT(co_await again->reader.ReadLine(), IsOkAndHolds("line two\n"));
  CO_ASSERT_OK(again->writer.Write("from the second"));
  CO_ASSERT_OK(co_await again->writer.Flush());
  EXPECT_EQ(memory.peer(0).received(), "from the first; from the second");
}

CO_TEST(Channel, WhatIsNotAcknowledgedIsThereForTheNextProcess) {
  MemoryBroker memory;
  std::string handle;
  {
    Broker broker = *co_await memory.Connect();
    ConnectionOptions options;
    options.acknowledge_explicitly = true;
    v1::OpenConnectionRequest request;
    request.set_port(1);
    auto [reader, writer] = *co_await broker.Open(request, options);
    handle = writer.handle();
    memory.peer(0).Send("stored|not stored");
    EXPECT_THAT(co_await reader.ReadExactly(17), IsOk());
    EXPECT_EQ(writer.read_offset(), 17u);
    writer.Acknowledge(7);
    co_await Idle();
    broker.Close();  // as a process that dies
    EXPECT_EQ(GetStreamEnd((co_await reader.Read(1)).status()), StreamEnd::kGivenUp);
  }
  Broker broker = *co_await memory.Connect();
  AttachOptions options;
  options.steal = true;
  options.read_offset = 7;
  auto again = co_await broker.Attach(handle, options);
  CO_ASSERT_OK(again);
  EXPECT_THAT(co_await again->reader.ReadExactly(10), IsOkAndHolds("not stored"));
}

CO_TEST(Channel, StartTlsIsTheBrokersAndAtTheExactByte) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 25);
  memory.peer(0).Send("220 ready\r\n");
  EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("220 ready\r\n"));
  CO_ASSERT_OK(writer.Write("STARTTLS\r\n"));
  memory.peer(0).Send("HANDSHAKE");
  co_await Idle();
  EXPECT_THAT(co_await writer.StartTls({}), StatusIs(absl::StatusCode::kFailedPrecondition))
      << "unread plaintext";
  StartTlsOptions how;
  how.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
  auto upgrade = CreateTask(writer.StartTls({}, how));
  co_await Idle();
  EXPECT_FALSE(upgrade.done());
  EXPECT_EQ(memory.peer(0).handshake(), "HANDSHAKE");
  CO_ASSERT_OK(writer.Write("secret"));
  co_await Idle();
  EXPECT_EQ(memory.peer(0).received(), "STARTTLS\r\n");
  memory.Cut();  // and the upgrade is not begun twice
  (void)co_await streams::Sleep(absl::Seconds(1));
  memory.peer(0).FinishTls();
  CO_ASSERT_OK(co_await upgrade.Join());
  CO_ASSERT_TRUE(writer.tls_info() != nullptr);
  EXPECT_EQ(writer.tls_info()->version, "TLSv1.3");
  EXPECT_FALSE(writer.CanWriteEof());
  CO_ASSERT_OK(co_await writer.Flush());
  EXPECT_EQ(memory.peer(0).received(), "STARTTLS\r\nsecret");
  memory.peer(0).Send("protected");
  EXPECT_THAT(co_await reader.Read(100), IsOkAndHolds("protected"));
}

CO_TEST(Channel, AbortResetsAtOnceEvenBehindABrokenLink) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  writer.Abort();
  CO_ASSERT_OK(co_await writer.WaitClosed());
  co_await Idle();
  EXPECT_TRUE(memory.peer(0).aborted());

  auto [reader2, writer2] = *co_await broker.OpenConnection("peer", 1);
  memory.Cut();
  writer2.Abort(absl::AbortedError("enough"));
  EXPECT_THAT(co_await reader2.Read(1), StatusIs(absl::StatusCode::kAborted));
  (void)co_await streams::Sleep(absl::Seconds(1));
  EXPECT_TRUE(memory.peer(1).aborted());
  EXPECT_EQ(memory.channels(), 0u);
}

CO_TEST(Channel, AnOpenThatIsCancelledLeavesNothingBehind) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  memory.HoldOpens(true);
  auto opened = co_await streams::WaitFor(broker.OpenConnection("peer", 1), absl::Seconds(1));
  EXPECT_THAT(opened, StatusIs(absl::StatusCode::kDeadlineExceeded));
  co_await Idle();
  memory.HoldOpens(false);
  co_await Idle();
  EXPECT_EQ(memory.channels(), 0u);
  EXPECT_TRUE(memory.peer(0).aborted());
  // Not here, either: nothing keeps the link.
  broker = Broker();
  co_await Idle();
  EXPECT_EQ(memory.sessions(), 0u);
}

CO_TEST(Channel, ProgressIsTold) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  std::vector<uint64_t> flushed;
  std::vector<uint64_t> epochs;
  ConnectionOptions options;
  options.on_progress = [&](const Progress& progress) { flushed.push_back(progress.flushed); };
  options.on_rebound = [&](uint64_t epoch) { epochs.push_back(epoch); };
  v1::OpenConnectionRequest request;
  request.set_port(1);
  auto [reader, writer] = *co_await broker.Open(request, options);
  CO_ASSERT_OK(writer.Write(std::string(200'000, 'x')));
  CO_ASSERT_OK(co_await writer.Flush());
  EXPECT_THAT(flushed.size(), Ge(2u));
  EXPECT_EQ(flushed.back(), 200'000u);
  memory.Cut();
  (void)co_await streams::Sleep(absl::Seconds(1));
  EXPECT_THAT(epochs, ::testing::ElementsAre(2));
}

CO_TEST(Channel, ManyIdleOnesCostOneMessage) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  std::vector<Connection> connections;
  connections.reserve(2000);
  for (int i = 0; i < 2000; ++i) {
    connections.push_back(*co_await broker.OpenConnection("peer", 1));
  }
  const int before = memory.messages();
  for (Connection& connection : connections) CO_ASSERT_OK(connection.writer.Write("x"));
  for (Connection& connection : connections) CO_ASSERT_OK(co_await connection.writer.Flush());
  EXPECT_THAT(memory.messages() - before, Le(3));
}

// --- TLS of the engine's own, in this process, over a channel

CO_TEST(Channel, TheEnginesWriterStillWorksOverIt) {
  MemoryBroker memory;
  Broker broker = *co_await memory.Connect();
  auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
  streams::StreamWriter plain = writer;
  CO_ASSERT_OK(plain.Write("through the base"));
  CO_ASSERT_OK(co_await plain.Drain());
  co_await Idle();
  EXPECT_EQ(memory.peer(0).received(), "through the base");
}

}  // namespace
}  // namespace sockbroker::client
