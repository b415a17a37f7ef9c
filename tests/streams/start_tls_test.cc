// StreamWriter::StartTls in virtual time: the upgrade of a plain connection, at an exact byte, as
// client and as server.
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/internal/openssl.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/memory_connection.h"
#include "streams/wait_for.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;
using ::testing::Not;

StartTlsOptions ToLocalhost(StartTlsOptions::Unread unread = StartTlsOptions::Unread::kRefuse) {
  StartTlsOptions options;
  options.server_hostname = "localhost";
  options.unread = unread;
  return options;
}

StartTlsOptions WithUnread(StartTlsOptions::Unread unread) {
  StartTlsOptions options;
  options.unread = unread;
  return options;
}

// Both sides at once; the first failure of the two.
Task<absl::Status> UpgradeBoth(MemoryConnections* link) {
  auto server = CreateTask(link->server.writer.StartTls(ServerContext()));
  absl::Status status = co_await link->client.writer.StartTls(ClientContext(), ToLocalhost());
  status.Update(co_await server.Join());
  co_return status;
}

MATCHER_P(TimedOutIn, phase, "timed out in the phase " + std::string(phase)) {
  const absl::Status& status = testing_internal::AsStatus(arg);
  *result_listener << "which is " << status;
  return status.code() == StatusCode::kDeadlineExceeded && GetTimeoutPhase(status) == phase;
}

// The ciphertext of a client that begins a handshake.
class HandClient {
 public:
  HandClient() { (void)engine_->Handshake(); }
  std::string Take() { return std::string(engine_->TakeCiphertext()); }
  void Feed(const absl::Cord& data) { engine_->FeedCiphertext(data); }
  bool Done() { return engine_->Handshake() == EngineResult::kDone; }
  TlsEngine& engine() { return *engine_; }

 private:
  std::unique_ptr<TlsEngine> engine_ = TlsEngine::Create(ClientContext(), "localhost").value();
};

// --- what it does

// Rows: 221
CO_TEST(StartTlsTest, UpgradesTheSameReaderAndWriterInPlace) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_THAT(link.client.writer.Write("STARTTLS\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("STARTTLS\n"));
  EXPECT_THAT(link.server.writer.Write("220 ready\n"), IsOk());
  EXPECT_THAT(co_await link.client.reader.ReadLine(), IsOkAndHolds("220 ready\n"));
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_THAT(link.client.writer.Write("secret\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("secret\n"));
  EXPECT_THAT(link.server.writer.Write("answer\n"), IsOk());
  EXPECT_THAT(co_await link.client.reader.ReadLine(), IsOkAndHolds("answer\n"));
}

// Rows: 206, 221
CO_TEST(StartTlsTest, ExtraInfoAndCanWriteEofChange) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_TRUE(link.client.writer.CanWriteEof());
  EXPECT_EQ(link.client.writer.tls_info(), nullptr);
  EXPECT_FALSE(link.client.writer.GetExtraInfo("ssl_object").has_value());
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_FALSE(link.client.writer.CanWriteEof());
  EXPECT_NE(link.client.writer.tls_info(), nullptr);
  EXPECT_TRUE(link.client.writer.GetExtraInfo("ssl_object").has_value());
}

// Rows: 222
CO_TEST(StartTlsTest, TheContextSaysWhichSideItIsWhoeverConnected) {
  MemoryConnections link = MakeMemoryConnections();
  auto accepted = CreateTask(link.server.writer.StartTls(ClientContext(), ToLocalhost()));
  CO_ASSERT_OK(co_await link.client.writer.StartTls(ServerContext()));
  CO_ASSERT_OK(co_await accepted.Join());
  EXPECT_EQ(link.client.writer.tls_info()->server_name, "localhost");
}

// Rows: 223
CO_TEST(StartTlsTest, UnusableArgumentsAreRefusedAndThePlainStreamStaysUsable) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_THAT(co_await link.client.writer.StartTls(nullptr),
              StatusIs(StatusCode::kInvalidArgument));
  for (const absl::Duration timeout : {absl::ZeroDuration(), -absl::Seconds(1)}) {
    StartTlsOptions options;
    options.stream.handshake_timeout = timeout;
    EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), options),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("positive")));
    options = {};
    options.stream.shutdown_timeout = timeout;
    EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), options),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("positive")));
  }
  StartTlsOptions dotted;
  dotted.server_hostname = ".localhost";
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), dotted),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(link.client.writer.Write("plain\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("plain\n"));
}

// Rows: 224
CO_TEST(StartTlsTest, WithoutAServerHostnameNoNameIsSentOrChecked) {
  MemoryConnections link = MakeMemoryConnections();
  const TestCertificate elsewhere = Authority().Issue({.dns_names = {"elsewhere.example"}});
  auto server = CreateTask(link.server.writer.StartTls(MakeContext(ServerTlsOptions(elsewhere))));
  CO_ASSERT_OK(co_await link.client.writer.StartTls(ClientContext()));
  CO_ASSERT_OK(co_await server.Join());
  EXPECT_EQ(link.server.writer.tls_info()->server_name, "");
}

// Rows: 224
CO_TEST(StartTlsTest, AServerIgnoresServerHostname) {
  MemoryConnections link = MakeMemoryConnections();
  auto server = CreateTask(link.server.writer.StartTls(ServerContext(), ToLocalhost()));
  CO_ASSERT_OK(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()));
  CO_ASSERT_OK(co_await server.Join());
}

