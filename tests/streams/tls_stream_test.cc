// TlsStream in virtual time, over streams in memory: against another, and against a peer whose TLS
// is done by hand.
#include "streams/tls_stream.h"

#include <cerrno>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/gather.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/recording_protocol.h"
#include "streams/wait_for.h"
#include "streams/with_cancel.h"
#include "tests/streams/openssl_peer.h"
#include "tests/streams/tls_pair.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Optional;

MATCHER_P(TimedOutIn, phase, "timed out in the phase " + std::string(phase)) {
  const absl::Status& status = testing_internal::AsStatus(arg);
  *result_listener << "which is " << status;
  return status.code() == StatusCode::kDeadlineExceeded && GetTimeoutPhase(status) == phase;
}

std::string Pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i * 31 % 26);
  return text;
}

// --- the handshake

// Rows: 204
CO_TEST(TlsStreamTest, ConnectsAndCarriesDataBothWays) {
  TlsPair pair = MakeTlsPair();
  CO_ASSERT_OK(co_await pair.Establish());
  EXPECT_THAT(pair.client.writer.Write("ping\n"), IsOk());
  EXPECT_THAT(co_await pair.server.reader.ReadLine(), IsOkAndHolds("ping\n"));
  EXPECT_THAT(pair.server.writer.Write("pong\n"), IsOk());
  EXPECT_THAT(co_await pair.client.reader.ReadLine(), IsOkAndHolds("pong\n"));
}

// Rows: 204, 205, 206
CO_TEST(TlsStreamTest, TellsWhatWasAgreedOnceItIs) {
  TlsPair pair = MakeTlsPair();
  EXPECT_EQ(pair.client.writer.tls_info(), nullptr);
  EXPECT_FALSE(pair.client.writer.GetExtraInfo("cipher").has_value());
  CO_ASSERT_OK(co_await pair.Establish());
  CO_ASSERT_NE(pair.client.writer.tls_info(), nullptr);
  EXPECT_EQ(pair.client.writer.tls_info()->version, "TLSv1.3");
  const auto cipher = std::any_cast<std::tuple<std::string, std::string, int>>(
      pair.client.writer.GetExtraInfo("cipher"));
  EXPECT_EQ(std::get<1>(cipher), "TLSv1.3");
  const auto der = std::any_cast<std::string>(pair.client.writer.GetExtraInfo("peercert"));
  EXPECT_EQ(ReadCertificate(der)->subject, "CN=server");
  EXPECT_FALSE(pair.server.writer.GetExtraInfo("peercert").has_value());
  EXPECT_EQ(pair.server.writer.tls_info()->server_name, "localhost");
}

// Rows: 208
CO_TEST(TlsStreamTest, TellsWhatWasAgreedAfterTheEnd) {
  TlsPair pair = MakeTlsPair();
  CO_ASSERT_OK(co_await pair.Establish());
  pair.client.writer.Close();
  CO_ASSERT_OK(co_await pair.client.writer.WaitClosed());
  CO_ASSERT_NE(pair.client.writer.tls_info(), nullptr);
  EXPECT_EQ(pair.client.writer.tls_info()->version, "TLSv1.3");
}

// Rows: 210
CO_TEST(TlsStreamTest, WorksOneByteAtATime) {
  TlsPairOptions options;
  options.faults = Faults{.split = 1};
  TlsPair pair = MakeTlsPair(options);
  CO_ASSERT_OK(co_await pair.Establish());
  const std::string text = Pattern(5000);
  EXPECT_THAT(pair.client.writer.Write(text), IsOk());
  EXPECT_THAT(co_await pair.server.reader.ReadExactly(text.size()), IsOkAndHolds(text));
  pair.server.writer.Close();
  EXPECT_THAT(co_await pair.client.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(co_await pair.server.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await pair.client.writer.WaitClosed(), IsOk());
}

// Rows: 9, 211, 232
CO_TEST(TlsStreamTest, ASilentPeerEndsTheHandshakeAfterAMinuteAndEveryWaiterIsTold) {
  HandPeer peer(TlsSide::kServer);
  const absl::Time begin = GetRunningLoop()->Now();
  auto read = CreateTask(peer.connection.reader.Read(1));
  auto closed = CreateTask(peer.connection.writer.WaitClosed());
  const absl::Status status = co_await TlsStream::WaitHandshake(peer.tls);
  EXPECT_THAT(status, TimedOutIn("handshake"));
  EXPECT_THAT(status, StatusIs(StatusCode::kDeadlineExceeded,
                               HasSubstr("SSL handshake is taking longer than 1m")));
  EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(60));
  EXPECT_THAT(co_await read.Join(), TimedOutIn("handshake"));
  EXPECT_THAT(co_await closed.Join(), TimedOutIn("handshake"));
  EXPECT_THAT(co_await peer.connection.writer.Drain(), TimedOutIn("handshake"));
}

struct Stall {
  TlsSide stalling;
  TlsVersion version;
  int flights;  // so many it answers
};

class TlsStallTest : public ::testing::TestWithParam<Stall> {};

