// StreamReader against asyncio's, in virtual time: one end has the reader, the other is played by
// hand.
#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/connection.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/stream_reader.h"
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

using ReadResult = absl::StatusOr<absl::Cord>;

constexpr char kSecondReader[] =
    "() called while another coroutine is already waiting for incoming data";

// What arrives in one piece: everything is at rest before the next.
Task<void> Arrive(MemoryPeer& link, absl::string_view data) {
  link.peer->Write(data);
  co_await Idle();
}

MATCHER_P2(IsIncomplete, partial, expected, "") {
  const std::optional<IncompleteRead> incomplete =
      GetIncompleteRead(testing_internal::AsStatus(arg));
  *result_listener << "which is " << testing_internal::AsStatus(arg);
  return incomplete.has_value() && incomplete->partial == partial &&
         incomplete->expected == std::optional<std::size_t>(expected);
}

MATCHER_P(IsOverrun, consumed, "") {
  const std::optional<LimitOverrun> overrun = GetLimitOverrun(testing_internal::AsStatus(arg));
  *result_listener << "which is " << testing_internal::AsStatus(arg);
  if (overrun.has_value()) *result_listener << " with consumed " << overrun->consumed;
  return overrun.has_value() && overrun->consumed == static_cast<std::size_t>(consumed);
}

// --- the limit and pausing

// Rows: 1
CO_TEST(ReaderLimitTest, IsSixtyFourKibibytesByDefault) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_EQ(link.reader.limit(), 65536u);
  co_return;
}

// Rows: 24
CO_TEST(ReaderLimitTest, OfZeroIsRefused) {
  auto [stream, peer] = MakeMemoryStreams(GetRunningLoop());
  EXPECT_THAT(MakeConnection(GetRunningLoop(), stream, {.limit = 0}),
              StatusIs(StatusCode::kInvalidArgument));
  co_return;
}

// Rows: 7
CO_TEST(ReaderPauseTest, TheStreamIsPausedAboveTwiceTheLimitAndNotAtIt) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(20, 'x'));
  EXPECT_FALSE(link.stream->reading_paused());
  co_await Arrive(link, "y");
  EXPECT_TRUE(link.stream->reading_paused());
  co_await Arrive(link, "z");
  EXPECT_EQ(link.reader.buffered(), 21u);
  EXPECT_EQ(link.stream->readable(), 1u);
}

// Rows: 7, 125
CO_TEST(ReaderPauseTest, ReadResumesOnceTheBufferIsDownToTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(21, 'x'));
  CO_ASSERT_OK(co_await link.reader.Read(10));
  EXPECT_EQ(link.reader.buffered(), 11u);
  EXPECT_TRUE(link.stream->reading_paused());
  CO_ASSERT_OK(co_await link.reader.Read(1));
  EXPECT_FALSE(link.stream->reading_paused());
}

// Rows: 7, 125
CO_TEST(ReaderPauseTest, ReadExactlyResumesOnceTheBufferIsDownToTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(21, 'x'));
  CO_ASSERT_OK(co_await link.reader.ReadExactly(10));
  EXPECT_TRUE(link.stream->reading_paused());
  CO_ASSERT_OK(co_await link.reader.ReadExactly(1));
  EXPECT_FALSE(link.stream->reading_paused());
}

// Rows: 7, 125
CO_TEST(ReaderPauseTest, ReadUntilAndReadLineResumeOnceTheBufferIsDownToTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, "0123456;\n\n" + std::string(11, 'x'));
  CO_ASSERT_THAT(co_await link.reader.ReadUntil(";"), IsOkAndHolds("0123456;"));
  CO_ASSERT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("\n"));
  EXPECT_TRUE(link.stream->reading_paused());
  CO_ASSERT_THAT(co_await link.reader.ReadUntil("\nx"), IsOkAndHolds("\nx"));
  EXPECT_FALSE(link.stream->reading_paused());
}

// Rows: 125
CO_TEST(ReaderPauseTest, AnOverrunDoesNotResume) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(21, 'x'));
  CO_ASSERT_THAT(co_await link.reader.ReadUntil("\n"), IsOverrun(21));
  co_await Arrive(link, "more");
  EXPECT_TRUE(link.stream->reading_paused());
  EXPECT_EQ(link.reader.buffered(), 21u);
}