// Rows: 225
CO_TEST(StartTlsTest, TheTimeOfTheShutdownCanBeSet) {
  MemoryPeer link = MakeMemoryPeer();
  StartTlsOptions options = ToLocalhost();
  options.stream.shutdown_timeout = absl::Seconds(2);
  auto upgrade = CreateTask(link.writer.StartTls(ClientContext(), options));
  auto engine = TlsEngine::Create(ServerContext(), std::nullopt).value();
  for (int i = 0; i < 4; ++i) {
    co_await Idle();
    engine->FeedCiphertext(link.peer->Receive(1 << 20));
    (void)engine->Handshake();
    link.peer->Write(engine->TakeCiphertext());
  }
  CO_ASSERT_OK(co_await upgrade.Join());
  const absl::Time begin = GetRunningLoop()->Now();
  link.writer.Close();
  EXPECT_THAT(co_await link.writer.WaitClosed(), TimedOutIn("shutdown"));
  EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(2));
}

// --- what was written before

// Rows: 226
CO_TEST(StartTlsTest, WhatWasWrittenBeforeGoesOutInFrontInClear) {
  MemoryPeer link = MakeMemoryPeer({}, {.kernel_buffer = 1000});
  const std::string plain(5000, 'p');
  EXPECT_THAT(link.writer.Write(plain), IsOk());
  EXPECT_GT(link.writer.GetWriteBufferSize(), 0u);
  auto upgrade = CreateTask(link.writer.StartTls(ClientContext(), ToLocalhost()));
  std::string received;
  for (int i = 0; i < 10; ++i) {
    co_await Idle();
    received += std::string(link.peer->Receive(1000));
  }
  EXPECT_EQ(received.substr(0, plain.size()), plain);
  CO_ASSERT_GT(received.size(), plain.size() + 5);
  EXPECT_EQ(received.substr(plain.size(), 2), "\x16\x03") << "a handshake record follows";
  link.writer.Abort();
  EXPECT_THAT(co_await upgrade.Join(), Not(IsOk()));
}