// Rows: 211
TEST_P(TlsStallTest, APeerThatStallsInAnyFlightEndsTheHandshakeAfterItsTime) {
  RunInVirtualTime([](Stall stall) -> Task<void> {
    HandPeer peer(stall.stalling, {.handshake_timeout = absl::Seconds(7)}, stall.version);
    const absl::Time begin = GetRunningLoop()->Now();
    for (int i = 0; i < stall.flights; ++i) co_await peer.HandshakeStep();
    // Half of the flight in which it stalls still comes.
    const absl::Cord flight = peer.engine->TakeCiphertext();
    peer.wire->Write(flight.Subcord(0, flight.size() / 2));
    EXPECT_THAT(co_await TlsStream::WaitHandshake(peer.tls), TimedOutIn("handshake"));
    EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(7));
    EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), TimedOutIn("handshake"));
  }(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Flights, TlsStallTest,
                         ::testing::Values(Stall{TlsSide::kServer, TlsVersion::kTls13, 1},
                                           Stall{TlsSide::kServer, TlsVersion::kTls12, 1},
                                           Stall{TlsSide::kServer, TlsVersion::kTls12, 2},
                                           Stall{TlsSide::kClient, TlsVersion::kTls13, 1},
                                           Stall{TlsSide::kClient, TlsVersion::kTls13, 2},
                                           Stall{TlsSide::kClient, TlsVersion::kTls12, 1},
                                           Stall{TlsSide::kClient, TlsVersion::kTls12, 2}));

// Rows: 219
CO_TEST(TlsStreamTest, CloseDuringTheHandshakeAborts) {
  HandPeer peer(TlsSide::kServer);
  auto shake = CreateTask(TlsStream::WaitHandshake(peer.tls));
  auto read = CreateTask(peer.connection.reader.Read(1));
  co_await peer.HandshakeStep();
  peer.connection.writer.Close();
  EXPECT_TRUE(peer.connection.writer.IsClosing());
  EXPECT_THAT(co_await shake.Join(), HasErrno(ECONNABORTED));
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  EXPECT_TRUE(peer.wire->peer_sent_eof() || peer.wire->peer_sent_reset());
}

// Rows: 232
CO_TEST(TlsStreamTest, CancellingTheHandshakeClosesAndWakesEveryWaiter) {
  HandPeer peer(TlsSide::kServer);
  auto shake = CreateTask(TlsStream::WaitHandshake(peer.tls));
  auto read = CreateTask(peer.connection.reader.Read(1));
  auto closed = CreateTask(peer.connection.writer.WaitClosed());
  co_await Idle();
  shake.Cancel();
  EXPECT_THAT(co_await shake.Join(), StatusIs(StatusCode::kCancelled));
  // They were not cancelled themselves.
  EXPECT_THAT(co_await read.Join(), HasErrno(ECONNABORTED));
  EXPECT_THAT(co_await closed.Join(), HasErrno(ECONNABORTED));
  EXPECT_THAT(co_await peer.connection.writer.Drain(), HasErrno(ECONNABORTED));
}

// Rows: 210
CO_TEST(TlsStreamTest, APeerThatHangsUpDuringTheHandshakeIsAReset) {
  for (const bool reset : {false, true}) {
    HandPeer peer(TlsSide::kServer);
    co_await Idle();
    peer.Take();
    peer.wire->Abort(reset, absl::OkStatus());
    EXPECT_THAT(co_await TlsStream::WaitHandshake(peer.tls), HasErrno(ECONNRESET));
    EXPECT_THAT(co_await peer.connection.reader.Read(1), HasErrno(ECONNRESET));
    EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), HasErrno(ECONNRESET));
  }
}

// Rows: 210
CO_TEST(TlsStreamTest, APeerThatSpeaksPlainTextIsATlsErrorForEveryWaiter) {
  HandPeer peer(TlsSide::kServer);
  peer.wire->Write("220 smtp.example.org ESMTP\r\n");
  const absl::Status status = co_await TlsStream::WaitHandshake(peer.tls);
  EXPECT_TRUE(IsTlsError(status)) << status;
  EXPECT_EQ((co_await peer.connection.reader.Read(1)).status(), status);
  EXPECT_EQ(co_await peer.connection.writer.WaitClosed(), status);
}