// Rows: 123
CO_TEST(ReaderPauseTest, ReadExactlyOfMoreThanTwiceTheLimitDoesNotDeadlock) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(21, 'x'));
  EXPECT_TRUE(link.stream->reading_paused());
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadExactly(50));
  co_await Arrive(link, std::string(29, 'y'));
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(std::string(21, 'x') + std::string(29, 'y')));
}

// Rows: 123
CO_TEST(ReaderPauseTest, ASeparatorOfMoreThanTwiceTheLimitDoesNotDeadlock) {
  MemoryPeer link = MakeMemoryPeer({.limit = 3});
  const std::string separator(20, '-');
  co_await Arrive(link, "ab" + separator.substr(0, 15));
  EXPECT_TRUE(link.stream->reading_paused());
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil(separator));
  co_await Arrive(link, separator.substr(15));
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("ab" + separator));
}

// Rows: 124
CO_TEST(ReaderPauseTest, MayHappenManyTimesDuringOneReadExactly) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10}, {.read_size = 16});
  link.peer->Write(std::string(1000, 'x'));
  EXPECT_THAT(co_await link.reader.ReadExactly(1000), IsOkAndHolds(std::string(1000, 'x')));
  EXPECT_GT(link.stream->times_paused(), 10);
}

// Rows: 126
CO_TEST(ReaderPauseTest, WhilePausedThePeersEofIsNotNoticed) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  co_await Arrive(link, std::string(21, 'x'));
  link.peer->WriteEof();
  co_await Idle();
  EXPECT_FALSE(link.reader.eof_received());
  EXPECT_FALSE(link.reader.AtEof());
  CO_ASSERT_THAT(co_await link.reader.Read(100), IsOkAndHolds(std::string(21, 'x')));
  EXPECT_FALSE(link.reader.AtEof());
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds(""));
  EXPECT_TRUE(link.reader.AtEof());
}

// Rows: 126
CO_TEST_REAL(ReaderPauseTest, WhilePausedAPeersResetIsNotNoticedOnARealSocket) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours), {.limit = 10});
  CO_ASSERT_TRUE(SendNow(theirs.get(), std::string(21, 'x')));
  co_await Until([&] { return connection.reader.buffered() == 21; });
  ResetNow(&theirs);
  co_await Turns();
  EXPECT_THAT(connection.reader.Exception(), IsOk());
  EXPECT_FALSE(connection.writer.IsClosing());
  CO_ASSERT_THAT(co_await connection.reader.ReadExactly(21), IsOkAndHolds(std::string(21, 'x')));
  EXPECT_THAT(co_await connection.reader.Read(1), HasErrno(ECONNRESET));
}

// Rows: 126
CO_TEST_REAL(ReaderPauseTest, WhilePausedThePeersEofIsNotNoticedOnARealSocket) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours), {.limit = 10});
  CO_ASSERT_TRUE(SendNow(theirs.get(), std::string(21, 'x')));
  co_await Until([&] { return connection.reader.buffered() == 21; });
  theirs.Reset();
  co_await Turns();
  EXPECT_FALSE(connection.reader.eof_received());
  CO_ASSERT_THAT(co_await connection.reader.ReadExactly(21), IsOkAndHolds(std::string(21, 'x')));
  EXPECT_THAT(co_await connection.reader.Read(1), IsOkAndHolds(""));
  EXPECT_TRUE(connection.reader.AtEof());
}

// Rows: 8
CO_TEST_REAL(ReaderPauseTest, OneReadOfTheSocketDeliversAtMostAQuarterOfAMebibyte) {
  auto [ours, theirs] = UnixSocketPair();
  const int megabyte = 1 << 20;
  CO_ASSERT_EQ(setsockopt(theirs.get(), SOL_SOCKET, SO_SNDBUF, &megabyte, sizeof(megabyte)), 0);
  std::size_t sent = 0;
  while (SendNow(theirs.get(), std::string(8192, 'x'))) sent += 8192;
  CO_ASSERT_GT(sent, 262144u) << "the kernel's buffer is too small for this test";
  Connection connection = ConnectionOver(std::move(ours), {.limit = 100});
  co_await Until([&] { return connection.reader.buffered() != 0; });
  co_await Turns();
  // Over twice the limit by one read, and no more.
  EXPECT_GT(connection.reader.buffered(), 200u);
  EXPECT_LE(connection.reader.buffered(), 262144u);
  EXPECT_THAT(co_await connection.reader.ReadExactly(sent), IsOkAndHolds(std::string(sent, 'x')));
}

