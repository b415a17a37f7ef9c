// StreamWriter against asyncio's. What the kernel decides (watermarks, FIN, RST) is tested over
// real sockets, the rest in virtual time over a stream in memory.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <any>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/connection.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/stream_writer.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/memory_connection.h"
#include "streams/testing/socket_pair.h"
#include "streams/wait_for.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Optional;

absl::Time LoopTime() { return GetRunningLoop()->Now(); }

std::string Xs(std::size_t size) { return std::string(size, 'x'); }

// A connection over a socket, and its peer to be played by hand.
struct Link {
  StreamReader reader;
  StreamWriter writer;
  Descriptor peer;
};

Link MakeLink(std::pair<Descriptor, Descriptor> sockets, StreamOptions options = {}) {
  Connection connection = ConnectionOver(std::move(sockets.first), options);
  return {std::move(connection.reader), std::move(connection.writer), std::move(sockets.second)};
}

void SetOption(const Descriptor& socket, int option, int value) {
  ASSERT_EQ(setsockopt(socket.get(), SOL_SOCKET, option, &value, sizeof(value)), 0);
}

// A Unix connection whose kernel takes only a few KiB.
Link MakeNarrowLink() {
  std::pair<Descriptor, Descriptor> sockets = UnixSocketPair();
  SetOption(sockets.first, SO_SNDBUF, 4608);
  return MakeLink(std::move(sockets));
}

// Writes until the kernel takes no more, and then until `size` bytes are buffered.
void FillTo(StreamWriter& writer, std::size_t size) {
  while (writer.GetWriteBufferSize() == 0) ASSERT_THAT(writer.Write(Xs(512)), IsOk());
  ASSERT_LE(writer.GetWriteBufferSize(), size);
  ASSERT_THAT(writer.Write(Xs(size - writer.GetWriteBufferSize())), IsOk());
  ASSERT_EQ(writer.GetWriteBufferSize(), size);
}

// Everything until EOF, or until an error, which `os_errno` gets.
Task<std::string> ReceiveAll(const Descriptor& socket, int* os_errno = nullptr) {
  std::string all;
  int error = 0;
  while (error == 0 && !(co_await GetCancelToken()).cancelled()) {
    const std::optional<std::string> data = ReceiveNow(socket.get(), 65536, &error);
    if (data.has_value() && data->empty()) break;
    if (data.has_value()) all += *data;
    co_await Yield();
  }
  if (os_errno != nullptr) *os_errno = error;
  co_return all;
}

// --- the watermarks

// Rows: 2, 5
CO_TEST_REAL(WatermarkTest, OnASocket65536BufferedBytesDoNotPauseTheWriterAnd65537Do) {
  Link link = MakeNarrowLink();
  FillTo(link.writer, 65536);
  EXPECT_THAT(co_await link.writer.Drain(), IsOk());
  CO_ASSERT_OK(link.writer.Write("x"));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Turns();
  EXPECT_FALSE(drain.done());
  link.writer.Abort();
  (void)co_await drain.Join();
}

struct Drained {
  std::vector<std::size_t> sizes;  // what was buffered after each step of the peer
  std::size_t at = 0;              // what was buffered when Drain returned
};

// Pauses the writer, then lets the peer read bit by bit until Drain returns.
Task<Drained> DrainBitByBit(std::optional<int64_t> high, std::optional<int64_t> low) {
  Drained result;
  Link link = MakeNarrowLink();
  if (low.has_value()) EXPECT_THAT(link.writer.SetWriteBufferLimits(high, low), IsOk());
  FillTo(link.writer, 65537);
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Turns();
  EXPECT_FALSE(drain.done());
  while (!drain.done() && !(co_await GetCancelToken()).cancelled()) {
    (void)ReceiveNow(link.peer.get(), 512);
    co_await Turns();
    result.at = link.writer.GetWriteBufferSize();
    result.sizes.push_back(result.at);
  }
  EXPECT_THAT(co_await drain.Join(), IsOk());
  link.writer.Abort();
  co_return result;
}

// Rows: 2, 195
CO_TEST_REAL(WatermarkTest, OnASocketDrainReturnsAtTheLowMarkAndDoesNotWaitForAnEmptyBuffer) {
  Drained drained = co_await DrainBitByBit(std::nullopt, std::nullopt);
  EXPECT_LE(drained.at, 16384u);
  EXPECT_GT(drained.at, 0u);
  CO_ASSERT_GE(drained.sizes.size(), 2u);
  EXPECT_GT(drained.sizes[drained.sizes.size() - 2], 16384u) << "it could have returned earlier";
}

// Rows: 5
CO_TEST_REAL(WatermarkTest, OnASocketTheWriterResumesAtExactlyTheLowMarkAndNotOneByteAbove) {
  // The kernel takes the same bytes every time: find what remains in some step, and make that the
  // low mark.
  const Drained all = co_await DrainBitByBit(65536, 0);
  std::size_t remains = 0;
  for (const std::size_t size : all.sizes) {
    if (size < 40000 && remains == 0) remains = size;
  }
  CO_ASSERT_GT(remains, 1u);
  const auto low = static_cast<int64_t>(remains);
  EXPECT_EQ((co_await DrainBitByBit(65536, low)).at, remains);
  EXPECT_LT((co_await DrainBitByBit(65536, low - 1)).at, remains);
}