// Rows: 210, 231
CO_TEST(TlsStreamTest, AnUnknownRootNamesTheVerifyResultAndEndsBothSides) {
  TlsPairOptions options;
  options.client_context = MakeContext(
      {.side = TlsSide::kClient, .ca_pem = TestAuthority("Another Root").certificate_pem()});
  TlsPair pair = MakeTlsPair(options);
  const absl::Status status = co_await TlsStream::WaitHandshake(pair.client_tls);
  CO_ASSERT_TRUE(GetTlsVerifyFailure(status).has_value()) << status;
  EXPECT_EQ(GetTlsVerifyFailure(status)->code, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
  EXPECT_EQ((co_await pair.client.reader.Read(1)).status(), status);
  EXPECT_EQ(co_await pair.client.writer.WaitClosed(), status);
  EXPECT_THAT(co_await TlsStream::WaitHandshake(pair.server_tls), Not(IsOk()));
  EXPECT_THAT(co_await pair.server.writer.WaitClosed(), Not(IsOk()));
}

// Rows: 210
CO_TEST(TlsStreamTest, WhatIsWrittenDuringTheHandshakeFollowsIt) {
  TlsPair pair = MakeTlsPair();
  EXPECT_THAT(pair.client.writer.Write("early"), IsOk());
  EXPECT_EQ(pair.client.writer.GetWriteBufferSize(), 5u);
  EXPECT_EQ(pair.client.writer.bytes_flushed(), 0u);
  EXPECT_THAT(co_await pair.server.reader.ReadExactly(5), IsOkAndHolds("early"));
  EXPECT_EQ(pair.client.writer.bytes_flushed(), 5u);
}

// --- water marks and pausing

// TlsStream with a recording protocol, and a peer that reads nothing.
struct RecordedTls {
  std::shared_ptr<MemoryStream> wire;
  std::shared_ptr<TlsStream> tls;
  std::shared_ptr<RecordingProtocol> protocol = std::make_shared<RecordingProtocol>();

  // Over when the hand-made peer has shaken hands.
  Task<void> Start() {
    EventLoop* loop = GetRunningLoop();
    std::shared_ptr<MemoryStream> lower;
    std::tie(lower, wire) = MakeMemoryStreams(loop);
    tls = ClientTlsOver(lower);
    tls->Start(protocol);
    auto engine = TlsEngine::Create(ServerContext(), std::nullopt).value();
    for (int i = 0; i < 4; ++i) {
      co_await Idle();
      engine->FeedCiphertext(wire->Receive(1 << 20));
      (void)engine->Handshake();
      wire->Write(engine->TakeCiphertext());
    }
    co_await Idle();
  }
};

// Rows: 202
CO_TEST(TlsWaterMarkTest, TheFirstBigWriteGoesBelowAndDoesNotPause) {
  RecordedTls link;
  co_await link.Start();
  link.tls->Write(absl::Cord(std::string(8 << 20, 'x')));
  EXPECT_EQ(link.tls->write_buffer_size(), 0u);
  EXPECT_THAT(link.protocol->events, Not(Contains("pause")));
  link.tls->Write(absl::Cord(std::string(600 << 10, 'x')));
  EXPECT_THAT(link.protocol->events, Contains("pause"));
}

// Rows: 3, 6
CO_TEST(TlsWaterMarkTest, WritingIsPausedAtTheHighMarkAndNotBelow) {
  RecordedTls link;
  co_await link.Start();
  link.tls->Write(absl::Cord(std::string(1 << 20, 'x')));  // the stream below is full
  // 31 records of 16 KiB and one of 15680 bytes, each with 22 bytes of overhead: 524288 in all.
  link.tls->Write(absl::Cord(std::string(31 * 16384 + 15679, 'x')));
  EXPECT_EQ(link.tls->write_buffer_size(), 524287u);
  EXPECT_THAT(link.protocol->events, Not(Contains("pause")));
  link.tls->Write(absl::Cord("x"));
  EXPECT_THAT(link.protocol->events, Contains("pause"));
}

// Rows: 3, 6
CO_TEST(TlsWaterMarkTest, WritingIsPausedWhenTheBufferHoldsJustTheHighMark) {
  RecordedTls link;
  co_await link.Start();
  link.tls->Write(absl::Cord(std::string(1 << 20, 'x')));
  link.tls->Write(absl::Cord(std::string(31 * 16384 + 15680, 'x')));
  EXPECT_EQ(link.tls->write_buffer_size(), 524288u);
  EXPECT_THAT(link.protocol->events, Contains("pause"));
}

// Rows: 6
CO_TEST(TlsWaterMarkTest, WritingGoesOnWhenTheStreamBelowHasTakenWhatWasLeft) {
  RecordedTls link;
  co_await link.Start();
  link.tls->Write(absl::Cord(std::string(1 << 20, 'x')));
  link.tls->Write(absl::Cord(std::string(1 << 20, 'x')));
  CO_ASSERT_THAT(link.protocol->events, Contains("pause"));
  for (int i = 0; i < 100; ++i) {
    link.wire->Receive(64 * 1024);
    co_await Idle();
  }
  EXPECT_THAT(link.protocol->events, Contains("resume"));
  EXPECT_EQ(link.tls->write_buffer_size(), 0u);
}

// Rows: 4, 6
CO_TEST(TlsWaterMarkTest, AMarkOfZeroPausesWithTheFirstByteThatStays) {
  RecordedTls link;
  co_await link.Start();
  link.tls->SetWriteBufferLimits(0, 0);
  link.tls->Write(absl::Cord(std::string(1 << 20, 'x')));
  EXPECT_THAT(link.protocol->events, Not(Contains("pause")));
  link.tls->Write(absl::Cord("x"));
  EXPECT_THAT(link.protocol->events, Contains("pause"));
}

// Rows: 3
CO_TEST(TlsWaterMarkTest, TheStreamBelowIsPausedAbove256KibibytesOfCiphertextUntil64) {
  HandPeer peer(TlsSide::kServer, {}, TlsVersion::kTls13, {.kernel_buffer = 4 << 20},
                {.limit = 1000});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Write(std::string(5000, 'x'));  // the reader has had enough
  co_await Idle();
  peer.Write(std::string(200 << 10, 'x'));
  co_await Idle();
  EXPECT_FALSE(peer.lower->reading_paused());
  peer.Write(std::string(200 << 10, 'x'));
  co_await Idle();
  EXPECT_TRUE(peer.lower->reading_paused());
  CO_ASSERT_OK(co_await peer.connection.reader.ReadExactly(5000));
  co_await Idle();
  // One turn decrypts 256 KiB, which leaves more than 64: it goes on in the next.
  CO_ASSERT_OK(co_await peer.connection.reader.ReadExactly(400 << 10));
  co_await Idle();
  EXPECT_FALSE(peer.lower->reading_paused());
  EXPECT_EQ(peer.connection.reader.buffered(), 0u);
}

// Rows: 218
CO_TEST(TlsStreamTest, WhileTheReaderIsOverItsLimitTheEndIsNotNoticedAndNothingIsLost) {
  HandPeer peer(TlsSide::kServer, {}, TlsVersion::kTls13, {}, {.limit = 1000});
  CO_ASSERT_TRUE(co_await peer.Establish());
  const std::string text = Pattern(60000);
  // A record of its own, after which the reader has had enough.
  peer.Write(text.substr(0, 3000));
  co_await Idle();
  peer.Write(text.substr(3000));
  peer.SendCloseNotify();
  peer.wire->Close();
  co_await Idle();
  EXPECT_EQ(peer.connection.reader.buffered(), 3000u);
  EXPECT_FALSE(peer.connection.writer.IsClosing());
  EXPECT_FALSE(peer.connection.reader.AtEof());
  EXPECT_THAT(co_await peer.connection.reader.ReadAll(), IsOkAndHolds(text));
  EXPECT_TRUE(peer.connection.writer.IsClosing());
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  EXPECT_FALSE(peer.connection.writer.tls_truncated());
}

// Rows: 131, 218
CO_TEST(TlsStreamTest, DataThatCameBeforeAResetIsReadableFirstThoughTheReaderWasFull) {
  HandPeer peer(TlsSide::kServer, {}, TlsVersion::kTls13, {}, {.limit = 1000});
  CO_ASSERT_TRUE(co_await peer.Establish());
  const std::string text = Pattern(60000);
  peer.Write(text.substr(0, 3000));
  co_await Idle();
  peer.Write(text.substr(3000));
  co_await Idle();
  peer.wire->Abort(/*reset=*/true, absl::OkStatus());
  co_await Idle();
  EXPECT_THAT(co_await peer.connection.reader.ReadExactly(text.size()), IsOkAndHolds(text));
  EXPECT_THAT(co_await peer.connection.reader.Read(1), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), HasErrno(ECONNRESET));
}