// Rows: 226
CO_TEST(StartTlsTest, WhatIsWrittenFromTheCallOnGoesOutProtectedHoweverMuchStandsBeforeIt) {
  MemoryConnections link = MakeMemoryConnections();
  const std::string plain(300000, 'p');
  EXPECT_THAT(link.client.writer.Write(plain), IsOk());
  auto client = CreateTask(link.client.writer.StartTls(ClientContext(), ToLocalhost()));
  co_await Yield();
  EXPECT_THAT(link.client.writer.Write("protected\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadExactly(plain.size()), IsOkAndHolds(plain));
  CO_ASSERT_OK(co_await link.server.writer.StartTls(
      ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
  CO_ASSERT_OK(co_await client.Join());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("protected\n"));
}

// Rows: 226
CO_TEST(StartTlsTest, ADrainThatWaitedBeforeGoesOnWhenThereIsRoom) {
  MemoryConnections link = MakeMemoryConnections();
  const std::string plain(300000, 'p');
  EXPECT_THAT(link.client.writer.Write(plain), IsOk());
  auto drain = CreateTask(link.client.writer.Drain());
  co_await Yield();
  co_await Yield();
  EXPECT_FALSE(drain.done());
  auto client = CreateTask(link.client.writer.StartTls(ClientContext(), ToLocalhost()));
  EXPECT_THAT(co_await link.server.reader.ReadExactly(plain.size()), IsOkAndHolds(plain));
  CO_ASSERT_OK(co_await link.server.writer.StartTls(
      ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
  CO_ASSERT_OK(co_await client.Join());
  EXPECT_THAT(co_await drain.Join(), IsOk());
  EXPECT_THAT(co_await WaitFor(link.client.writer.Drain(), absl::Seconds(1)), IsOk());
}

CO_TEST(StartTlsTest, OffsetsGoOnWhereThePlainStreamsStopped) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_THAT(link.client.writer.Write("STARTTLS\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("STARTTLS\n"));
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_EQ(link.client.writer.bytes_flushed(), 9u);
  EXPECT_EQ(link.server.reader.bytes_received(), 9u);
  EXPECT_THAT(link.client.writer.Write("secret\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("secret\n"));
  EXPECT_EQ(link.client.writer.bytes_flushed(), 16u);
  EXPECT_EQ(link.server.reader.bytes_received(), 16u);
}

// --- what was received before

// Rows: 227
CO_TEST(StartTlsTest, UnreadPlaintextIsRefusedAndStaysReadableInClear) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Write("220 ready\r\nEVIL\r\n");
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("220 ready\r\n"));
  EXPECT_THAT(co_await link.writer.StartTls(ClientContext(), ToLocalhost()),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("6 unread bytes")));
  EXPECT_EQ(link.writer.tls_info(), nullptr);
  EXPECT_EQ(link.peer->Receive(1000), "") << "nothing was sent";
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("EVIL\r\n"));
}

// Rows: 227, 228
CO_TEST(StartTlsTest, InjectedPlaintextBehindTheAnswerNeverAppearsInsideTheProtectedStream) {
  // The attacker's text in front of a real handshake, for a client and for a server; glued to the
  // answer or behind it.
  for (const bool as_client : {true, false}) {
    for (const bool glued : {true, false}) {
      MemoryPeer link = MakeMemoryPeer();
      link.peer->Write(glued ? "220 ready\r\nEVIL\r\n" : "220 ready\r\n");
      EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("220 ready\r\n"));
      // A read that waits already may not get it, nor one that begins when the upgrade has.
      std::optional<TaskHandle<absl::StatusOr<absl::Cord>>> reading;
      if (!glued) reading = CreateTask(link.reader.Read(100));
      auto upgrade =
          CreateTask(link.writer.StartTls(as_client ? ClientContext() : ServerContext(),
                                          WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
      if (glued) {
        reading = CreateTask(link.reader.Read(100));
      } else {
        co_await Yield();
        co_await Yield();
        link.peer->Write("EVIL\r\n");
      }
      const absl::Status status = co_await upgrade.Join();
      EXPECT_TRUE(IsTlsError(status)) << status << " client " << as_client << " glued " << glued;
      EXPECT_EQ((co_await reading->Join()).status(), status);
      EXPECT_EQ((co_await link.reader.Read(100)).status(), status);
      EXPECT_EQ(link.reader.bytes_received(), 11u);
    }
  }
}

// Rows: 227, 228
CO_TEST(StartTlsTest, PlaintextThatBelongsToTlsFailsTheHandshakeInBothRoles) {
  for (const bool as_client : {true, false}) {
    MemoryPeer link = MakeMemoryPeer();
    link.peer->Write("220 ready\r\nEVIL\r\n");
    EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("220 ready\r\n"));
    const absl::Status status =
        co_await link.writer.StartTls(as_client ? ClientContext() : ServerContext(),
                                      WithUnread(StartTlsOptions::Unread::kBelongsToTls));
    EXPECT_TRUE(IsTlsError(status)) << status;
    EXPECT_EQ((co_await link.reader.Read(100)).status(), status);
    EXPECT_EQ(link.reader.buffered(), 0u);
    EXPECT_EQ(link.reader.bytes_received(), 11u);
  }
}

// Rows: 228
CO_TEST(StartTlsTest, AClientHelloGluedBehindACommandShakesHands) {
  for (const absl::string_view command :
       {"STARTTLS\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n"}) {
    MemoryPeer link = MakeMemoryPeer();
    HandClient client;
    link.peer->Write(absl::StrCat(command, client.Take()));
    EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds(command));
    EXPECT_GT(link.reader.buffered(), 100u);
    auto upgrade = CreateTask(
        link.writer.StartTls(ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
    co_await Idle();
    client.Feed(link.peer->Receive(1 << 20));
    CO_ASSERT_TRUE(client.Done());
    absl::Cord secret("secret\n");
    CO_ASSERT_EQ(client.engine().Write(&secret), EngineResult::kDone);
    link.peer->Write(client.Take());
    CO_ASSERT_OK(co_await upgrade.Join());
    EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("secret\n"));
    EXPECT_EQ(link.reader.bytes_received(), command.size() + 7);
  }
}

// Rows: 228
CO_TEST(StartTlsTest, AClientHelloMayLieInTheBufferInPart) {
  MemoryPeer link = MakeMemoryPeer();
  HandClient client;
  const std::string hello = client.Take();
  link.peer->Write(absl::StrCat("STARTTLS\r\n", hello.substr(0, 50)));
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("STARTTLS\r\n"));
  auto upgrade = CreateTask(
      link.writer.StartTls(ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
  co_await Idle();
  link.peer->Write(hello.substr(50));
  co_await Idle();
  client.Feed(link.peer->Receive(1 << 20));
  CO_ASSERT_TRUE(client.Done());
  link.peer->Write(client.Take());
  CO_ASSERT_OK(co_await upgrade.Join());
}

// Rows: 228, 230
CO_TEST(StartTlsTest, AReaderThatWasOverItsLimitReadsOnThroughTls) {
  MemoryPeer link = MakeMemoryPeer({.limit = 20});
  HandClient client;
  link.peer->Write(absl::StrCat("STARTTLS\r\n", client.Take()));
  co_await Idle();
  EXPECT_TRUE(link.stream->reading_paused());
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("STARTTLS\r\n"));
  auto upgrade = CreateTask(
      link.writer.StartTls(ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
  co_await Idle();
  client.Feed(link.peer->Receive(1 << 20));
  CO_ASSERT_TRUE(client.Done());
  absl::Cord secret("secret\n");
  CO_ASSERT_EQ(client.engine().Write(&secret), EngineResult::kDone);
  link.peer->Write(client.Take());
  CO_ASSERT_OK(co_await upgrade.Join());
  EXPECT_THAT(co_await link.reader.ReadLine(), IsOkAndHolds("secret\n"));
}

// Rows: 229
CO_TEST(StartTlsTest, AReadThatWaitsGoesOnAndGetsDecryptedData) {
  MemoryConnections link = MakeMemoryConnections();
  auto read = CreateTask(link.client.reader.ReadLine());
  co_await Idle();
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_FALSE(read.done());
  EXPECT_THAT(link.server.writer.Write("secret\n"), IsOk());
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("secret\n"));
}

// --- what can't be upgraded

// Rows: 226
CO_TEST(StartTlsTest, OnAClosedConnectionIsConnectionLost) {
  MemoryConnections link = MakeMemoryConnections();
  link.client.writer.Close();
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()),
              HasErrno(ECONNRESET));
  CO_ASSERT_OK(co_await link.client.writer.WaitClosed());
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()),
              HasErrno(ECONNRESET));
}

// Rows: 226
CO_TEST(StartTlsTest, OnAConnectionThatWasResetIsItsError) {
  MemoryPeer link = MakeMemoryPeer();
  link.peer->Abort(/*reset=*/true, absl::OkStatus());
  EXPECT_THAT(co_await link.reader.Read(1), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.writer.StartTls(ClientContext(), ToLocalhost()), HasErrno(ECONNRESET));
}

// Rows: 233
CO_TEST(StartTlsTest, AfterWriteEofIsRefusedAtOnceAndTheOtherDirectionGoesOn) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_THAT(link.client.writer.WriteEof(), IsOk());
  auto read = CreateTask(link.client.reader.ReadLine());
  co_await Idle();
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("write_eof")));
  EXPECT_THAT(link.server.writer.Write("plain\n"), IsOk());
  EXPECT_THAT(co_await read.Join(), IsOkAndHolds("plain\n"));
}