// Whether `size` buffered bytes make Drain wait.
Task<bool> Pauses(std::size_t size, std::optional<int64_t> high, std::optional<int64_t> low) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  EXPECT_THAT(link.writer.SetWriteBufferLimits(high, low), IsOk());
  EXPECT_THAT(link.writer.Write(Xs(size)), IsOk());
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  const bool pauses = !drain.done();
  link.writer.Abort();
  (void)co_await drain.Join();
  co_return pauses;
}

// Whether a writer that was paused resumes when it has `size` bytes left.
Task<bool> Resumes(std::size_t size, std::optional<int64_t> high, std::optional<int64_t> low) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 200'000});
  EXPECT_THAT(link.writer.SetWriteBufferLimits(high, low), IsOk());
  EXPECT_THAT(link.writer.Write(Xs(300'000)), IsOk());
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  EXPECT_FALSE(drain.done());
  EXPECT_EQ(link.peer->Receive(100'000 - size).size(), 100'000 - size);
  co_await Idle();
  EXPECT_EQ(link.writer.GetWriteBufferSize(), size);
  const bool resumes = drain.done();
  link.writer.Abort();
  (void)co_await drain.Join();
  co_return resumes;
}

// Rows: 4
CO_TEST(WatermarkTest, WithoutLimitsTheyAre65536And16384) {
  EXPECT_FALSE(co_await Pauses(65536, std::nullopt, std::nullopt));
  EXPECT_TRUE(co_await Pauses(65537, std::nullopt, std::nullopt));
  EXPECT_TRUE(co_await Resumes(16384, std::nullopt, std::nullopt));
  EXPECT_FALSE(co_await Resumes(16385, std::nullopt, std::nullopt));
}

// Rows: 4
CO_TEST(WatermarkTest, OfALowMarkAloneTheHighMarkIsFourTimesIt) {
  EXPECT_FALSE(co_await Pauses(4000, std::nullopt, 1000));
  EXPECT_TRUE(co_await Pauses(4001, std::nullopt, 1000));
  EXPECT_TRUE(co_await Resumes(1000, std::nullopt, 1000));
  EXPECT_FALSE(co_await Resumes(1001, std::nullopt, 1000));
}

// Rows: 4
CO_TEST(WatermarkTest, OfAHighMarkAloneTheLowMarkIsAQuarter) {
  EXPECT_FALSE(co_await Pauses(1003, 1003, std::nullopt));
  EXPECT_TRUE(co_await Pauses(1004, 1003, std::nullopt));
  EXPECT_TRUE(co_await Resumes(250, 1003, std::nullopt));
  EXPECT_FALSE(co_await Resumes(251, 1003, std::nullopt));
}

// Rows: 4
CO_TEST(WatermarkTest, AHighMarkOfZeroMeansThatAnythingBufferedPausesUntilNothingIs) {
  EXPECT_TRUE(co_await Pauses(1, 0, std::nullopt));
  EXPECT_FALSE(co_await Resumes(1, 0, std::nullopt));
  EXPECT_TRUE(co_await Resumes(0, 0, std::nullopt));
}

// Rows: 4
CO_TEST(WatermarkTest, MarksThatAreNotInOrderAreRefused) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(link.writer.SetWriteBufferLimits(10, 11), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(link.writer.SetWriteBufferLimits(10, -1), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(link.writer.SetWriteBufferLimits(-1, std::nullopt),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(link.writer.SetWriteBufferLimits(std::nullopt, -1),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(link.writer.SetWriteBufferLimits(10, 10), IsOk());
  co_return;
}

CO_TEST(WatermarkTest, MarksBelowWhatIsBufferedPauseTheWriterAtOnce) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.Write(Xs(1000)));
  EXPECT_THAT(co_await link.writer.Drain(), IsOk());
  CO_ASSERT_OK(link.writer.SetWriteBufferLimits(999, std::nullopt));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  EXPECT_FALSE(drain.done());
  link.writer.Abort();
  (void)co_await drain.Join();
}

// --- write, writelines

// Rows: 169
CO_TEST_REAL(WriteTest, IsSentAtOnceWhileNothingIsBuffered) {
  Link link = MakeLink(UnixSocketPair());
  CO_ASSERT_OK(link.writer.Write("hello"));
  EXPECT_THAT(ReceiveNow(link.peer.get(), 100), Optional(std::string("hello")));
  EXPECT_EQ(link.writer.GetWriteBufferSize(), 0u);
  EXPECT_EQ(link.writer.bytes_flushed(), 5u);
}

// Rows: 169
CO_TEST_REAL(WriteTest, OnlyWhatTheKernelDoesNotTakeIsBufferedAndItKeepsItsOrder) {
  Link link = MakeNarrowLink();
  std::string sent;
  for (int i = 0; i < 1000; ++i) {
    const std::string piece = absl::StrCat("piece ", i, ";");
    CO_ASSERT_OK(link.writer.Write(piece));
    sent += piece;
  }
  CO_ASSERT_GT(link.writer.GetWriteBufferSize(), 0u);
  EXPECT_EQ(link.writer.bytes_flushed() + link.writer.GetWriteBufferSize(), sent.size());
  link.writer.Close();
  EXPECT_EQ(co_await ReceiveAll(link.peer), sent);
}

// Rows: 168
CO_TEST(WriteTest, OfNothingIsNothing) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  EXPECT_THAT(link.writer.Write(""), IsOk());
  EXPECT_EQ(link.writer.GetWriteBufferSize(), 0u);
  co_return;
}

// Rows: 167, 187
CO_TEST_REAL(WriteTest, NeverGivesTheNetworksErrorsWhichShowInDrainReadsAndWaitClosed) {
  Link link = MakeLink(TcpSocketPair());
  ResetNow(&link.peer);
  while (!link.writer.IsClosed()) {
    CO_ASSERT_OK(link.writer.Write("x"));
    co_await Yield();
  }
  EXPECT_THAT(link.writer.Write("x"), IsOk());
  EXPECT_THAT(link.writer.WriteLines({absl::Cord("x")}), IsOk());
  EXPECT_NE(GetErrno(co_await link.writer.Drain()), 0);
  EXPECT_NE(GetErrno((co_await link.reader.Read(1)).status()), 0);
  EXPECT_NE(GetErrno(co_await link.writer.WaitClosed()), 0);
}

// Rows: 171
CO_TEST(WriteLinesTest, SendsThePiecesInOrderAndNoneAtAllIsNothing) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(link.writer.WriteLines({}), IsOk());
  EXPECT_THAT(link.writer.WriteLines({absl::Cord("one"), absl::Cord(), absl::Cord("two")}), IsOk());
  EXPECT_EQ(link.peer->Receive(100), "onetwo");
  co_return;
}

// Rows: 172
CO_TEST(WriteLinesTest, PausesTheWriterAsWriteDoes) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  EXPECT_THAT(link.writer.WriteLines({absl::Cord(Xs(40'000)), absl::Cord(Xs(40'000))}), IsOk());
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  EXPECT_FALSE(drain.done());
  link.writer.Abort();
  (void)co_await drain.Join();
}

// Rows: 173
CO_TEST_REAL(WriteLinesTest, WithAnEmptyLastPieceTheConnectionStillCloses) {
  Link link = MakeNarrowLink();
  FillTo(link.writer, 10'000);
  CO_ASSERT_OK(link.writer.WriteLines({absl::Cord("end"), absl::Cord()}));
  CO_ASSERT_OK(link.writer.WriteLines({absl::Cord()}));
  link.writer.Close();
  EXPECT_TRUE(absl::EndsWith(co_await ReceiveAll(link.peer), "xend"));
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
}

// Rows: 174
CO_TEST_REAL(WriteTest, AfterCloseWithNothingBufferedIsDroppedSilently) {
  Link link = MakeLink(UnixSocketPair());
  CO_ASSERT_OK(link.writer.Write("before"));
  link.writer.Close();
  EXPECT_THAT(link.writer.Write("after"), IsOk());
  EXPECT_EQ(co_await ReceiveAll(link.peer), "before");
}

// Rows: 174
CO_TEST_REAL(WriteTest, AfterCloseWithSomethingStillBufferedIsAcceptedAndDelivered) {
  Link link = MakeNarrowLink();
  FillTo(link.writer, 10'000);
  link.writer.Close();
  EXPECT_THAT(link.writer.Write("after"), IsOk());
  EXPECT_TRUE(absl::EndsWith(co_await ReceiveAll(link.peer), "xafter"));
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
}

// Rows: 175
CO_TEST_REAL(WriteLinesTest, AfterCloseIsDroppedOrDeliveredAsWriteIs) {
  Link idle = MakeLink(UnixSocketPair());
  idle.writer.Close();
  EXPECT_THAT(idle.writer.WriteLines({absl::Cord("after")}), IsOk());
  EXPECT_EQ(co_await ReceiveAll(idle.peer), "");

  Link busy = MakeNarrowLink();
  FillTo(busy.writer, 10'000);
  busy.writer.Close();
  EXPECT_THAT(busy.writer.WriteLines({absl::Cord("af"), absl::Cord("ter")}), IsOk());
  EXPECT_TRUE(absl::EndsWith(co_await ReceiveAll(busy.peer), "xafter"));
}

// Rows: 176
CO_TEST(WriteTest, AfterTheConnectionIsLostIsDroppedSilentlyHoweverOften) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  CO_ASSERT_TRUE(link.writer.IsClosed());
  for (int i = 0; i < 10; ++i) EXPECT_THAT(link.writer.Write("x"), IsOk());
  EXPECT_EQ(link.writer.GetWriteBufferSize(), 0u);
}

// Rows: 178
CO_TEST_REAL(WriteTest, ToAPeerThatHasClosedSucceedsOnceAndFailsAfterThePeersReset) {
  Link link = MakeLink(TcpSocketPair());
  link.peer.Reset();
  CO_ASSERT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  EXPECT_FALSE(link.writer.IsClosing());
  EXPECT_THAT(link.writer.Write("first"), IsOk());
  EXPECT_FALSE(link.writer.IsClosing());
  EXPECT_EQ(link.writer.bytes_flushed(), 5u);
  while (!link.writer.IsClosing()) {
    CO_ASSERT_OK(link.writer.Write("again"));
    co_await Yield();
  }
  EXPECT_THAT(co_await link.writer.WaitClosed(), HasErrno(EPIPE));
}

// --- write_eof

Task<void> SendsEofBehindItsDataAndGoesOnReading(Link link) {
  EXPECT_TRUE(link.writer.CanWriteEof());
  const std::string data = Xs(20'000'000);
  EXPECT_THAT(link.writer.Write(data), IsOk());
  EXPECT_GT(link.writer.GetWriteBufferSize(), 0u);
  EXPECT_THAT(link.writer.WriteEof(), IsOk());
  EXPECT_EQ(co_await ReceiveAll(link.peer), data);
  EXPECT_TRUE(SendNow(link.peer.get(), "answer"));
  EXPECT_THAT(co_await link.reader.ReadExactly(6), IsOkAndHolds("answer"));
}

// Rows: 179
CO_TEST_REAL(WriteEofTest, OnTcpSendsFinBehindAllDataAndReadingGoesOn) {
  co_await SendsEofBehindItsDataAndGoesOnReading(MakeLink(TcpSocketPair()));
}
// Rows: 179
CO_TEST_REAL(WriteEofTest, OnAUnixSocketSendsEofBehindAllDataAndReadingGoesOn) {
  co_await SendsEofBehindItsDataAndGoesOnReading(MakeLink(UnixSocketPair()));
}

// Rows: 180
CO_TEST(WriteEofTest, AfterItEveryWriteIsRefusedEvenAnEmptyOne) {
  MemoryPeer link = MakeMemoryPeer();
  CO_ASSERT_OK(link.writer.WriteEof());
  auto refused = [](const char* text) { return StatusIs(StatusCode::kFailedPrecondition, text); };
  EXPECT_THAT(link.writer.Write("x"), refused("Cannot call write() after write_eof()"));
  EXPECT_THAT(link.writer.Write(""), refused("Cannot call write() after write_eof()"));
  EXPECT_THAT(link.writer.WriteLines({absl::Cord("x")}),
              refused("Cannot call writelines() after write_eof()"));
  EXPECT_THAT(link.writer.WriteLines({}), refused("Cannot call writelines() after write_eof()"));
  EXPECT_EQ(link.peer->readable(), 0u);
}

// Rows: 181
CO_TEST(WriteEofTest, ASecondTimeOrAfterTheEndIsNothing) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(link.writer.WriteEof(), IsOk());
  EXPECT_THAT(link.writer.WriteEof(), IsOk());

  MemoryPeer closed = MakeMemoryPeer();
  closed.writer.Close();
  EXPECT_THAT(closed.writer.WriteEof(), IsOk());
  EXPECT_THAT(closed.writer.Write("dropped"), IsOk());
  EXPECT_THAT(co_await closed.writer.WaitClosed(), IsOk());
  EXPECT_THAT(closed.writer.WriteEof(), IsOk());
  EXPECT_THAT(closed.writer.Write("dropped"), IsOk());
  EXPECT_EQ(closed.peer->readable(), 0u);
}

// Rows: 183
CO_TEST_REAL(WriteEofTest, ThePeersFinLeavesTheConnectionOpenForWriting) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_EQ(shutdown(link.peer.get(), SHUT_WR), 0);
  EXPECT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  EXPECT_FALSE(link.writer.IsClosing());
  TaskHandle<absl::Status> closed = CreateTask(link.writer.WaitClosed());
  co_await Turns();
  EXPECT_FALSE(closed.done());
  EXPECT_THAT(link.writer.Write("still here"), IsOk());
  link.writer.Close();
  EXPECT_EQ(co_await ReceiveAll(link.peer), "still here");
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// Rows: 183
CO_TEST_REAL(WriteEofTest, EvenWhenBothSidesHaveEndedTheConnectionMustBeClosed) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_OK(link.writer.WriteEof());
  CO_ASSERT_EQ(shutdown(link.peer.get(), SHUT_WR), 0);
  EXPECT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  TaskHandle<absl::Status> closed = CreateTask(link.writer.WaitClosed());
  co_await Turns();
  EXPECT_FALSE(closed.done());
  EXPECT_FALSE(link.writer.IsClosing());
  link.writer.Close();
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// --- close, abort, wait_closed

// Rows: 184
CO_TEST_REAL(CloseTest, FlushesWhatIsPendingFirst) {
  Link link = MakeNarrowLink();
  FillTo(link.writer, 50'000);
  const std::size_t total = link.writer.bytes_flushed() + 50'000;
  link.writer.Close();
  link.writer.Close();
  TaskHandle<absl::Status> closed = CreateTask(link.writer.WaitClosed());
  co_await Turns();
  EXPECT_FALSE(closed.done());
  EXPECT_EQ((co_await ReceiveAll(link.peer)).size(), total);
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// Rows: 184
CO_TEST_REAL(CloseTest, StopsReadingAtOnce) {
  Link link = MakeNarrowLink();
  co_await Turns();  // it reads now
  FillTo(link.writer, 10'000);
  link.writer.Close();
  CO_ASSERT_TRUE(SendNow(link.peer.get(), "unheard"));
  co_await Turns();
  EXPECT_EQ(link.reader.buffered(), 0u);
  (void)co_await ReceiveAll(link.peer);
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds(""));
}

// Rows: 184
CO_TEST(CloseTest, ToAPeerThatDoesNotReadIsAResetWhenTheCloseTimeOutHasPassed) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  const absl::Time start = LoopTime();
  link.writer.Close();
  absl::Status status = co_await link.writer.WaitClosed();
  EXPECT_THAT(status, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_THAT(GetTimeoutPhase(status), Optional(std::string("close")));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(30));
  EXPECT_TRUE(link.peer->peer_sent_reset());
  EXPECT_THAT(co_await link.writer.WaitClosed(), StatusIs(StatusCode::kDeadlineExceeded));
}

// Rows: 184
CO_TEST(CloseTest, WithoutATimeOutAPeerThatDoesNotReadKeepsItWaiting) {
  MemoryPeer link =
      MakeMemoryPeer({.close_timeout = absl::InfiniteDuration()}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  link.writer.Close();
  EXPECT_THAT(co_await WaitFor(link.writer.WaitClosed(), absl::Hours(24)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(link.writer.IsClosed());
  EXPECT_EQ(link.peer->Receive(10).size(), 10u);
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
}

CO_TEST(CloseTest, ItsTimeOutCanBeSetUntilItHasPassed) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  const absl::Time start = LoopTime();
  link.writer.Close();
  link.writer.set_close_timeout(absl::Seconds(5));
  EXPECT_THAT(co_await link.writer.WaitClosed(), StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(5));
}

// Rows: 185
CO_TEST(CloseTest, IsClosingFromCloseAbortOrAFatalErrorOn) {
  MemoryPeer closed = MakeMemoryPeer();
  EXPECT_FALSE(closed.writer.IsClosing());
  closed.writer.Close();
  EXPECT_TRUE(closed.writer.IsClosing());
  EXPECT_FALSE(closed.writer.IsClosed()) << "told in a later turn";

  MemoryPeer aborted = MakeMemoryPeer();
  aborted.writer.Abort();
  EXPECT_TRUE(aborted.writer.IsClosing());

  MemoryPeer reset = MakeMemoryPeer();
  reset.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_TRUE(reset.writer.IsClosing());
}

// Rows: 186
CO_TEST(WaitClosedTest, DoesNotBeginTheClosingAndEndsWhenTheConnectionIsLost) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  TaskHandle<absl::Status> closed = CreateTask(link.writer.WaitClosed());
  co_await Idle();
  EXPECT_FALSE(link.writer.IsClosing());
  link.writer.Close();
  co_await Idle();
  EXPECT_FALSE(closed.done()) << "10 bytes are still to be sent";
  EXPECT_EQ(link.peer->Receive(10).size(), 10u);
  EXPECT_THAT(co_await closed.Join(), IsOk());
}

// Rows: 187
CO_TEST_REAL(WaitClosedTest, GivesTheErrorOfALossEveryTime) {
  Link link = MakeLink(TcpSocketPair());
  TaskHandle<absl::Status> before = CreateTask(link.writer.WaitClosed());
  ResetNow(&link.peer);
  EXPECT_THAT(co_await before.Join(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.writer.WaitClosed(), HasErrno(ECONNRESET));
  link.writer.Close();
  EXPECT_THAT(co_await link.writer.WaitClosed(), HasErrno(ECONNRESET));
}

// Rows: 188
CO_TEST_REAL(WaitClosedTest, IsOkAfterACleanCloseAndAfterAnAbort) {
  Link closed = MakeLink(TcpSocketPair());
  closed.writer.Close();
  EXPECT_THAT(co_await closed.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await closed.writer.WaitClosed(), IsOk());
  Link aborted = MakeLink(TcpSocketPair());
  aborted.writer.Abort();
  EXPECT_THAT(co_await aborted.writer.WaitClosed(), IsOk());
  Link discarded = MakeLink(TcpSocketPair());
  discarded.writer.Close(/*discard_pending=*/true);
  EXPECT_THAT(co_await discarded.writer.WaitClosed(), IsOk());
}

// Rows: 189
CO_TEST_REAL(CloseTest, OfASocketWithUnreadDataResetsThePeer) {
  Link link = MakeLink(TcpSocketPair(), {.limit = 1});
  CO_ASSERT_TRUE(SendNow(link.peer.get(), "abc"));  // pauses the reader
  co_await Until([&] { return link.reader.buffered() == 3; });
  CO_ASSERT_TRUE(SendNow(link.peer.get(), "never read"));
  co_await Turns();
  link.writer.Close();
  CO_ASSERT_OK(co_await link.writer.WaitClosed());
  int os_errno = 0;
  (void)co_await ReceiveAll(link.peer, &os_errno);
  EXPECT_EQ(os_errno, ECONNRESET);
}

// Rows: 186
CO_TEST(WaitClosedTest, AllWhoWaitAreReleasedTogether) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<absl::Status> first = CreateTask(link.writer.WaitClosed());
  TaskHandle<absl::Status> second = CreateTask(link.writer.WaitClosed());
  co_await Idle();
  link.writer.Close();
  co_await Idle();
  EXPECT_TRUE(first.done());
  EXPECT_TRUE(second.done());
}

// Rows: 190
CO_TEST(WaitClosedTest, ACancelledWaiterDoesNotDisturbTheOthers) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<absl::Status> first = CreateTask(link.writer.WaitClosed());
  TaskHandle<absl::Status> second = CreateTask(link.writer.WaitClosed());
  co_await Idle();
  first.Cancel();
  EXPECT_THAT(co_await first.Join(), StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(co_await WaitFor(link.writer.WaitClosed(), absl::Seconds(1)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(second.done());
  link.writer.Close();
  EXPECT_THAT(co_await second.Join(), IsOk());
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
}

// Rows: 191
CO_TEST_REAL(AbortTest, ResetsThePeerDropsWhatIsPendingAndIsEofForTheOwnReader) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_OK(link.writer.Write(Xs(20'000'000)));
  CO_ASSERT_GT(link.writer.GetWriteBufferSize(), 0u);
  link.writer.Abort();
  EXPECT_EQ(link.writer.GetWriteBufferSize(), 0u);
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  int os_errno = 0;
  EXPECT_LT((co_await ReceiveAll(link.peer, &os_errno)).size(), 20'000'000u);
  EXPECT_EQ(os_errno, ECONNRESET);
}

// Rows: 191
CO_TEST_REAL(AbortTest, CloseThatDiscardsEndsWithFinBehindTheBytesTheKernelHad) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_OK(link.writer.Write(Xs(20'000'000)));
  CO_ASSERT_GT(link.writer.GetWriteBufferSize(), 0u);
  const std::size_t flushed = link.writer.bytes_flushed();
  link.writer.Close(/*discard_pending=*/true);
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  int os_errno = 0;
  EXPECT_EQ((co_await ReceiveAll(link.peer, &os_errno)).size(), flushed);
  EXPECT_EQ(os_errno, 0);
}

CO_TEST(AbortTest, WithAReasonGivesItToReadsDrainAndWaitClosed) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<absl::StatusOr<absl::Cord>> read = CreateTask(link.reader.Read(1));
  co_await Idle();
  link.writer.Abort(absl::ResourceExhaustedError("over budget"));
  const auto reason = StatusIs(StatusCode::kResourceExhausted, "over budget");
  EXPECT_THAT(co_await read.Join(), reason);
  EXPECT_THAT(co_await link.reader.Read(1), reason);
  EXPECT_THAT(co_await link.writer.Drain(), reason);
  EXPECT_THAT(co_await link.writer.WaitClosed(), reason);
  EXPECT_TRUE(link.peer->peer_sent_reset());
}

CO_TEST(AbortTest, EndsACloseThatStillFlushes) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  link.writer.Close();
  co_await Idle();
  link.writer.Abort();
  EXPECT_THAT(co_await link.writer.WaitClosed(), IsOk());
  EXPECT_TRUE(link.peer->peer_sent_reset());
}

// Rows: 193
CO_TEST(CloseTest, HappensWhenTheLastCopyOfTheWriterGoes) {
  MemoryPeer link = MakeMemoryPeer();
  StreamWriter copy = link.writer;
  link.writer = StreamWriter();
  co_await Idle();
  EXPECT_FALSE(copy.IsClosing());
  CO_ASSERT_OK(copy.Write("bye"));
  copy = StreamWriter();
  co_await Idle();
  EXPECT_EQ(link.peer->Receive(100), "bye");
  EXPECT_TRUE(link.peer->peer_sent_eof());
}

// --- drain

Task<void> CountTurns(int* turns) {
  while (!(co_await GetCancelToken()).cancelled()) {
    ++*turns;
    co_await Yield();
  }
}

// Rows: 194
CO_TEST(DrainTest, OfAWriterThatIsNotPausedReturnsWithoutYielding) {
  MemoryPeer link = MakeMemoryPeer();
  int turns = 0;
  TaskHandle<void> counter = CreateTask(CountTurns(&turns));
  co_await Yield();
  const int before = turns;
  CO_ASSERT_OK(link.writer.Write("x"));
  EXPECT_THAT(co_await link.writer.Drain(), IsOk());
  EXPECT_EQ(turns, before);
  counter.Cancel();
  co_await counter.Join();
}

// Rows: 194
CO_TEST(DrainTest, OfAClosingWriterYieldsOneIteration) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.Write("x"));
  link.writer.Close();
  int turns = 0;
  TaskHandle<void> counter = CreateTask(CountTurns(&turns));
  co_await Yield();
  const int before = turns;
  EXPECT_THAT(co_await link.writer.Drain(), IsOk());
  EXPECT_EQ(turns, before + 1);
  counter.Cancel();
  co_await counter.Join();
}