// Rows: 217
CO_TEST(TlsStreamTest, AResetIsTheSameErrorAsOnAPlainStream) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  auto read = CreateTask(peer.connection.reader.Read(1));
  co_await Idle();
  peer.wire->Abort(/*reset=*/true, absl::OkStatus());
  EXPECT_THAT(co_await read.Join(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), HasErrno(ECONNRESET));
}

// Rows: 217
CO_TEST(TlsStreamTest, ACorruptedRecordIsATlsErrorOfThePendingRead) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  auto read = CreateTask(peer.connection.reader.ReadExactly(100));
  peer.Write("good");
  absl::Cord plain("bad");
  CO_ASSERT_EQ(peer.engine->Write(&plain), EngineResult::kDone);
  std::string record(peer.engine->TakeCiphertext());
  record.back() ^= 1;
  peer.wire->Write(record);
  EXPECT_TRUE(IsTlsError((co_await read.Join()).status()));
  // asyncio: what had come is unreachable; here it is still there.
  EXPECT_THAT(co_await peer.connection.reader.Read(100), IsOkAndHolds("good"));
  EXPECT_TRUE(IsTlsError((co_await peer.connection.reader.Read(100)).status()));
  EXPECT_TRUE(IsTlsError(co_await peer.connection.writer.WaitClosed()));
}

// --- what has been flushed

CO_TEST(TlsStreamTest, FlushedCountsWholeRecords) {
  HandPeer peer(TlsSide::kServer, {}, TlsVersion::kTls13, {.kernel_buffer = 10000});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Take();
  EXPECT_THAT(peer.connection.writer.Write(std::string(40000, 'x')), IsOk());
  co_await Idle();
  EXPECT_EQ(peer.connection.writer.bytes_flushed(), 0u) << "the first record is not out yet";
  std::vector<uint64_t> steps = {0};
  std::size_t received = 0;
  for (int i = 0; i < 20; ++i) {
    received += peer.wire->Receive(10000).size();
    co_await Idle();
    const uint64_t flushed = peer.connection.writer.bytes_flushed();
    EXPECT_LE(flushed, received + 10000);
    if (flushed != steps.back()) steps.push_back(flushed);
  }
  EXPECT_EQ(steps, (std::vector<uint64_t>{0, 16384, 32768, 40000}));
}