// --- who may wait

// Rows: 120, 121
CO_TEST(ReaderWaiterTest, ASecondCoroutineThatWouldHaveToWaitIsRefusedByName) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> first = CreateTask(link.reader.Read(1));
  co_await Idle();
  EXPECT_TRUE(link.reader.has_waiter());
  auto refused_as = [](std::string name) {
    return StatusIs(StatusCode::kFailedPrecondition, name + kSecondReader);
  };
  EXPECT_THAT(co_await link.reader.Read(1), refused_as("read"));
  EXPECT_THAT(co_await link.reader.ReadAll(), refused_as("read"));
  EXPECT_THAT(co_await link.reader.ReadExactly(1), refused_as("readexactly"));
  EXPECT_THAT(co_await link.reader.ReadUntil("x"), refused_as("readuntil"));
  EXPECT_THAT(co_await link.reader.ReadLine(), refused_as("readuntil"));
  link.peer->Write("x");
  EXPECT_THAT(co_await first.Join(), IsOkAndHolds("x"));
}

// Rows: 122
CO_TEST(ReaderWaiterTest, ASecondCallIsServedWhenTheBufferSatisfiesIt) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> first = CreateTask(link.reader.ReadExactly(10));
  co_await Arrive(link, "ab\ncd");
  CO_ASSERT_TRUE(link.reader.has_waiter());
  EXPECT_THAT(co_await link.reader.Read(0), IsOkAndHolds(""));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("ab\n"));
  EXPECT_THAT(co_await link.reader.ReadExactly(1), IsOkAndHolds("c"));
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("d"));
  co_await Arrive(link, "0123456789");
  EXPECT_THAT(co_await first.Join(), IsOkAndHolds("0123456789"));
}

// Rows: 127
CO_TEST(ReaderWaiterTest, EofWakesTheWaiter) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.Read(10));
  co_await Idle();
  EXPECT_FALSE(read.done());
  link.peer->WriteEof();
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
}

// --- the end

// Rows: 130
CO_TEST(ReaderEndTest, ALocalCloseEndsAPendingReadAsEofDoes) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.Read(10));
  co_await Idle();
  link.writer.Close();
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
  EXPECT_TRUE(link.reader.AtEof());
  EXPECT_THAT(co_await link.reader.ReadExactly(3), IsIncomplete("", 3u));
}

// Rows: 130
CO_TEST(ReaderEndTest, ALocalCloseIsEofForTheReaderOnlyOnceTheConnectionIsLost) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 10});
  (void)link.writer.Write(std::string(20, 'x'));
  link.writer.Close();
  TaskHandle<ReadResult> read = CreateTask(link.reader.Read(10));
  co_await Idle();
  EXPECT_FALSE(read.done()) << "10 bytes are still to be sent";
  EXPECT_EQ(link.peer->Receive(10).size(), 10u);
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
}

// Rows: 131
CO_TEST(ReaderEndTest, WhatCameBeforeAResetIsReadableFirstAndThenEveryReadGivesTheError) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("before\nrest");
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(link.reader.Exception(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("before\n"));
  EXPECT_THAT(co_await link.reader.ReadExactly(2), IsOkAndHolds("re"));
  EXPECT_THAT(co_await link.reader.ReadExactly(3), HasErrno(ECONNRESET)) << "only 2 are left";
  EXPECT_THAT(co_await link.reader.ReadLine(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("st"));
  EXPECT_THAT(co_await link.reader.Read(100), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadAll(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadLine(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadUntil("x"), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadExactly(1), HasErrno(ECONNRESET));
}

// Rows: 131
CO_TEST_REAL(ReaderEndTest, WhatCameBeforeAResetIsReadableFirstOnARealSocket) {
  auto [ours, theirs] = TcpSocketPair();
  Connection connection = ConnectionOver(std::move(ours));
  CO_ASSERT_TRUE(SendNow(theirs.get(), "last words"));
  ResetNow(&theirs);
  EXPECT_THAT(co_await connection.reader.ReadExactly(10), IsOkAndHolds("last words"));
  EXPECT_THAT(co_await connection.reader.Read(1), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await connection.reader.Read(1), HasErrno(ECONNRESET));
}

// Rows: 131
CO_TEST(ReaderEndTest, AResetWakesTheWaiterWithTheError) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadLine());
  co_await Arrive(link, "half a li");
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  EXPECT_THAT(co_await read.Join(), HasErrno(ECONNRESET));
}

// Rows: 132
CO_TEST(ReaderEndTest, TheStoredErrorOutranksAReadOfNothing) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(co_await link.reader.Read(0), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.ReadExactly(0), HasErrno(ECONNRESET));
}