// Rows: 194
CO_TEST(DrainTest, TheStoredErrorOutranksThatTheConnectionIsLost) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  CO_ASSERT_TRUE(link.writer.IsClosed());
  EXPECT_THAT(co_await link.writer.Drain(),
              AllOf(HasErrno(ECONNRESET), StatusIs(StatusCode::kUnavailable, HasSubstr("recv"))));
}

// Rows: 196
CO_TEST(DrainTest, AllWhoDrainAreReleasedTogether) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.Write(Xs(65'536 + 11)));
  TaskHandle<absl::Status> first = CreateTask(link.writer.Drain());
  TaskHandle<absl::Status> second = CreateTask(link.writer.Drain());
  co_await Idle();
  EXPECT_FALSE(first.done());
  EXPECT_FALSE(second.done());
  while (!first.done()) {
    EXPECT_FALSE(second.done());
    CO_ASSERT_GT(link.peer->Receive(10).size(), 0u);
    co_await Idle();
  }
  EXPECT_THAT(co_await first.Join(), IsOk());
  EXPECT_TRUE(second.done());
  EXPECT_THAT(co_await second.Join(), IsOk());
}

CO_TEST(DrainTest, CancellingItLeavesTheOthersWaiting) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.Write(Xs(70'000)));
  TaskHandle<absl::Status> first = CreateTask(link.writer.Drain());
  TaskHandle<absl::Status> second = CreateTask(link.writer.Drain());
  co_await Idle();
  first.Cancel();
  EXPECT_THAT(co_await first.Join(), StatusIs(StatusCode::kCancelled));
  EXPECT_FALSE(second.done());
  link.writer.Abort();
  (void)co_await second.Join();
}

// Rows: 197
CO_TEST(DrainTest, AfterCloseWithAnEmptyBufferSaysAtOnceThatTheConnectionIsLost) {
  MemoryPeer link = MakeMemoryPeer();
  link.writer.Close();
  EXPECT_THAT(co_await link.writer.Drain(),
              AllOf(HasErrno(ECONNRESET),
                    StatusIs(StatusCode::kUnavailable, HasSubstr("Connection lost"))));
}

// Rows: 198
CO_TEST(DrainTest, PendingAtALocalAbortIsReleasedWithoutAnError) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.Write(Xs(70'000)));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  link.writer.Close(/*discard_pending=*/true);
  EXPECT_THAT(co_await drain.Join(), IsOk());
}

// Rows: 198
CO_TEST(DrainTest, PendingAtALocalCloseIsReleasedWithoutAnErrorOnceThePeerReads) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  CO_ASSERT_OK(link.writer.SetWriteBufferLimits(0, 0));
  CO_ASSERT_OK(link.writer.Write(Xs(20)));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  link.writer.Close();
  co_await Idle();
  EXPECT_FALSE(drain.done());
  EXPECT_EQ(link.peer->Receive(10).size(), 10u);
  EXPECT_THAT(co_await drain.Join(), IsOk());
}

// Rows: 184, 198
CO_TEST(DrainTest, PendingAtALocalCloseStaysPendingWhileThePeerDoesNotRead) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.SetWriteBufferLimits(0, 0));
  CO_ASSERT_OK(link.writer.Write(Xs(10)));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Idle();
  link.writer.Close();
  co_await PassTime(absl::Seconds(29));
  EXPECT_FALSE(drain.done()) << "the peer reads nothing";
  // The close time-out ends it, as it ends everything.
  EXPECT_THAT(co_await drain.Join(), StatusIs(StatusCode::kDeadlineExceeded));
}