// --- closing

// Rows: 188, 212, 215
CO_TEST(TlsStreamTest, CloseIsAnsweredAndEndsBothSidesCleanly) {
  TlsPair pair = MakeTlsPair();
  CO_ASSERT_OK(co_await pair.Establish());
  EXPECT_THAT(pair.client.writer.Write("last words"), IsOk());
  pair.client.writer.Close();
  EXPECT_TRUE(pair.client.writer.IsClosing());
  EXPECT_THAT(co_await pair.server.reader.ReadAll(), IsOkAndHolds("last words"));
  EXPECT_TRUE(pair.server.writer.IsClosing());
  EXPECT_THAT(co_await pair.client.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await pair.server.writer.WaitClosed(), IsOk());
  EXPECT_FALSE(pair.client.writer.tls_truncated());
  EXPECT_FALSE(pair.server.writer.tls_truncated());
  EXPECT_THAT(co_await pair.server.writer.Drain(), HasErrno(ECONNRESET));
}

// Rows: 209
CO_TEST(TlsStreamTest, CloseTwiceIsTheSameAsOnce) {
  TlsPair pair = MakeTlsPair();
  CO_ASSERT_OK(co_await pair.Establish());
  pair.client.writer.Close();
  pair.client.writer.Close();
  EXPECT_THAT(pair.client.writer.Write("dropped"), IsOk());
  EXPECT_THAT(co_await pair.client.writer.WaitClosed(), IsOk());
  pair.client.writer.Close();
  EXPECT_NE(pair.client.writer.tls_info(), nullptr);
}

// Rows: 177
CO_TEST(TlsStreamTest, WhatIsWrittenAfterCloseIsDropped) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  EXPECT_THAT(peer.connection.writer.Write("before"), IsOk());
  peer.connection.writer.Close();
  EXPECT_THAT(peer.connection.writer.Write("after"), IsOk());
  EXPECT_EQ(co_await peer.ReadAll(), "before");
  EXPECT_EQ(peer.last, EngineResult::kClosed);
}

// Rows: 212
CO_TEST(TlsStreamTest, ACloseNotifyIsAnsweredWithOurs) {
  for (const TlsVersion version : {TlsVersion::kTls12, TlsVersion::kTls13}) {
    HandPeer peer(TlsSide::kServer, {}, version);
    CO_ASSERT_TRUE(co_await peer.Establish());
    peer.SendCloseNotify();
    EXPECT_THAT(co_await peer.connection.reader.Read(1), IsOkAndHolds(""));
    EXPECT_TRUE(peer.connection.writer.IsClosing());
    EXPECT_EQ(co_await peer.ReadAll(), "");
    EXPECT_EQ(peer.last, EngineResult::kClosed);
    EXPECT_TRUE(peer.wire->peer_sent_eof());
    EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  }
}

// Rows: 213
CO_TEST(TlsStreamTest, TheBacklogIsSentBeforeTheAnswerToACloseNotify) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  const std::string first = Pattern(1 << 20);
  const std::string second = Pattern(700000);
  EXPECT_THAT(peer.connection.writer.Write(first), IsOk());
  EXPECT_THAT(peer.connection.writer.Write(second), IsOk());
  EXPECT_GT(peer.connection.writer.GetWriteBufferSize(), 0u);
  peer.SendCloseNotify();
  co_await Idle();
  EXPECT_TRUE(peer.connection.reader.AtEof());
  EXPECT_EQ(co_await peer.ReadAll(), first + second);
  EXPECT_EQ(peer.last, EngineResult::kClosed);
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 9, 215
CO_TEST(TlsStreamTest, AnUnansweredCloseTimesOutAfterHalfAMinute) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  auto read = CreateTask(peer.connection.reader.Read(1));
  co_await Idle();
  const absl::Time begin = GetRunningLoop()->Now();
  peer.connection.writer.Close();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), TimedOutIn("shutdown"));
  EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(30));
  EXPECT_THAT(co_await read.Join(), TimedOutIn("shutdown"));
  EXPECT_THAT(co_await peer.connection.writer.Drain(), TimedOutIn("shutdown"));
}

// Rows: 215
CO_TEST(TlsStreamTest, TheTimeOfTheShutdownCanBeSet) {
  HandPeer peer(TlsSide::kServer, {.shutdown_timeout = absl::Seconds(3)});
  CO_ASSERT_TRUE(co_await peer.Establish());
  const absl::Time begin = GetRunningLoop()->Now();
  peer.connection.writer.Close();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(),
              StatusIs(StatusCode::kDeadlineExceeded, HasSubstr("SSL shutdown timed out")));
  EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(3));
}

// Rows: 184, 215
CO_TEST(TlsStreamTest, ClosingWithABacklogThatThePeerDoesNotTakeTimesOutToo) {
  HandPeer peer(TlsSide::kServer, {.shutdown_timeout = absl::Seconds(3)});
  CO_ASSERT_TRUE(co_await peer.Establish());
  EXPECT_THAT(peer.connection.writer.Write(std::string(1 << 20, 'x')), IsOk());
  EXPECT_THAT(peer.connection.writer.Write(std::string(1 << 20, 'x')), IsOk());
  peer.connection.writer.Close();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), TimedOutIn("shutdown"));
}