// Rows: 132
CO_TEST(ReaderEndTest, ABadArgumentOutranksTheStoredError) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(co_await link.reader.ReadUntil(""), StatusIs(StatusCode::kInvalidArgument));
}

// Rows: 165
CO_TEST(ReaderEndTest, ExceptionGivesTheStoredErrorOrNone) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(link.reader.Exception(), IsOk());
  link.writer.Abort(absl::PermissionDeniedError("the policy changed"));
  co_await Idle();
  EXPECT_THAT(link.reader.Exception(),
              StatusIs(StatusCode::kPermissionDenied, "the policy changed"));
}

// --- cancellation

Task<void> CancelledReadLosesNothing(Task<ReadResult> (*read)(StreamReader)) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> waiting = CreateTask(read(link.reader));
  co_await Idle();
  waiting.Cancel();
  EXPECT_THAT(co_await waiting.Join(), StatusIs(StatusCode::kCancelled));
  EXPECT_FALSE(link.reader.has_waiter());
  co_await Arrive(link, "abc");
  waiting = CreateTask(link.reader.ReadExactly(6));
  co_await Idle();
  waiting.Cancel();
  EXPECT_THAT(co_await waiting.Join(), StatusIs(StatusCode::kCancelled));
  co_await Arrive(link, "def");
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("abcdef"));
}

// Rows: 133
CO_TEST(ReaderCancelTest, AWaitingReadLosesNothing) {
  co_await CancelledReadLosesNothing([](StreamReader reader) { return reader.Read(5); });
}
// Rows: 133
CO_TEST(ReaderCancelTest, AWaitingReadExactlyLosesNothing) {
  co_await CancelledReadLosesNothing([](StreamReader reader) { return reader.ReadExactly(5); });
}
// Rows: 133
CO_TEST(ReaderCancelTest, AWaitingReadUntilLosesNothing) {
  co_await CancelledReadLosesNothing([](StreamReader reader) { return reader.ReadUntil("x"); });
}
// Rows: 133
CO_TEST(ReaderCancelTest, AWaitingReadLineLosesNothing) {
  co_await CancelledReadLosesNothing([](StreamReader reader) { return reader.ReadLine(); });
}

// Rows: 133, 248
CO_TEST(ReaderCancelTest, DataInTheSameTurnAsATimeOutIsGivenAndNotLost) {
  MemoryPeer link = MakeMemoryPeer();
  // The data is due with the time-out, and was set first.
  GetRunningLoop()->CallLater(absl::Seconds(1), [&] { link.peer->Write("just in time"); });
  ReadResult result = co_await WaitFor(link.reader.Read(100), absl::Seconds(1));
  if (!result.ok()) {
    EXPECT_THAT(result, StatusIs(StatusCode::kDeadlineExceeded));
    result = co_await link.reader.Read(100);
  }
  EXPECT_THAT(result, IsOkAndHolds("just in time"));
}

// Rows: 134
CO_TEST(ReaderCancelTest, ReadAllPutsBackWhatItHadCollected) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> all = CreateTask(link.reader.ReadAll());
  co_await Arrive(link, "collected ");
  EXPECT_EQ(link.reader.buffered(), 0u);
  all.Cancel();
  EXPECT_THAT(co_await all.Join(), StatusIs(StatusCode::kCancelled));
  co_await Arrive(link, "and more");
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("collected and more"));
}

// --- read(n)

