// SocketStream over real sockets, with peers that are played by hand: they reset, stall,
// half-close, send one byte at a time, or never read.
#include "streams/socket_stream.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/connection.h"
#include "streams/create_task.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/recording_protocol.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;
using ::testing::Optional;
using ::testing::SizeIs;

constexpr std::size_t kMaxRead = 256 * 1024;

// Bytes that differ from place to place, so that what is lost, doubled or moved shows.
std::string Pattern(std::size_t size) {
  std::string data(size, '\0');
  uint32_t state = 1;
  for (char& byte : data) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return data;
}

// Both kinds of socket behave alike, but for resets, which only TCP has.
class StreamSockets : public ::testing::TestWithParam<bool> {
 protected:
  static std::pair<Descriptor, Descriptor> Pair() {
    return GetParam() ? TcpSocketPair() : UnixSocketPair();
  }
};
INSTANTIATE_TEST_SUITE_P(Sockets, StreamSockets, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tcp" : "Unix"; });

// Sends all of `data` by hand, as fast as the kernel takes it.
Task<void> SendAll(int fd, std::string data) {
  std::size_t sent = 0;
  while (sent < data.size() && !(co_await GetCancelToken()).cancelled()) {
    const ssize_t n = send(fd, data.data() + sent, data.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<std::size_t>(n);
    co_await Yield();
  }
}

// Receives by hand until EOF.
Task<std::string> ReceiveAll(int fd) {
  std::string all;
  while (!(co_await GetCancelToken()).cancelled()) {
    const std::optional<std::string> data = ReceiveNow(fd, 1 << 20);
    if (data.has_value() && data->empty()) break;
    if (data.has_value()) all += *data;
    co_await Yield();
  }
  co_return all;
}

// --- reading

Task<void> SendOneByteAtATime(int fd, std::string data) {
  for (const char byte : data) {
    EXPECT_TRUE(SendNow(fd, absl::string_view(&byte, 1)));
    co_await Yield();
  }
}

Task<void> ReadsLinesOfASlowPeer(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  TaskHandle<void> peer = CreateTask(SendOneByteAtATime(theirs.get(), "one\r\ntwo\r\n"));
  EXPECT_THAT(co_await connection.reader.ReadUntil("\r\n"), IsOkAndHolds("one\r\n"));
  EXPECT_THAT(co_await connection.reader.ReadUntil("\r\n"), IsOkAndHolds("two\r\n"));
  co_await peer.Join();
}

// Rows: 153
TEST_P(StreamSockets, APeerThatSendsOneByteAtATimeIsReadAsOneThatSendsAllAtOnce) {
  RunInRealTime(ReadsLinesOfASlowPeer(Pair()));
}

Task<void> ReadsWhatCameWithTheEnd(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  // Data, EOF and hang-up are told by one event: none may be forgotten after the short read.
  EXPECT_TRUE(SendNow(theirs.get(), "last words"));
  theirs.Reset();
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_THAT(co_await connection.reader.Read(4), IsOkAndHolds("last"));
  EXPECT_THAT(co_await connection.reader.ReadAll(), IsOkAndHolds(" words"));
  EXPECT_TRUE(connection.reader.AtEof());
}

TEST_P(StreamSockets, DataThatCameTogetherWithTheEndIsReadAndThenTheEnd) {
  RunInRealTime(ReadsWhatCameWithTheEnd(Pair()));
}

Task<void> ReadsMuchFromAPeerThatClosed(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(3 << 20);
  TaskHandle<absl::StatusOr<absl::Cord>> reading = CreateTask(connection.reader.ReadAll());
  co_await SendAll(theirs.get(), data);
  theirs.Reset();
  absl::StatusOr<absl::Cord> all = co_await reading.Join();
  CO_ASSERT_OK(all);
  EXPECT_TRUE(*all == data);
}

// Rows: 138
TEST_P(StreamSockets, ReadAllGivesEveryByteOfALargeTransfer) {
  RunInRealTime(ReadsMuchFromAPeerThatClosed(Pair()));
}

Task<void> StaysBounded(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  StreamOptions options;
  options.limit = 1000;
  Connection connection = ConnectionOver(std::move(ours), options);
  const std::string data = Pattern(16 << 20);
  TaskHandle<void> peer = CreateTask(SendAll(theirs.get(), data));
  co_await Until([&] { return connection.reader.buffered() > 2000; });
  co_await Turns(100);
  // asyncio's bound: twice the limit, and one read more.
  EXPECT_LE(connection.reader.buffered(), 2000 + kMaxRead);
  EXPECT_FALSE(peer.done()) << "the peer must be held back";
  absl::StatusOr<absl::Cord> all = co_await connection.reader.ReadExactly(data.size());
  CO_ASSERT_OK(all);
  EXPECT_TRUE(*all == data);
  co_await peer.Join();
}

// Rows: 7, 8, 123
TEST_P(StreamSockets, AReaderThatDoesNotReadHoldsThePeerBackAndLosesNothing) {
  RunInRealTime(StaysBounded(Pair()));
}

Task<void> GivesBoundedPieces(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  const int big = 4 << 20;
  setsockopt(theirs.get(), SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
  absl::StatusOr<std::shared_ptr<SocketStream>> stream =
      SocketStream::Create(GetRunningLoop(), std::move(ours));
  CO_ASSERT_OK(stream);
  auto protocol = std::make_shared<RecordingProtocol>();
  (*stream)->Start(protocol);
  const std::string data = Pattern(8 << 20);
  co_await SendAll(theirs.get(), data);
  co_await Until([&] { return protocol->received.size() == data.size(); });
  for (const std::string& event : protocol->events) {
    EXPECT_LE(std::stoul(event.substr(std::strlen("data "))), kMaxRead);
  }
  EXPECT_TRUE(protocol->received == data);
  (*stream)->Close();
}

// Rows: 8
TEST_P(StreamSockets, OneReadGivesAtMost262144Bytes) { RunInRealTime(GivesBoundedPieces(Pair())); }

Task<void> AlternatesBetweenBulkAndSmall(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  // Large and small by turns: the chunks that a large read did not fill are used by the next.
  for (const std::size_t size : {100'000, 1, 300'000, 17, 65'536, 20'000, 5}) {
    const std::string data = Pattern(size);
    TaskHandle<void> peer = CreateTask(SendAll(theirs.get(), data));
    absl::StatusOr<absl::Cord> read = co_await connection.reader.ReadExactly(size);
    CO_ASSERT_OK(read);
    EXPECT_TRUE(*read == data) << size;
    co_await peer.Join();
  }
}

TEST_P(StreamSockets, LargeAndSmallMessagesByTurnsKeepTheirBytes) {
  RunInRealTime(AlternatesBetweenBulkAndSmall(Pair()));
}

Task<void> BothDirectionsAtOnce(std::pair<Descriptor, Descriptor> pair) {
  auto [a_socket, b_socket] = std::move(pair);
  Connection a = ConnectionOver(std::move(a_socket));
  Connection b = ConnectionOver(std::move(b_socket));
  const std::string data = Pattern(8 << 20);
  EXPECT_THAT(a.writer.Write(data), IsOk());
  EXPECT_THAT(b.writer.Write(data), IsOk());
  EXPECT_THAT(a.writer.WriteEof(), IsOk());
  EXPECT_THAT(b.writer.WriteEof(), IsOk());
  TaskHandle<absl::StatusOr<absl::Cord>> at_a = CreateTask(a.reader.ReadAll());
  absl::StatusOr<absl::Cord> at_b = co_await b.reader.ReadAll();
  CO_ASSERT_OK(at_b);
  EXPECT_TRUE(*at_b == data);
  at_b = co_await at_a.Join();
  CO_ASSERT_OK(at_b);
  EXPECT_TRUE(*at_b == data);
}

TEST_P(StreamSockets, BothDirectionsRunFullAtOnce) { RunInRealTime(BothDirectionsAtOnce(Pair())); }

// A read that a boundary in the stream cuts short has not emptied the socket, though it was short:
// the kernel makes no new edge for what is left.
CO_TEST_REAL(SocketStreamTest, WhatFollowsAnUrgentByteIsReadWithoutWaitingForMore) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_TRUE(SendNow(theirs.get(), "before"));
  CO_ASSERT_EQ(send(theirs.get(), "!", 1, MSG_OOB), 1);
  EXPECT_TRUE(SendNow(theirs.get(), "after"));
  // The urgent byte itself is out of band, as for every program that does not ask for it.
  EXPECT_THAT(co_await connection.reader.ReadExactly(11), IsOkAndHolds("beforeafter"));
}

// Sends `data` with a descriptor attached.
void SendWithDescriptor(int fd, std::string data, int attached) {
  iovec piece{data.data(), data.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &attached, sizeof(int));
  EXPECT_EQ(sendmsg(fd, &message, MSG_NOSIGNAL), static_cast<ssize_t>(data.size()));
}

CO_TEST_REAL(SocketStreamTest, WhatFollowsAnAttachedDescriptorIsReadAndTheDescriptorIsNotKept) {
  auto [ours, theirs] = UnixSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  const std::size_t descriptors = OpenDescriptors();
  SendWithDescriptor(theirs.get(), "before", STDERR_FILENO);
  EXPECT_TRUE(SendNow(theirs.get(), "after"));
  EXPECT_THAT(co_await connection.reader.ReadExactly(11), IsOkAndHolds("beforeafter"));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

CO_TEST_REAL(SocketStreamTest, WhatFollowsAnAttachedDescriptorIsReadInBulkModeToo) {
  auto [ours, theirs] = UnixSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(100'000);
  EXPECT_TRUE(SendNow(theirs.get(), data));
  absl::StatusOr<absl::Cord> read = co_await connection.reader.ReadExactly(data.size());
  CO_ASSERT_OK(read);
  SendWithDescriptor(theirs.get(), "before", STDERR_FILENO);
  EXPECT_TRUE(SendNow(theirs.get(), "after"));
  EXPECT_THAT(co_await connection.reader.ReadExactly(11), IsOkAndHolds("beforeafter"));
}

// --- resets

// Rows: 131, 187
CO_TEST_REAL(SocketStreamTest, DataBeforeAResetIsReadableFirstAndThenTheErrorEveryTime) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_TRUE(SendNow(theirs.get(), "tail"));
  ResetNow(&theirs);
  EXPECT_THAT(co_await connection.writer.WaitClosed(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await connection.reader.ReadExactly(2), IsOkAndHolds("ta"));
  EXPECT_THAT(co_await connection.reader.Read(100), IsOkAndHolds("il"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(co_await connection.reader.Read(100), HasErrno(ECONNRESET));
    EXPECT_THAT(co_await connection.writer.WaitClosed(), HasErrno(ECONNRESET));
  }
  EXPECT_TRUE(connection.writer.IsClosing());
}

// Rows: 131
CO_TEST_REAL(SocketStreamTest, AWriteThatMeetsTheResetFirstLosesNothingThatWasReceived) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  co_await Turns();
  EXPECT_TRUE(SendNow(theirs.get(), "tail"));
  ResetNow(&theirs);
  // The loop has not looked yet: it is the send that is told of the reset.
  EXPECT_THAT(connection.writer.Write("too late"), IsOk());
  EXPECT_THAT(co_await connection.reader.Read(100), IsOkAndHolds("tail"));
  EXPECT_THAT(co_await connection.reader.Read(100), HasErrno(ECONNRESET));
}

CO_TEST_REAL(SocketStreamTest, AProtocolIsNotCalledFromInsideWrite) {
  auto [ours, theirs] = TcpSocketPair();
  absl::StatusOr<std::shared_ptr<SocketStream>> stream =
      SocketStream::Create(GetRunningLoop(), std::move(ours));
  CO_ASSERT_OK(stream);
  auto protocol = std::make_shared<RecordingProtocol>();
  (*stream)->Start(protocol);
  co_await Turns();
  EXPECT_TRUE(SendNow(theirs.get(), "tail"));
  ResetNow(&theirs);
  (*stream)->Write(absl::Cord("too late"));
  EXPECT_THAT(protocol->events, SizeIs(0));
  co_await Until([&] { return protocol->lost.has_value(); });
  EXPECT_THAT(protocol->events, ElementsAre("data 4", "lost UNAVAILABLE"));
}

// Rows: 199
CO_TEST_REAL(SocketStreamTest, AResetEndsEveryDrainThatWaits) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_THAT(connection.writer.Write(std::string(16 << 20, 'x')), IsOk());
  TaskHandle<absl::Status> a = CreateTask(connection.writer.Drain());
  TaskHandle<absl::Status> b = CreateTask(connection.writer.Drain());
  co_await Turns();
  EXPECT_FALSE(a.done());
  ResetNow(&theirs);
  EXPECT_THAT(co_await a.Join(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await b.Join(), HasErrno(ECONNRESET));
}

// Rows: 178
CO_TEST_REAL(SocketStreamTest, AfterThePeerHasGoneTheFirstWriteSucceedsAndALaterOneFails) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  theirs.Reset();
  EXPECT_THAT(co_await connection.reader.Read(1), IsOkAndHolds(""));
  EXPECT_THAT(connection.writer.Write("x"), IsOk());
  EXPECT_THAT(co_await connection.writer.Drain(), IsOk());
  EXPECT_FALSE(connection.writer.IsClosing());
  co_await Until([&] {
    connection.writer.Write("x").IgnoreError();
    return connection.writer.IsClosing();
  });
  EXPECT_THAT(co_await connection.writer.WaitClosed(), HasErrno(EPIPE));
}

// --- half-close

Task<void> HalfCloses(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(4 << 20);
  EXPECT_THAT(connection.writer.Write(data), IsOk());
  EXPECT_GT(connection.writer.GetWriteBufferSize(), 0u);
  EXPECT_THAT(connection.writer.WriteEof(), IsOk());
  EXPECT_TRUE(co_await ReceiveAll(theirs.get()) == data);
  EXPECT_TRUE(SendNow(theirs.get(), "answer"));
  EXPECT_THAT(co_await connection.reader.ReadExactly(6), IsOkAndHolds("answer"));
}

// Rows: 179
TEST_P(StreamSockets, WriteEofSendsTheEndBehindWhatIsBufferedAndReadingGoesOn) {
  RunInRealTime(HalfCloses(Pair()));
}

Task<void> PeerHalfCloses(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_TRUE(SendNow(theirs.get(), "question"));
  shutdown(theirs.get(), SHUT_WR);
  EXPECT_THAT(co_await connection.reader.ReadAll(), IsOkAndHolds("question"));
  EXPECT_FALSE(connection.writer.IsClosing());
  EXPECT_THAT(co_await connection.writer.Drain(), IsOk());
  TaskHandle<absl::Status> closed = CreateTask(connection.writer.WaitClosed());
  EXPECT_THAT(connection.writer.Write("answer"), IsOk());
  EXPECT_THAT(connection.writer.WriteEof(), IsOk());
  EXPECT_EQ(co_await ReceiveAll(theirs.get()), "answer");
  co_await Turns();
  EXPECT_FALSE(closed.done());
  connection.writer.Close();
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// Rows: 183, 201
TEST_P(StreamSockets, APeersHalfCloseIsEofAndWritingGoesOnUntilClose) {
  RunInRealTime(PeerHalfCloses(Pair()));
}

// --- a peer that does not read

Task<void> HoldsTheWriterBack(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(16 << 20);
  EXPECT_THAT(connection.writer.Write(data), IsOk());
  TaskHandle<absl::Status> drain = CreateTask(connection.writer.Drain());
  co_await Turns();
  EXPECT_FALSE(drain.done());
  EXPECT_EQ(connection.writer.bytes_flushed() + connection.writer.GetWriteBufferSize(),
            data.size());
  connection.writer.WriteEof().IgnoreError();
  EXPECT_TRUE(co_await ReceiveAll(theirs.get()) == data);
  EXPECT_THAT(co_await drain.Join(), IsOk());
  EXPECT_EQ(connection.writer.bytes_flushed(), data.size());
}

// Rows: 195
TEST_P(StreamSockets, APeerThatStallsHoldsTheWriterBackUntilItReads) {
  RunInRealTime(HoldsTheWriterBack(Pair()));
}

// Rows: 184
CO_TEST_REAL(SocketStreamTest, ClosingToAPeerThatNeverReadsEndsWithAResetAtTheCloseTimeout) {
  auto [ours, theirs] = TcpSocketPair();
  StreamOptions options;
  options.close_timeout = absl::Milliseconds(20);
  Connection connection = ConnectionOver(std::move(ours), options);
  EXPECT_THAT(connection.writer.Write(std::string(16 << 20, 'x')), IsOk());
  connection.writer.Close();
  const absl::Status status = co_await connection.writer.WaitClosed();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(GetTimeoutPhase(status), Optional(std::string("close")));
  int os_errno = 0;
  co_await Until(
      [&] { return !ReceiveNow(theirs.get(), 1 << 20, &os_errno).has_value() && os_errno != 0; });
  EXPECT_EQ(os_errno, ECONNRESET);
}

Task<void> FlushesAtClose(std::pair<Descriptor, Descriptor> pair) {
  auto [ours, theirs] = std::move(pair);
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(8 << 20);
  EXPECT_THAT(connection.writer.Write(data), IsOk());
  connection.writer.Close();
  EXPECT_TRUE(co_await ReceiveAll(theirs.get()) == data);
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
}

// Rows: 184, 188
TEST_P(StreamSockets, CloseFlushesWhatIsBufferedFirst) { RunInRealTime(FlushesAtClose(Pair())); }

// --- the end

// Rows: 189
CO_TEST_REAL(SocketStreamTest, ClosingWithUnreadDataResetsThePeer) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  connection.writer.Close();
  EXPECT_TRUE(SendNow(theirs.get(), "unread"));
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
  int os_errno = 0;
  co_await Until([&] { return ReceiveNow(theirs.get(), 1, &os_errno) == "" || os_errno != 0; });
  EXPECT_EQ(os_errno, ECONNRESET);
}

// Rows: 188, 191
CO_TEST_REAL(SocketStreamTest, AbortDropsWhatIsBufferedAndThePeerSeesAReset) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  EXPECT_THAT(connection.writer.Write(std::string(16 << 20, 'x')), IsOk());
  connection.writer.Abort();
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await connection.reader.Read(1), IsOkAndHolds(""));
  int os_errno = 0;
  co_await Until(
      [&] { return !ReceiveNow(theirs.get(), 1 << 20, &os_errno).has_value() && os_errno != 0; });
  EXPECT_EQ(os_errno, ECONNRESET);
}

// Rows: 191
CO_TEST_REAL(SocketStreamTest, ClosingWithoutThePendingBytesEndsWithFinBehindWhatTheKernelHad) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  const std::string data = Pattern(16 << 20);
  EXPECT_THAT(connection.writer.Write(data), IsOk());
  const uint64_t flushed = connection.writer.bytes_flushed();
  CO_ASSERT_LT(flushed, data.size());
  connection.writer.Close(/*discard_pending=*/true);
  EXPECT_TRUE(co_await ReceiveAll(theirs.get()) == data.substr(0, flushed));
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
}