// Rows: 215
CO_TEST(TlsStreamTest, APeerThatHangsUpInsteadOfAnsweringACloseIsACleanEnd) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.connection.writer.Close();
  co_await peer.Exchange();
  peer.wire->Close();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 214
CO_TEST(TlsStreamTest, AnEndWithoutCloseNotifyIsEofAndSaidToBeTruncated) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Write("all there was");
  peer.wire->Close();
  EXPECT_THAT(co_await peer.connection.reader.ReadAll(), IsOkAndHolds("all there was"));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  EXPECT_TRUE(peer.connection.writer.tls_truncated());
}

// Rows: 214
CO_TEST(TlsStreamTest, AnEndInTheMiddleOfARecordGivesNothingOfIt) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  absl::Cord plain("half a record");
  CO_ASSERT_EQ(peer.engine->Write(&plain), EngineResult::kDone);
  const absl::Cord record = peer.engine->TakeCiphertext();
  peer.wire->Write(record.Subcord(0, record.size() - 1));
  peer.wire->Close();
  EXPECT_THAT(co_await peer.connection.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_TRUE(peer.connection.writer.tls_truncated());
}

// Rows: 214
CO_TEST(TlsStreamTest, WhereCloseNotifyIsRequiredAnEndWithoutItIsAnErrorBehindTheData) {
  HandPeer peer(TlsSide::kServer, {.require_close_notify = true});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Write("all there was");
  peer.wire->Close();
  EXPECT_THAT(co_await peer.connection.reader.Read(100), IsOkAndHolds("all there was"));
  EXPECT_TRUE(IsTlsTruncated((co_await peer.connection.reader.Read(100)).status()));
  EXPECT_TRUE(IsTlsTruncated(co_await peer.connection.writer.WaitClosed()));
  EXPECT_TRUE(peer.connection.writer.tls_truncated());
}

// Rows: 214
CO_TEST(TlsStreamTest, WhereCloseNotifyIsRequiredAnEndWithItIsClean) {
  TlsPairOptions options;
  options.client.require_close_notify = options.server.require_close_notify = true;
  TlsPair pair = MakeTlsPair(options);
  CO_ASSERT_OK(co_await pair.Establish());
  pair.client.writer.Close();
  EXPECT_THAT(co_await pair.server.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(co_await pair.client.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await pair.server.writer.WaitClosed(), IsOk());
}

// Rows: 216
CO_TEST(TlsStreamTest, DataThatComesAfterOurCloseNotifyIsATlsError) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  auto read = CreateTask(peer.connection.reader.Read(1));
  co_await Idle();
  peer.connection.writer.Close();
  co_await Idle();
  peer.Write("too late");
  const absl::Status status = co_await peer.connection.writer.WaitClosed();
  EXPECT_TRUE(IsTlsError(status)) << status;
  EXPECT_THAT(status,
              StatusIs(StatusCode::kUnavailable, HasSubstr("application data after close notify")));
  EXPECT_EQ((co_await read.Join()).status(), status);
}

// Rows: 184, 216
CO_TEST(TlsStreamTest, DataThatCameBeforeOurCloseNotifyIsDroppedByClose) {
  HandPeer peer(TlsSide::kServer, {}, TlsVersion::kTls13, {}, {.limit = 100});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Write(std::string(1000, 'x'));
  peer.Write(std::string(50000, 'x'));
  co_await Idle();
  peer.connection.writer.Close();
  co_await Idle();
  peer.SendCloseNotify();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 191, 220
CO_TEST(TlsStreamTest, ClosingWithDiscardSendsNoCloseNotifyAndThePeerSeesAnEnd) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  auto read = CreateTask(peer.connection.reader.Read(1));
  co_await Idle();
  peer.connection.writer.Close(/*discard_pending=*/true);
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds(""));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  EXPECT_EQ(co_await peer.ReadAll(), "");
  EXPECT_EQ(peer.last, EngineResult::kWantInput) << "no close_notify";
  EXPECT_TRUE(peer.wire->peer_sent_eof());
  EXPECT_FALSE(peer.wire->peer_sent_reset());
}

// Rows: 191, 220
CO_TEST(TlsStreamTest, AbortResets) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.connection.writer.Abort();
  EXPECT_THAT(co_await peer.connection.reader.Read(1), IsOkAndHolds(""));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
  EXPECT_TRUE(peer.wire->peer_sent_reset());
}

// Rows: 220
CO_TEST(TlsStreamTest, NothingIsDeliveredAfterAbort) {
  HandPeer peer(TlsSide::kServer);
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.Write(std::string(1 << 16, 'x'));
  peer.connection.writer.Abort(absl::AbortedError("enough"));
  EXPECT_THAT(co_await peer.connection.reader.Read(1), StatusIs(StatusCode::kAborted));
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), StatusIs(StatusCode::kAborted));
}