// Rows: 199
CO_TEST(DrainTest, PendingWhenThePeerResetsGivesTheErrorToEveryWaiter) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 0});
  CO_ASSERT_OK(link.writer.Write(Xs(70'000)));
  TaskHandle<absl::Status> first = CreateTask(link.writer.Drain());
  TaskHandle<absl::Status> second = CreateTask(link.writer.Drain());
  co_await Idle();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  EXPECT_THAT(co_await first.Join(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await second.Join(), HasErrno(ECONNRESET));
}

// Rows: 199
CO_TEST_REAL(DrainTest, PendingWhenThePeerResetsGivesTheErrorOnARealSocket) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_OK(link.writer.Write(Xs(20'000'000)));
  TaskHandle<absl::Status> drain = CreateTask(link.writer.Drain());
  co_await Turns();
  CO_ASSERT_FALSE(drain.done());
  ResetNow(&link.peer);
  EXPECT_THAT(co_await drain.Join(), HasErrno(ECONNRESET));
}

// Rows: 200
CO_TEST_REAL(DrainTest, RightAfterAFailedWriteSaysConnectionLostAndLaterTheOriginalError) {
  Link link = MakeLink(TcpSocketPair(), {.limit = 1});
  // The paused reader does not notice the reset: the write finds it.
  CO_ASSERT_TRUE(SendNow(link.peer.get(), "abc"));
  co_await Until([&] { return link.reader.buffered() == 3; });
  ResetNow(&link.peer);
  co_await Turns();
  CO_ASSERT_FALSE(link.writer.IsClosing());
  EXPECT_THAT(link.writer.Write("x"), IsOk());
  EXPECT_THAT(co_await link.writer.Drain(),
              StatusIs(StatusCode::kUnavailable, HasSubstr("Connection lost")));
  EXPECT_THAT(co_await link.writer.Drain(),
              AllOf(HasErrno(ECONNRESET), StatusIs(StatusCode::kUnavailable, HasSubstr("send"))));
}

// Rows: 201
CO_TEST_REAL(DrainTest, AfterThePeersFinAloneReturnsNormally) {
  Link link = MakeLink(TcpSocketPair());
  CO_ASSERT_EQ(shutdown(link.peer.get(), SHUT_WR), 0);
  CO_ASSERT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
  EXPECT_THAT(co_await link.writer.Drain(), IsOk());
}

// --- get_extra_info

// Rows: 203
CO_TEST_REAL(GetExtraInfoTest, GivesTheEndsOfTheConnectionAndARestrictedSocket) {
  std::pair<Descriptor, Descriptor> sockets = TcpSocketPair();
  const SocketAddress local = SocketAddress::OfLocal(sockets.first.get());
  const SocketAddress remote = SocketAddress::OfPeer(sockets.first.get());
  const int fd = sockets.first.get();
  Link link = MakeLink(std::move(sockets));
  EXPECT_EQ(std::any_cast<SocketAddress>(link.writer.GetExtraInfo("sockname")), local);
  EXPECT_EQ(std::any_cast<SocketAddress>(link.writer.GetExtraInfo("peername")), remote);
  auto socket = std::any_cast<TransportSocket>(link.writer.GetExtraInfo("socket"));
  EXPECT_EQ(socket.fileno(), fd);
  EXPECT_EQ(socket.getsockname(), local);
  EXPECT_EQ(socket.getpeername(), remote);
  EXPECT_THAT(socket.getsockopt(SOL_SOCKET, SO_TYPE), IsOkAndHolds(SOCK_STREAM));
  EXPECT_THAT(socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1), IsOk());
  EXPECT_THAT(socket.getsockopt(SOL_SOCKET, SO_KEEPALIVE), IsOkAndHolds(1));
  EXPECT_THAT(socket.setsockopt(SOL_SOCKET, -1, 1), HasErrno(ENOPROTOOPT));
  EXPECT_THAT(socket.shutdown(SHUT_WR), IsOk());
  EXPECT_EQ(co_await ReceiveAll(link.peer), "");
}

// Rows: 33
CO_TEST_REAL(GetExtraInfoTest, ATcpSocketHasNodelaySet) {
  Link link = MakeLink(TcpSocketPair());
  EXPECT_THAT(link.writer.socket().getsockopt(IPPROTO_TCP, TCP_NODELAY), IsOkAndHolds(1));
  co_return;
}

// Rows: 205, 206
CO_TEST(GetExtraInfoTest, GivesNothingForAnUnknownNameAndForTlsNamesOnAPlainStream) {
  MemoryPeer link = MakeMemoryPeer();
  for (const char* name :
       {"no such name", "", "sslcontext", "ssl_object", "peercert", "cipher", "compression"}) {
    EXPECT_FALSE(link.writer.GetExtraInfo(name).has_value()) << name;
  }
  co_return;
}

// Rows: 208
CO_TEST_REAL(GetExtraInfoTest, AfterTheEndTheNamesStayAndTheSocketHasNoDescriptor) {
  Link link = MakeLink(TcpSocketPair());
  const SocketAddress local = link.writer.sockname();
  const SocketAddress remote = link.writer.peername();
  EXPECT_TRUE(local.is_ip());
  TransportSocket socket = link.writer.socket();
  link.writer.Close();
  CO_ASSERT_OK(co_await link.writer.WaitClosed());
  EXPECT_EQ(std::any_cast<SocketAddress>(link.writer.GetExtraInfo("sockname")), local);
  EXPECT_EQ(std::any_cast<SocketAddress>(link.writer.GetExtraInfo("peername")), remote);
  EXPECT_EQ(socket.fileno(), -1);
  EXPECT_THAT(socket.getsockopt(SOL_SOCKET, SO_TYPE), HasErrno(EBADF));
  link.writer = StreamWriter();
  link.reader = StreamReader();
  EXPECT_EQ(socket.fileno(), -1);
}

}  // namespace
}  // namespace sockbroker::streams