// Rows: 193
CO_TEST_REAL(SocketStreamTest, TheConnectionIsClosedWithTheLastCopyOfItsWriter) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  std::optional<StreamWriter> copy = connection.writer;
  connection.writer.Write("bye").IgnoreError();
  connection = Connection();
  co_await Turns();
  EXPECT_EQ(ReceiveNow(theirs.get(), 100), "bye");
  EXPECT_EQ(ReceiveNow(theirs.get(), 100), std::nullopt);
  copy.reset();
  co_await Until([&] { return ReceiveNow(theirs.get(), 100) == ""; });
}

CO_TEST_REAL(SocketStreamTest, AReadUnderWayKeepsItsDataWhenTheWriterIsDropped) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  TaskHandle<absl::StatusOr<absl::Cord>> read = CreateTask(connection.reader.Read(1));
  co_await Turns();
  connection.writer = StreamWriter();
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
}

TEST(SocketStreamLoopTest, ALoopThatIsDestroyedClosesItsConnectionsAndTheirHandlesStaySafe) {
  auto [ours, theirs] = TcpSocketPair();
  auto [ours2, theirs2] = UnixSocketPair();
  std::optional<Connection> connection;
  std::optional<Connection> full;
  auto open = [](std::optional<Connection>* slot, Descriptor socket) -> Task<void> {
    slot->emplace(ConnectionOver(std::move(socket)));
    (*slot)->writer.Write(std::string(4 << 20, 'x')).IgnoreError();
    co_return;
  };
  {
    EventLoop loop;
    loop.RunUntilComplete(open(&connection, std::move(ours)));
    loop.RunUntilComplete(open(&full, std::move(ours2)));
  }
  EXPECT_TRUE(connection->writer.IsClosing());
  EXPECT_TRUE(connection->writer.IsClosed());
  EXPECT_EQ(connection->writer.socket().fileno(), -1);
  EXPECT_THAT(connection->reader.Exception(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(connection->writer.Write("nobody hears"), IsOk());
  connection->writer.Close();
  connection->writer.Abort();
  EXPECT_THAT(full->reader.Exception(), StatusIs(absl::StatusCode::kCancelled));
  // The peers see an end, behind what the kernel had.
  EventLoop another;
  EXPECT_LT(another.RunUntilComplete(ReceiveAll(theirs.get())).size(), 4u << 20);
  EXPECT_LT(another.RunUntilComplete(ReceiveAll(theirs2.get())).size(), 4u << 20);
}

TEST(SocketStreamLoopTest, AStreamThatWasNeverStartedLetsGoOfItsSocket) {
  auto [ours, theirs] = TcpSocketPair();
  const int fd = ours.get();
  EventLoop loop;
  {
    absl::StatusOr<std::shared_ptr<SocketStream>> stream =
        SocketStream::Create(&loop, std::move(ours));
    ASSERT_THAT(stream, IsOk());
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

CO_TEST_REAL(SocketStreamTest, ADescriptorThatCannotBePolledIsRefused) {
  const TempDir directory;
  Descriptor file(open(directory.File("f").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_THAT(SocketStream::Create(GetRunningLoop(), std::move(file)), HasErrno(EPERM));
  EXPECT_THAT(SocketStream::Create(GetRunningLoop(), Descriptor()), HasErrno(EBADF));
  co_return;
}

CO_TEST_REAL(SocketStreamTest, AnIdleConnectionAmongBusyOnesIsServedInItsTurn) {
  auto [busy, busy_peer] = TcpSocketPair();
  auto [idle, idle_peer] = TcpSocketPair();
  Connection a = ConnectionOver(std::move(busy));
  Connection b = ConnectionOver(std::move(idle));
  TaskHandle<void> flood = CreateTask(SendAll(busy_peer.get(), Pattern(64 << 20)));
  TaskHandle<absl::StatusOr<absl::Cord>> all = CreateTask(a.reader.ReadAll());
  TaskHandle<absl::StatusOr<absl::Cord>> word = CreateTask(b.reader.ReadLine());
  co_await Turns();
  EXPECT_TRUE(SendNow(idle_peer.get(), "me too\n"));
  EXPECT_THAT(co_await word.Join(), IsOkAndHolds("me too\n"));
  EXPECT_FALSE(flood.done());
  flood.Cancel();
  co_await flood.Join();
  busy_peer.Reset();
  EXPECT_THAT(co_await all.Join(), IsOk());
}

}  // namespace
}  // namespace sockbroker::streams