// --- half-close

// Rows: 182
CO_TEST(TlsHalfCloseTest, IsNotOfferedByDefault) {
  TlsPair pair = MakeTlsPair();
  CO_ASSERT_OK(co_await pair.Establish());
  EXPECT_FALSE(pair.client.writer.CanWriteEof());
  EXPECT_THAT(pair.client.writer.WriteEof(), StatusIs(StatusCode::kUnimplemented));
  EXPECT_THAT(pair.client.writer.Write("goes on\n"), IsOk());
  EXPECT_THAT(co_await pair.server.reader.ReadLine(), IsOkAndHolds("goes on\n"));
}

// Rows: 182, 212
CO_TEST(TlsHalfCloseTest, IsNotOfferedByTls12) {
  TlsPairOptions options;
  options.client_context = MakeContext(At(TlsVersion::kTls12, ClientTlsOptions()));
  options.client.allow_half_close = true;
  TlsPair pair = MakeTlsPair(options);
  CO_ASSERT_OK(co_await pair.Establish());
  EXPECT_FALSE(pair.client.writer.CanWriteEof());
}

TlsPairOptions HalfClosable() {
  TlsPairOptions options;
  options.client.allow_half_close = options.server.allow_half_close = true;
  return options;
}

// Rows: 179, 180, 212
CO_TEST(TlsHalfCloseTest, WriteEofEndsOneDirectionAndTheOtherGoesOn) {
  TlsPair pair = MakeTlsPair(HalfClosable());
  CO_ASSERT_OK(co_await pair.Establish());
  CO_ASSERT_TRUE(pair.client.writer.CanWriteEof());
  EXPECT_THAT(pair.client.writer.Write("question"), IsOk());
  EXPECT_THAT(pair.client.writer.WriteEof(), IsOk());
  EXPECT_THAT(pair.client.writer.Write("more"), StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_THAT(co_await pair.server.reader.ReadAll(), IsOkAndHolds("question"));
  EXPECT_FALSE(pair.server.writer.IsClosing());
  const std::string answer = Pattern(1 << 20);
  EXPECT_THAT(pair.server.writer.Write(answer), IsOk());
  EXPECT_THAT(pair.server.writer.WriteEof(), IsOk());
  EXPECT_THAT(co_await pair.client.reader.ReadAll(), IsOkAndHolds(answer));
  EXPECT_FALSE(pair.client.writer.IsClosing());
  pair.client.writer.Close();
  pair.server.writer.Close();
  EXPECT_THAT(co_await pair.client.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await pair.server.writer.WaitClosed(), IsOk());
  EXPECT_FALSE(pair.client.writer.tls_truncated());
}

// Rows: 183, 212
CO_TEST(TlsHalfCloseTest, ThePeersEndOfTheSocketBehindItsCloseNotifyChangesNothing) {
  HandPeer peer(TlsSide::kServer, {.allow_half_close = true});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.SendCloseNotify();
  peer.wire->WriteEof();
  EXPECT_THAT(co_await peer.connection.reader.Read(1), IsOkAndHolds(""));
  EXPECT_FALSE(peer.connection.writer.IsClosing());
  EXPECT_THAT(peer.connection.writer.Write("still listening?"), IsOk());
  EXPECT_EQ(co_await peer.ReadAll(), "still listening?");
  peer.connection.writer.Close();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 214
CO_TEST(TlsHalfCloseTest, AnEndWithoutCloseNotifyEndsBothDirections) {
  HandPeer peer(TlsSide::kServer, {.allow_half_close = true});
  CO_ASSERT_TRUE(co_await peer.Establish());
  peer.wire->WriteEof();
  EXPECT_THAT(co_await peer.connection.reader.Read(1), IsOkAndHolds(""));
  EXPECT_TRUE(peer.connection.writer.IsClosing());
  EXPECT_TRUE(peer.connection.writer.tls_truncated());
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 216
CO_TEST(TlsHalfCloseTest, CloseAfterWriteEofDropsWhatStillComes) {
  HandPeer peer(TlsSide::kServer, {.allow_half_close = true});
  CO_ASSERT_TRUE(co_await peer.Establish());
  EXPECT_THAT(peer.connection.writer.WriteEof(), IsOk());
  peer.connection.writer.Close();
  co_await Idle();
  peer.Write("the peer was allowed to go on");
  co_await Idle();
  peer.SendCloseNotify();
  EXPECT_THAT(co_await peer.connection.writer.WaitClosed(), IsOk());
}

// Rows: 179
CO_TEST(TlsHalfCloseTest, WriteEofStandsBehindTheBacklog) {
  HandPeer peer(TlsSide::kServer, {.allow_half_close = true});
  CO_ASSERT_TRUE(co_await peer.Establish());
  const std::string first = Pattern(1 << 20);
  EXPECT_THAT(peer.connection.writer.Write(first), IsOk());
  EXPECT_THAT(peer.connection.writer.Write(first), IsOk());
  EXPECT_THAT(peer.connection.writer.WriteEof(), IsOk());
  EXPECT_EQ(co_await peer.ReadAll(), first + first);
  EXPECT_EQ(peer.last, EngineResult::kClosed);
}

// --- hostile peers

// OpenSSL as the server over a wire in memory.
class WiredOpenssl {
 public:
  explicit WiredOpenssl(const std::function<void(SSL_CTX*)>& configure)
      : peer(TlsSide::kServer, configure) {
    EventLoop* loop = GetRunningLoop();
    std::shared_ptr<MemoryStream> lower;
    std::tie(lower, wire) = MakeMemoryStreams(loop);
    tls = ClientTlsOver(lower);
    connection = MakeConnection(loop, tls).value();
  }
  Task<void> Establish() {
    for (int i = 0; i < 4; ++i) {
      co_await Idle();
      peer.Feed(wire->Receive(1 << 20));
      SSL_do_handshake(peer.ssl());
      wire->Write(peer.Take());
    }
    co_await Idle();
  }

  OpensslPeer peer;
  std::shared_ptr<MemoryStream> wire;
  std::shared_ptr<TlsStream> tls;
  Connection connection;
};

// Rows: 217
CO_TEST(TlsHostilePeerTest, WhoMakesUsAnswerAndTakesNoAnswersIsCutOff) {
  WiredOpenssl link([](SSL_CTX* ctx) { SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION); });
  co_await link.Establish();
  CO_ASSERT_NE(link.tls->tls_info(), nullptr);
  // Each HelloRequest is refused with an alert. The peer takes none of them.
  std::size_t most = 0;
  for (int i = 0; i < 20000 && !link.connection.writer.IsClosing(); ++i) {
    SSL_renegotiate(link.peer.ssl());
    SSL_do_handshake(link.peer.ssl());
    link.wire->Write(link.peer.Take());
    if (i % 100 == 0) co_await Idle();
    most = std::max(most, link.connection.writer.GetWriteBufferSize());
  }
  EXPECT_THAT(co_await link.connection.writer.WaitClosed(),
              StatusIs(StatusCode::kUnavailable, HasSubstr("takes none of the answers")));
  EXPECT_LE(most, 2 * TlsStream::kMaxUnreadAnswers);
}

// Rows: 217
CO_TEST(TlsHostilePeerTest, ATicketInPiecesHoldsUpWhatIsWrittenUntilItsRestComes) {
  WiredOpenssl link([](SSL_CTX* ctx) {
    SSL_CTX_set_max_send_fragment(ctx, 512);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_ticket_cb(
        ctx,
        [](SSL* ssl, void*) {
          const std::string filler(2000, 'x');
          return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), filler.data(),
                                                 filler.size());
        },
        nullptr, nullptr);
  });
  co_await link.Establish();
  CO_ASSERT_EQ(SSL_new_session_ticket(link.peer.ssl()), 1);
  CO_ASSERT_TRUE(link.peer.Write("x"));
  const absl::Cord sent = link.peer.Take();
  link.wire->Write(sent.Subcord(0, 1200));
  co_await Idle();
  EXPECT_THAT(link.connection.writer.Write("held up"), IsOk());
  EXPECT_EQ(link.connection.writer.GetWriteBufferSize(), 7u);
  link.connection.writer.Close();
  co_await Idle();
  link.wire->Write(sent.Subcord(1200, sent.size()));
  co_await Idle();
  link.peer.Feed(link.wire->Receive(1 << 20));
  EXPECT_EQ(link.peer.Read(), "held up");
  EXPECT_EQ(SSL_get_shutdown(link.peer.ssl()), SSL_RECEIVED_SHUTDOWN);
  SSL_shutdown(link.peer.ssl());
  link.wire->Write(link.peer.Take());
  EXPECT_THAT(co_await link.connection.writer.WaitClosed(), IsOk());
}