// Rows: 135
CO_TEST(ReadTest, OfZeroAnswersAtOnceAndTouchesNothing) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(co_await link.reader.Read(0), IsOkAndHolds(""));
  co_await Arrive(link, "abc");
  EXPECT_THAT(co_await link.reader.Read(0), IsOkAndHolds(""));
  EXPECT_EQ(link.reader.buffered(), 3u);
}

// Rows: 136
CO_TEST(ReadTest, WaitsOnlyWhileTheBufferIsEmptyAndGivesAtMostWhatWasAsked) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.Read(4));
  co_await Idle();
  EXPECT_FALSE(read.done());
  link.peer->Write("abcdefg");
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("abcd"));
  EXPECT_THAT(co_await link.reader.Read(4), IsOkAndHolds("efg"));
}

// Rows: 136
CO_TEST(ReadTest, IsNotBoundedByTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "0123456789");
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("0123456789"));
}

// Rows: 137
CO_TEST(ReadTest, AtEofWithAnEmptyBufferGivesNothingAsOftenAsItIsAsked) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("last");
  link.peer->WriteEof();
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("last"));
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds(""));
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds(""));
}

// Rows: 138
CO_TEST(ReadAllTest, GivesEverythingUntilEofThoughItIsMoreThanTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 10});
  TaskHandle<ReadResult> all = CreateTask(link.reader.ReadAll());
  co_await Arrive(link, std::string(1000, 'x'));
  EXPECT_FALSE(all.done());
  co_await Arrive(link, "y");
  link.peer->WriteEof();
  EXPECT_THAT(co_await all.Join(), IsOkAndHolds(std::string(1000, 'x') + "y"));
  EXPECT_THAT(co_await link.reader.ReadAll(), IsOkAndHolds(""));
}

// --- readline

// Rows: 140
CO_TEST(ReadLineTest, GivesTheLineWithItsEnd) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> line = CreateTask(link.reader.ReadLine());
  co_await Arrive(link, "one");
  EXPECT_FALSE(line.done());
  co_await Arrive(link, "\r\ntwo\n");
  EXPECT_THAT(co_await line.Join(), IsOkAndHolds("one\r\n"));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("two\n"));
}

// Rows: 140
CO_TEST(ReadLineTest, AtEofGivesThePartialLineAndThenNothing) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("no end");
  link.peer->WriteEof();
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("no end"));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds(""));
}

// Rows: 141, 142
CO_TEST(ReadLineTest, ALineOverTheLimitIsAnOverrunAndStaysInTheBuffer) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "12345\nnext\n");
  EXPECT_THAT(co_await link.reader.ReadLine(),
              AllOf(StatusIs(StatusCode::kResourceExhausted,
                             "Separator is found, but chunk is longer than limit"),
                    IsOverrun(5)));
  EXPECT_THAT(co_await link.reader.ReadExactly(6), IsOkAndHolds("12345\n"));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("next\n"));
}

// Rows: 141, 143
CO_TEST(ReadLineTest, ALineOverTheLimitWhoseEndHasNotComeIsAnOverrunAndStaysInTheBuffer) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "12345");
  EXPECT_THAT(co_await link.reader.ReadLine(),
              AllOf(StatusIs(StatusCode::kResourceExhausted,
                             "Separator is not found, and chunk exceed the limit"),
                    IsOverrun(5)));
  co_await Arrive(link, "6\n");
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("123456\n"));
}

// Rows: 144
CO_TEST(ReadLineTest, ALineOfExactlyTheLimitIsAcceptedAndOneMoreIsRefused) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "1234\n");
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("1234\n"));
  co_await Arrive(link, "12345\n");
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOverrun(5));
}

// Rows: 145, 158
CO_TEST(ReadLineTest, TheLimitIsCheckedBeforeEof) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  link.peer->Write("12345");
  link.peer->WriteEof();
  co_await Idle();
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOverrun(5));
  EXPECT_THAT(co_await link.reader.ReadUntil("\n"), IsOverrun(5));
  CO_ASSERT_THAT(co_await link.reader.ReadExactly(1), IsOkAndHolds("1"));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("2345")) << "not longer than the limit";
}