// Rows: 233
CO_TEST(StartTlsTest, AfterThePeersEndIsRefusedAtOnce) {
  MemoryConnections link = MakeMemoryConnections();
  EXPECT_THAT(link.server.writer.WriteEof(), IsOk());
  co_await Idle();
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("ended its direction")));
  EXPECT_THAT(link.client.writer.Write("plain\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("plain\n"));
}

// Rows: 221
CO_TEST(StartTlsTest, ASecondWhileOneIsUnderWayIsRefusedAndHarmsNothing) {
  MemoryConnections link = MakeMemoryConnections();
  auto first = CreateTask(link.client.writer.StartTls(ClientContext(), ToLocalhost()));
  co_await Idle();
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), ToLocalhost()),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("under way")));
  CO_ASSERT_OK(co_await link.server.writer.StartTls(
      ServerContext(), WithUnread(StartTlsOptions::Unread::kBelongsToTls)));
  EXPECT_THAT(co_await first.Join(), IsOk());
}

// Rows: 234
CO_TEST(StartTlsTest, ASecondUpgradeIsTlsInTls) {
  MemoryConnections link = MakeMemoryConnections();
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_THAT(link.client.writer.Write("once\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("once\n"));
  CO_ASSERT_OK(co_await UpgradeBoth(&link));
  EXPECT_THAT(link.client.writer.Write("twice\n"), IsOk());
  EXPECT_THAT(co_await link.server.reader.ReadLine(), IsOkAndHolds("twice\n"));
  EXPECT_EQ(link.server.reader.bytes_received(), 11u);
  EXPECT_EQ(link.client.writer.bytes_flushed(), 11u);
  link.client.writer.Close();
  EXPECT_THAT(co_await link.server.reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(co_await link.client.writer.WaitClosed(), IsOk());
  EXPECT_THAT(co_await link.server.writer.WaitClosed(), IsOk());
  EXPECT_FALSE(link.client.writer.tls_truncated());
}

// --- failure

// Rows: 231
CO_TEST(StartTlsTest, AFailedVerificationIsTheErrorOfEveryWaiterAndClosesBothSides) {
  MemoryConnections link = MakeMemoryConnections();
  const TestCertificate elsewhere = Authority().Issue({.dns_names = {"elsewhere.example"}});
  auto server = CreateTask(link.server.writer.StartTls(MakeContext(ServerTlsOptions(elsewhere))));
  auto read = CreateTask(link.client.reader.Read(1));
  auto closed = CreateTask(link.client.writer.WaitClosed());
  const absl::Status status = co_await link.client.writer.StartTls(ClientContext(), ToLocalhost());
  CO_ASSERT_TRUE(GetTlsVerifyFailure(status).has_value()) << status;
  EXPECT_EQ(GetTlsVerifyFailure(status)->code, X509_V_ERR_HOSTNAME_MISMATCH);
  EXPECT_EQ((co_await read.Join()).status(), status);
  EXPECT_EQ(co_await closed.Join(), status);
  EXPECT_EQ(co_await link.client.writer.Drain(), status);
  EXPECT_THAT(co_await server.Join(), Not(IsOk()));
  EXPECT_THAT(co_await link.server.writer.WaitClosed(), Not(IsOk()));
}

// Rows: 232
CO_TEST(StartTlsTest, AHandshakeThatTakesTooLongTellsEveryWaiter) {
  MemoryConnections link = MakeMemoryConnections();
  StartTlsOptions options = ToLocalhost();
  options.stream.handshake_timeout = absl::Seconds(5);
  auto read = CreateTask(link.client.reader.Read(1));
  auto closed = CreateTask(link.client.writer.WaitClosed());
  const absl::Time begin = GetRunningLoop()->Now();
  EXPECT_THAT(co_await link.client.writer.StartTls(ClientContext(), options),
              TimedOutIn("handshake"));
  EXPECT_EQ(GetRunningLoop()->Now() - begin, absl::Seconds(5));
  EXPECT_THAT(co_await read.Join(), TimedOutIn("handshake"));
  EXPECT_THAT(co_await closed.Join(), TimedOutIn("handshake"));
}

// Rows: 232
CO_TEST(StartTlsTest, ACancelledHandshakeTellsEveryWaiter) {
  MemoryConnections link = MakeMemoryConnections();
  auto read = CreateTask(link.client.reader.Read(1));
  auto closed = CreateTask(link.client.writer.WaitClosed());
  EXPECT_THAT(co_await WaitFor(link.client.writer.StartTls(ClientContext(), ToLocalhost()),
                               absl::Seconds(1)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_THAT(co_await read.Join(), HasErrno(ECONNABORTED));
  EXPECT_THAT(co_await closed.Join(), HasErrno(ECONNABORTED));
  EXPECT_TRUE(link.client.writer.IsClosing());
}

// Rows: 219
CO_TEST(StartTlsTest, CloseDuringTheHandshakeEndsIt) {
  MemoryConnections link = MakeMemoryConnections();
  auto upgrade = CreateTask(link.client.writer.StartTls(ClientContext(), ToLocalhost()));
  co_await Idle();
  link.client.writer.Close();
  EXPECT_THAT(co_await upgrade.Join(), HasErrno(ECONNABORTED));
  EXPECT_THAT(co_await link.client.writer.WaitClosed(), IsOk());
}

// Rows: 210, 231
CO_TEST(StartTlsTest, APeerThatHangsUpDuringTheHandshakeIsAReset) {
  MemoryPeer link = MakeMemoryPeer();
  auto upgrade = CreateTask(link.writer.StartTls(ClientContext(), ToLocalhost()));
  co_await Idle();
  link.peer->Receive(1 << 20);
  link.peer->Close();
  EXPECT_THAT(co_await upgrade.Join(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.reader.Read(1), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await link.writer.WaitClosed(), HasErrno(ECONNRESET));
}

}  // namespace
}  // namespace sockbroker::streams