// --- TLS in TLS

// Rows: 234
CO_TEST(TlsStreamTest, WorksInsideAnother) {
  auto [client_wire, server_wire] = MakeMemoryStreams(GetRunningLoop());
  auto client_tls = ClientTlsOver(ClientTlsOver(client_wire));
  auto server_tls = ServerTlsOver(ServerTlsOver(server_wire));
  Connection client = MakeConnection(GetRunningLoop(), client_tls).value();
  Connection server = MakeConnection(GetRunningLoop(), server_tls).value();
  CO_ASSERT_OK(co_await TlsStream::WaitHandshake(client_tls));
  const std::string text = Pattern(3 << 20);
  auto echo = [](Connection* end, std::size_t size) -> Task<void> {
    absl::StatusOr<absl::Cord> data = co_await end->reader.ReadExactly(size);
    if (data.ok()) (void)end->writer.Write(*std::move(data));
  };
  auto echoing = CreateTask(echo(&server, text.size()));
  EXPECT_THAT(client.writer.Write(text), IsOk());
  EXPECT_THAT(co_await client.reader.ReadExactly(text.size()), IsOkAndHolds(text));
  co_await echoing.Join();
  client.writer.Close();
  EXPECT_THAT(co_await server.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(co_await client.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await server.writer.WaitClosed(), IsOk());
}

}  // namespace
}  // namespace sockbroker::streams