// Rows: 146
CO_TEST(ReadLineTest, ALoopOverTheLinesEndsAtEofAndNotAtAnEmptyLine) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("one\n\nthree\ntail");
  link.peer->WriteEof();
  std::vector<std::string> lines;
  while (true) {
    ReadResult line = co_await link.reader.ReadLine();
    CO_ASSERT_OK(line);
    if (line->empty()) break;
    lines.emplace_back(*line);
  }
  EXPECT_THAT(lines, ::testing::ElementsAre("one\n", "\n", "three\n", "tail"));
}

// --- readuntil

// Rows: 147
CO_TEST(ReadUntilTest, TheDefaultSeparatorIsANewlineAndIsIncluded) {
  MemoryPeer link = MakeMemoryPeer();
  co_await Arrive(link, "line\nrest");
  EXPECT_THAT(co_await link.reader.ReadUntil(), IsOkAndHolds("line\n"));
  EXPECT_EQ(link.reader.buffered(), 4u);
}

// Rows: 149
CO_TEST(ReadUntilTest, AnEmptySeparatorIsRefusedAloneAndAmongOthers) {
  MemoryPeer link = MakeMemoryPeer();
  const auto refused =
      StatusIs(StatusCode::kInvalidArgument, "Separator should be at least one-byte string");
  EXPECT_THAT(co_await link.reader.ReadUntil(""), refused);
  std::vector<std::string> separators = {"\n", ""};
  EXPECT_THAT(co_await link.reader.ReadUntil(std::move(separators)), refused);
}

// Rows: 150
CO_TEST(ReadUntilTest, NoSeparatorAtAllIsRefused) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(
      co_await link.reader.ReadUntil(std::vector<std::string>()),
      StatusIs(StatusCode::kInvalidArgument, "Separator should contain at least one element"));
}

Task<ReadResult> ReadUntilAny(StreamReader& reader, std::vector<std::string> separators) {
  return reader.ReadUntil(std::move(separators));
}

// Rows: 150
CO_TEST(ReadUntilTest, SeveralSeparatorsAreAlternatives) {
  MemoryPeer link = MakeMemoryPeer();
  co_await Arrive(link, "a;b,c;");
  std::vector<std::string> both = {";", ","};
  EXPECT_THAT(co_await ReadUntilAny(link.reader, both), IsOkAndHolds("a;"));
  EXPECT_THAT(co_await ReadUntilAny(link.reader, both), IsOkAndHolds("b,"));
  EXPECT_THAT(co_await ReadUntilAny(link.reader, both), IsOkAndHolds("c;"));
}

// Rows: 151
CO_TEST(ReadUntilTest, WithSeveralSeparatorsTakesTheMatchThatEndsFirst) {
  MemoryPeer link = MakeMemoryPeer();
  co_await Arrive(link, "xabcdy");
  std::vector<std::string> separators = {"abcd", "bc"};  // the longer one starts earlier
  EXPECT_THAT(co_await ReadUntilAny(link.reader, separators), IsOkAndHolds("xabc"));
}

// Rows: 151
CO_TEST(ReadUntilTest, OfSeparatorsThatEndTogetherTheShortestIsTheMatch) {
  MemoryPeer link = MakeMemoryPeer({.limit = 3});
  co_await Arrive(link, "12ABCD");
  // Both end at 6. As the match is "CD", which starts at 4, the limit is passed; "ABCD" would start
  // within it.
  std::vector<std::string> separators = {"ABCD", "CD"};
  EXPECT_THAT(co_await ReadUntilAny(link.reader, separators), IsOverrun(4));
}

// Rows: 152
CO_TEST(ReadUntilTest, ACarriageReturnAmongTheSeparatorsLeavesTheNewlineBehind) {
  MemoryPeer link = MakeMemoryPeer();
  co_await Arrive(link, "one\r\ntwo\r\n");
  std::vector<std::string> separators = {"\r\n", "\r"};
  EXPECT_THAT(co_await ReadUntilAny(link.reader, separators), IsOkAndHolds("one\r"));
  EXPECT_THAT(co_await ReadUntilAny(link.reader, separators), IsOkAndHolds("\ntwo\r"));
}

// Rows: 153
CO_TEST(ReadUntilTest, ASeparatorSplitOverAnyNumberOfChunksIsFound) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil("<END>"));
  for (const char* chunk : {"data<", "E", "N", "D<", "END", ">rest"}) {
    EXPECT_FALSE(read.done());
    co_await Arrive(link, chunk);
  }
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("data<END<END>"));
}

// Rows: 153
CO_TEST(ReadUntilTest, RepeatedPrefixesAreFound) {
  MemoryPeer link = MakeMemoryPeer();
  std::vector<std::string> separators = {"aa", "a"};
  co_await Arrive(link, "aaa");
  EXPECT_THAT(co_await ReadUntilAny(link.reader, separators), IsOkAndHolds("a"));
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil("aab"));
  co_await Arrive(link, "a");
  co_await Arrive(link, "b");
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("aaab"));
}

// Rows: 154
CO_TEST(ReadUntilTest, ASeparatorThatStartsBehindTheLimitIsAnOverrunAndTheBufferIsUnchanged) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "1234--12345--");
  EXPECT_THAT(co_await link.reader.ReadUntil("--"), IsOkAndHolds("1234--"));
  EXPECT_THAT(co_await link.reader.ReadUntil("--"),
              AllOf(StatusIs(StatusCode::kResourceExhausted, HasSubstr("Separator is found")),
                    IsOverrun(5)));
  EXPECT_EQ(link.reader.buffered(), 7u);
}

// Rows: 155, 156
CO_TEST(ReadUntilTest, WithALimitOfThreeFiveUnmatchedBytesWaitForAThreeByteSeparatorAndSixDoNot) {
  MemoryPeer link = MakeMemoryPeer({.limit = 3});
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil("END"));
  co_await Arrive(link, "12345");
  EXPECT_FALSE(read.done());
  co_await Arrive(link, "6");
  EXPECT_THAT(co_await read.Join(),
              AllOf(StatusIs(StatusCode::kResourceExhausted, HasSubstr("Separator is not found")),
                    IsOverrun(4)));
  EXPECT_EQ(link.reader.buffered(), 6u);
}

// Rows: 155
CO_TEST(ReadUntilTest, TheLongestSeparatorDecidesHowManyUnmatchedBytesAreTooMany) {
  MemoryPeer link = MakeMemoryPeer({.limit = 3});
  std::vector<std::string> separators = {"X", "LONG"};
  TaskHandle<ReadResult> read = CreateTask(ReadUntilAny(link.reader, separators));
  co_await Arrive(link, "123456");
  EXPECT_FALSE(read.done());
  co_await Arrive(link, "7");
  EXPECT_THAT(co_await read.Join(), IsOverrun(4));
}

// Rows: 157
CO_TEST(ReadUntilTest, AnOverrunIsGivenAgainUntilItsBytesAreSkipped) {
  MemoryPeer link = MakeMemoryPeer({.limit = 3});
  co_await Arrive(link, "123456");
  ReadResult overrun = co_await link.reader.ReadUntil("END");
  EXPECT_THAT(overrun, IsOverrun(4));
  EXPECT_THAT(co_await link.reader.ReadUntil("END"), IsOverrun(4));
  const std::size_t consumed = GetLimitOverrun(overrun.status())->consumed;
  EXPECT_THAT(co_await link.reader.ReadExactly(consumed), IsOkAndHolds("1234"));
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil("END"));
  co_await Arrive(link, "END");
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("56END"));
}

// Rows: 159
CO_TEST(ReadUntilTest, EofBeforeTheSeparatorIsIncompleteAndEmptiesTheBuffer) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("partial");
  link.peer->WriteEof();
  EXPECT_THAT(co_await link.reader.ReadUntil("\n"), IsIncomplete("partial", std::nullopt));
  EXPECT_EQ(link.reader.buffered(), 0u);
  EXPECT_THAT(co_await link.reader.ReadUntil("\n"), IsIncomplete("", std::nullopt));
}

// Rows: 160
CO_TEST(ReadUntilTest, ASeparatorCompletedByTheLastChunkBeforeEofIsFound) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.ReadUntil("END"));
  co_await Arrive(link, "dataEN");
  link.peer->Write("D");
  link.peer->WriteEof();
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("dataEND"));
  EXPECT_THAT(co_await link.reader.Read(1), IsOkAndHolds(""));
}

// --- readexactly, at_eof

// Rows: 161
CO_TEST(ReadExactlyTest, OfZeroAnswersAtOnceAndTouchesNothing) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_THAT(co_await link.reader.ReadExactly(0), IsOkAndHolds(""));
  co_await Arrive(link, "abc");
  EXPECT_THAT(co_await link.reader.ReadExactly(0), IsOkAndHolds(""));
  EXPECT_EQ(link.reader.buffered(), 3u);
}

// Rows: 162
CO_TEST(ReadExactlyTest, MayBeLargerThanTheLimit) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  link.peer->Write("0123456789");
  EXPECT_THAT(co_await link.reader.ReadExactly(9), IsOkAndHolds("012345678"));
}

// Rows: 163
CO_TEST(ReadExactlyTest, EofBeforeEnoughIsIncompleteAndEmptiesTheBuffer) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("abc");
  link.peer->WriteEof();
  EXPECT_THAT(co_await link.reader.ReadExactly(5), IsIncomplete("abc", 5u));
  EXPECT_THAT(co_await link.reader.ReadExactly(5), IsIncomplete("", 5u));
}

// Rows: 164
CO_TEST(AtEofTest, IsTrueOnlyWhenEofCameAndTheBufferIsEmpty) {
  MemoryPeer link = MakeMemoryPeer();
  EXPECT_FALSE(link.reader.AtEof());
  co_await Arrive(link, "abc");
  link.peer->WriteEof();
  co_await Idle();
  EXPECT_TRUE(link.reader.eof_received());
  EXPECT_FALSE(link.reader.AtEof());
  CO_ASSERT_OK(co_await link.reader.Read(3));
  EXPECT_TRUE(link.reader.AtEof());
}

// Rows: 164
CO_TEST(AtEofTest, IsFalseAfterAnErrorUnlessEofHadCome) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  CO_ASSERT_THAT(link.reader.Exception(), HasErrno(ECONNRESET));
  EXPECT_FALSE(link.reader.AtEof());

  MemoryPeer other = MakeMemoryPeer();
  other.peer->WriteEof();
  co_await Idle();
  other.writer.Abort(absl::DataLossError("broken"));
  co_await Idle();
  EXPECT_THAT(other.reader.Exception(), StatusIs(StatusCode::kDataLoss));
  EXPECT_TRUE(other.reader.AtEof());
}

// --- beyond asyncio

CO_TEST(UnreadTest, PutsBytesInFrontOfWhatIsBuffered) {
  MemoryPeer link = MakeMemoryPeer();
  co_await Arrive(link, "world");
  link.reader.Unread(absl::Cord("hello "));
  EXPECT_THAT(co_await link.reader.Read(100), IsOkAndHolds("hello world"));
  EXPECT_EQ(link.reader.bytes_received(), 5u);
}

CO_TEST(UnreadTest, WakesAReaderThatWaits) {
  MemoryPeer link = MakeMemoryPeer();
  TaskHandle<ReadResult> read = CreateTask(link.reader.Read(10));
  co_await Idle();
  link.reader.Unread(absl::Cord("again"));
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("again"));
}

CO_TEST(ReaderLimitTest, ANewLimitCountsFromTheNextCallAndMayResume) {
  MemoryPeer link = MakeMemoryPeer({.limit = 4});
  co_await Arrive(link, "0123456789");
  EXPECT_TRUE(link.stream->reading_paused());
  EXPECT_THAT(co_await link.reader.ReadUntil("9"), IsOverrun(9));
  link.reader.set_limit(10);
  EXPECT_FALSE(link.stream->reading_paused());
  EXPECT_THAT(co_await link.reader.ReadUntil("9"), IsOkAndHolds("0123456789"));
}

CO_TEST(ReaderBudgetTest, AReaderThatNeverHasToWaitLetsOthersRun) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write(std::string(60'000, 'x'));
  co_await Idle();
  bool other_ran = false;
  GetRunningLoop()->CallSoon([&] { other_ran = true; });
  std::size_t reads = 0;
  while (!other_ran && reads < 60'000) {
    CO_ASSERT_OK(co_await link.reader.Read(1));
    reads++;
  }
  EXPECT_TRUE(other_ran);
  EXPECT_LT(reads, 1000u);
}

}  // namespace
}  // namespace sockbroker::streams
