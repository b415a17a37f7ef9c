// TlsEngine without sockets: two of them, or one and OpenSSL itself, joined by hand.
#include "streams/tls_engine.h"

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/error.h"
#include "streams/testing/status_matchers.h"
#include "tests/streams/openssl_peer.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;
using Result = TlsEngine::Result;

class TlsEngineOfVersionTest : public ::testing::TestWithParam<TlsVersion> {
 protected:
  EngineLink link_{MakeContext(At(GetParam(), ClientTlsOptions())),
                   MakeContext(At(GetParam(), ServerTlsOptions()))};
};

INSTANTIATE_TEST_SUITE_P(Versions, TlsEngineOfVersionTest,
                         ::testing::Values(TlsVersion::kTls12, TlsVersion::kTls13),
                         [](const auto& version) {
                           return version.param == TlsVersion::kTls12 ? "Tls12" : "Tls13";
                         });

// --- the handshake

// Rows: 204
TEST_P(TlsEngineOfVersionTest, ShakesHandsAndSaysWhatWasAgreed) {
  ASSERT_TRUE(link_.Establish());
  const bool old = GetParam() == TlsVersion::kTls12;
  for (const TlsEngine* engine : {link_.client.get(), link_.server.get()}) {
    EXPECT_EQ(engine->info().version, old ? "TLSv1.2" : "TLSv1.3");
    EXPECT_FALSE(engine->info().cipher.empty());
    EXPECT_GE(engine->info().cipher_bits, 128);
    EXPECT_EQ(engine->info().server_name, "localhost");
    EXPECT_FALSE(engine->info().resumed);
    EXPECT_EQ(engine->info().verify_code, 0);
  }
  EXPECT_EQ(link_.client->info().peer_certificates.size(), 1u);
  EXPECT_TRUE(link_.server->info().peer_certificates.empty());
}

// Rows: 204
TEST_P(TlsEngineOfVersionTest, DataGoesBothWays) {
  ASSERT_TRUE(link_.Establish());
  link_.Write(*link_.client, "ping");
  EXPECT_EQ(link_.ReadAll(*link_.server), "ping");
  link_.Write(*link_.server, "pong");
  EXPECT_EQ(link_.ReadAll(*link_.client), "pong");
  EXPECT_EQ(link_.last, Result::kWantInput);
}

// Gives everything to `to` in two parts, the first of `split` bytes, and calls `between` after
// each.
template <typename Between>
void FeedInTwo(TlsEngine& to, const absl::Cord& bytes, std::size_t split, const Between& between) {
  to.FeedCiphertext(bytes.Subcord(0, split));
  between();
  to.FeedCiphertext(bytes.Subcord(split, bytes.size()));
  between();
}

// Rows: 210
TEST_P(TlsEngineOfVersionTest, EachFlightOfTheHandshakeMayBeSplitAtEveryByte) {
  // The longest flight is the server's first; a prime step keeps the sanitizers' time short.
  bool whole = false;
  for (std::size_t split = 1; !whole; split += 7) {
    EngineLink link(MakeContext(At(GetParam(), ClientTlsOptions())),
                    MakeContext(At(GetParam(), ServerTlsOptions())));
    Result at_client = Result::kWantInput;
    Result at_server = Result::kWantInput;
    whole = true;
    const auto client = [&] {
      if (at_client != Result::kDone) at_client = link.client->Handshake();
    };
    const auto server = [&] {
      if (at_server != Result::kDone) at_server = link.server->Handshake();
    };
    client();
    for (int i = 0; i < 4; ++i) {
      const absl::Cord to_server = link.client->TakeCiphertext();
      FeedInTwo(*link.server, to_server, std::min(split, to_server.size()), server);
      const absl::Cord to_client = link.server->TakeCiphertext();
      FeedInTwo(*link.client, to_client, std::min(split, to_client.size()), client);
      if (split < std::max(to_server.size(), to_client.size())) whole = false;
    }
    ASSERT_EQ(at_client, Result::kDone) << "split at " << split;
    ASSERT_EQ(at_server, Result::kDone) << "split at " << split;
  }
}

// Rows: 210
TEST_P(TlsEngineOfVersionTest, TheHandshakeMayComeByteByByte) {
  Result at_client = link_.client->Handshake();
  Result at_server = Result::kWantInput;
  for (int i = 0; i < 4; ++i) {
    for (const char byte : std::string(link_.client->TakeCiphertext())) {
      link_.server->FeedCiphertext(absl::Cord(absl::string_view(&byte, 1)));
      if (at_server != Result::kDone) at_server = link_.server->Handshake();
    }
    for (const char byte : std::string(link_.server->TakeCiphertext())) {
      link_.client->FeedCiphertext(absl::Cord(absl::string_view(&byte, 1)));
      if (at_client != Result::kDone) at_client = link_.client->Handshake();
    }
  }
  EXPECT_EQ(at_client, Result::kDone);
  EXPECT_EQ(at_server, Result::kDone);
}

// Rows: 210
TEST(TlsEngineTest, PlainTextInsteadOfAServerHelloIsATlsError) {
  using std::string_literals::operator""s;
  for (const std::string& garbage :
       {"HTTP/1.1 400 Bad Request\r\n\r\n"s, "SSH-2.0-OpenSSH_9.2\r\n"s, "\x16\x03\x03\xff\xff"s,
        "\x16\x03\x03\x00\x08\x02\x00\x00\x04????"s}) {
    EngineLink link;
    EXPECT_EQ(link.client->Handshake(), Result::kWantInput);
    link.client->FeedCiphertext(absl::Cord(garbage));
    EXPECT_EQ(link.client->Handshake(), Result::kError) << garbage;
    EXPECT_TRUE(IsTlsError(link.client->error())) << link.client->error();
    EXPECT_THAT(link.client->error(), StatusIs(StatusCode::kUnavailable));
  }
}

// Rows: 210
TEST(TlsEngineTest, PlainTextInsteadOfAClientHelloIsATlsErrorAndAnsweredWithAnAlert) {
  EngineLink link;
  link.server->FeedCiphertext(absl::Cord("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  EXPECT_EQ(link.server->Handshake(), Result::kError);
  EXPECT_THAT(link.server->error(), StatusIs(StatusCode::kUnavailable, HasSubstr("http request")));
}

// Rows: 231
TEST(TlsEngineTest, AFailureOfTheHandshakeIsToldToThePeer) {
  EngineLink link(MakeContext({.side = TlsSide::kClient,
                               .ca_pem = TestAuthority("Another Root").certificate_pem()}),
                  MakeContext(At(TlsVersion::kTls12, ServerTlsOptions())));
  EXPECT_FALSE(link.Establish());
  EXPECT_TRUE(GetTlsVerifyFailure(link.client->error()).has_value()) << link.client->error();
  EXPECT_THAT(link.server->error(), StatusIs(StatusCode::kUnavailable, HasSubstr("unknown ca")));
}

// Rows: 210
TEST(TlsEngineTest, AnErrorStays) {
  EngineLink link;
  link.client->FeedCiphertext(absl::Cord("garbage garbage garbage"));
  EXPECT_EQ(link.client->Handshake(), Result::kError);
  const absl::Status first = link.client->error();
  absl::Cord plain("text");
  EXPECT_EQ(link.client->Handshake(), Result::kError);
  EXPECT_EQ(link.client->Read(&plain, 100), Result::kError);
  EXPECT_EQ(link.client->Write(&plain), Result::kError);
  EXPECT_EQ(link.client->SendCloseNotify(), Result::kError);
  EXPECT_EQ(link.client->Shutdown(), Result::kError);
  EXPECT_EQ(link.client->error(), first);
  EXPECT_EQ(plain, "text");
}

// --- records

// Rows: 217
TEST_P(TlsEngineOfVersionTest, ARecordMayBeSplitAtEveryByte) {
  ASSERT_TRUE(link_.Establish());
  link_.ReadAll(*link_.client);
  const std::string text(100, 'x');
  std::size_t size = 1;
  for (std::size_t split = 0; split <= size; ++split) {
    absl::Cord plain(text);
    ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
    const absl::Cord record = link_.server->TakeCiphertext();
    size = record.size();
    std::string received;
    FeedInTwo(*link_.client, record, split, [&] { received += link_.ReadAll(*link_.client); });
    ASSERT_EQ(received, text) << "split at " << split;
    ASSERT_EQ(link_.last, Result::kWantInput);
  }
}

// Rows: 217
TEST_P(TlsEngineOfVersionTest, SeveralRecordsInOneFeedAreReadInOneCall) {
  ASSERT_TRUE(link_.Establish());
  std::string expected;
  for (int i = 0; i < 100; ++i) {
    absl::Cord plain(absl::StrCat("record ", i, ";"));
    absl::StrAppend(&expected, "record ", i, ";");
    ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  }
  link_.Carry(*link_.server);
  absl::Cord plain;
  EXPECT_EQ(link_.client->Read(&plain, 64 * 1024), Result::kWantInput);
  EXPECT_EQ(plain, expected);
}

// Rows: 217
TEST_P(TlsEngineOfVersionTest, RecordsOfOneByteAreReadWhole) {
  ASSERT_TRUE(link_.Establish());
  std::string expected;
  for (int i = 0; i < 5000; ++i) {
    absl::Cord plain(std::string(1, static_cast<char>('a' + i % 26)));
    absl::StrAppend(&expected, std::string(plain));
    ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  }
  link_.Carry(*link_.server);
  EXPECT_EQ(link_.ReadAll(*link_.client), expected);
}

// Rows: 8
TEST_P(TlsEngineOfVersionTest, ReadStopsAtAboutTheMaximumAndGoesOnBehindIt) {
  ASSERT_TRUE(link_.Establish());
  std::string text;
  for (int i = 0; i < 100000; ++i) absl::StrAppend(&text, i, " ");
  link_.Write(*link_.server, text);
  absl::Cord first;
  EXPECT_EQ(link_.client->Read(&first, 1000), Result::kDone);
  EXPECT_GE(first.size(), 1000u);
  EXPECT_LE(first.size(), 128u * 1024);
  EXPECT_GT(link_.client->ciphertext_pending(), 0u);
  const std::string rest = link_.ReadAll(*link_.client);
  EXPECT_EQ(std::string(first) + rest, text);
  EXPECT_EQ(link_.client->ciphertext_pending(), 0u);
}

// Rows: 171
TEST_P(TlsEngineOfVersionTest, ManySmallPiecesBecomeFullRecords) {
  ASSERT_TRUE(link_.Establish());
  std::string expected;
  for (int i = 0; i < 4000; ++i) absl::StrAppend(&expected, "piece ", i, "..............");
  const absl::Cord plain(expected);
  absl::Cord pieces;
  for (std::size_t at = 0; at < expected.size(); at += 37) {
    pieces.Append(plain.Subcord(at, std::min<std::size_t>(37, expected.size() - at)));
  }
  ASSERT_EQ(link_.client->Write(&pieces), Result::kDone);
  EXPECT_TRUE(pieces.empty());
  const absl::Cord ciphertext = link_.client->TakeCiphertext();
  // A record's overhead is below 50 bytes.
  EXPECT_LT(ciphertext.size(), expected.size() + 50 * (expected.size() / 16384 + 1));
  link_.server->FeedCiphertext(ciphertext);
  EXPECT_EQ(link_.ReadAll(*link_.server), expected);
}

// Rows: 217
TEST_P(TlsEngineOfVersionTest, AChangedByteIsATlsErrorBehindTheDataBeforeIt) {
  ASSERT_TRUE(link_.Establish());
  link_.ReadAll(*link_.client);
  link_.Write(*link_.server, "good");
  absl::Cord plain("bad");
  ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  std::string record(link_.server->TakeCiphertext());
  record.back() ^= 1;
  link_.client->FeedCiphertext(absl::Cord(record));
  EXPECT_EQ(link_.ReadAll(*link_.client), "good");
  EXPECT_EQ(link_.last, Result::kError);
  EXPECT_TRUE(IsTlsError(link_.client->error()));
  EXPECT_FALSE(GetTlsVerifyFailure(link_.client->error()).has_value());
}

// Rows: 217
TEST_P(TlsEngineOfVersionTest, AReplayedRecordIsATlsError) {
  ASSERT_TRUE(link_.Establish());
  link_.ReadAll(*link_.client);
  absl::Cord plain("once");
  ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  const absl::Cord record = link_.server->TakeCiphertext();
  link_.client->FeedCiphertext(record);
  link_.client->FeedCiphertext(record);
  EXPECT_EQ(link_.ReadAll(*link_.client), "once");
  EXPECT_EQ(link_.last, Result::kError);
}

// Rows: 214
TEST_P(TlsEngineOfVersionTest, HalfARecordGivesNothing) {
  ASSERT_TRUE(link_.Establish());
  link_.ReadAll(*link_.client);
  absl::Cord plain("secret");
  ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  const absl::Cord record = link_.server->TakeCiphertext();
  link_.client->FeedCiphertext(record.Subcord(0, record.size() - 1));
  EXPECT_EQ(link_.ReadAll(*link_.client), "");
  EXPECT_EQ(link_.last, Result::kWantInput);
}

TEST_P(TlsEngineOfVersionTest, WhatWasWrittenCountsAsSentRecordByRecord) {
  ASSERT_TRUE(link_.Establish());
  const uint64_t begin = [&] {
    // What the handshake produced was taken; the first byte of data tells how much that was.
    absl::Cord one("x");
    EXPECT_EQ(link_.client->Write(&one), Result::kDone);
    const std::size_t record = link_.client->TakeCiphertext().size();
    uint64_t sent = 0;
    while (link_.client->PlaintextWithin(sent) == 0) sent++;
    EXPECT_GT(sent, record);
    return sent;
  }();
  absl::Cord plain(std::string(40000, 'x'));  // two full records and one of 7232 bytes
  ASSERT_EQ(link_.client->Write(&plain), Result::kDone);
  const std::size_t produced = link_.client->TakeCiphertext().size();
  EXPECT_EQ(link_.client->PlaintextWithin(begin), 1u);
  EXPECT_EQ(link_.client->PlaintextWithin(begin + 16384), 1u);
  EXPECT_EQ(link_.client->PlaintextWithin(begin + 16500), 1u + 16384);
  EXPECT_EQ(link_.client->PlaintextWithin(begin + produced - 1), 1u + 32768);
  EXPECT_EQ(link_.client->PlaintextWithin(begin + produced), 1u + 40000);
}

// --- renegotiation, key updates, tickets

// Rows: 217
TEST(TlsEngineTest, RenegotiationByAClientIsRefusedAndTheConnectionGoesOn) {
  auto server = TlsEngine::Create(ServerContext(), std::nullopt).value();
  OpensslPeer peer(TlsSide::kClient,
                   [](SSL_CTX* ctx) { SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION); });
  ASSERT_TRUE(peer.ShakeHands(*server));
  ASSERT_EQ(SSL_renegotiate(peer.ssl()), 1);
  SSL_do_handshake(peer.ssl());
  server->FeedCiphertext(peer.Take());
  absl::Cord plain;
  EXPECT_EQ(server->Read(&plain, 1000), Result::kWantInput);
  const absl::Cord answer = server->TakeCiphertext();
  EXPECT_LT(answer.size(), 60u);  // an alert, no ServerHello
  peer.Feed(answer);
  EXPECT_LE(SSL_do_handshake(peer.ssl()), 0);  // "no renegotiation"
  absl::Cord more("still here");
  EXPECT_EQ(server->Write(&more), Result::kDone);
}

// Rows: 217
TEST(TlsEngineTest, RenegotiationByAServerIsRefusedAndTheConnectionGoesOn) {
  auto client = TlsEngine::Create(ClientContext(), "localhost").value();
  OpensslPeer peer(TlsSide::kServer,
                   [](SSL_CTX* ctx) { SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION); });
  ASSERT_TRUE(peer.ShakeHands(*client));
  ASSERT_EQ(SSL_renegotiate(peer.ssl()), 1);
  SSL_do_handshake(peer.ssl());  // a HelloRequest
  client->FeedCiphertext(peer.Take());
  absl::Cord plain;
  EXPECT_EQ(client->Read(&plain, 1000), Result::kWantInput);
  const absl::Cord answer = client->TakeCiphertext();
  EXPECT_GT(answer.size(), 0u);
  EXPECT_LT(answer.size(), 60u);  // an alert, no ClientHello
  absl::Cord more("still here");
  EXPECT_EQ(client->Write(&more), Result::kDone);
}

// Both roles of the engine against OpenSSL.
class TlsEngineAgainstOpensslTest : public ::testing::TestWithParam<TlsSide> {
 protected:
  void SetUp() override { ASSERT_TRUE(peer_.ShakeHands(*engine_)); }
  void UpdateKeys(int kind) {
    ASSERT_EQ(SSL_key_update(peer_.ssl(), kind), 1);
    ASSERT_EQ(SSL_do_handshake(peer_.ssl()), 1);
    engine_->FeedCiphertext(peer_.Take());
  }
  std::string ReadAll() {
    absl::Cord plain;
    while ((last_ = engine_->Read(&plain, 64 * 1024)) == Result::kDone) {
    }
    return std::string(plain);
  }

  std::unique_ptr<TlsEngine> engine_ =
      GetParam() == TlsSide::kClient ? TlsEngine::Create(ClientContext(), "localhost").value()
                                     : TlsEngine::Create(ServerContext(), std::nullopt).value();
  OpensslPeer peer_{GetParam() == TlsSide::kClient ? TlsSide::kServer : TlsSide::kClient};
  Result last_ = Result::kDone;
};

INSTANTIATE_TEST_SUITE_P(Sides, TlsEngineAgainstOpensslTest,
                         ::testing::Values(TlsSide::kClient, TlsSide::kServer),
                         [](const auto& side) {
                           return side.param == TlsSide::kClient ? "Client" : "Server";
                         });

// Rows: 217
TEST_P(TlsEngineAgainstOpensslTest, AKeyUpdateIsAnsweredWithTheNextDataWhichGoesOnBothWays) {
  ReadAll();
  peer_.Feed(engine_->TakeCiphertext());
  for (int i = 0; i < 200; ++i) {
    UpdateKeys(SSL_KEY_UPDATE_REQUESTED);
    ASSERT_TRUE(peer_.Write(absl::StrCat("message ", i)));
    engine_->FeedCiphertext(peer_.Take());
    ASSERT_EQ(ReadAll(), absl::StrCat("message ", i));
    absl::Cord plain(absl::StrCat("reply ", i));
    const std::size_t one_record = plain.size() + 5 + 1 + 16;
    ASSERT_EQ(engine_->Write(&plain), Result::kDone);
    const absl::Cord answer = engine_->TakeCiphertext();
    EXPECT_GT(answer.size(), one_record) << "a key update of ours stands before it";
    peer_.Feed(answer);
    ASSERT_EQ(peer_.Read(), absl::StrCat("reply ", i));
  }
}

// Rows: 217
TEST_P(TlsEngineAgainstOpensslTest, AFloodOfKeyUpdatesIsAnError) {
  ReadAll();
  (void)engine_->TakeCiphertext();
  for (int i = 0; i < 33; ++i) UpdateKeys(SSL_KEY_UPDATE_NOT_REQUESTED);
  EXPECT_EQ(ReadAll(), "");
  EXPECT_EQ(last_, Result::kError);
  EXPECT_THAT(engine_->error(),
              StatusIs(StatusCode::kUnavailable, HasSubstr("too many key updates")));
}

// Rows: 217
TEST_P(TlsEngineAgainstOpensslTest, AFloodOfKeyUpdatesInOneFeedIsNotWorkedThrough) {
  ReadAll();
  (void)engine_->TakeCiphertext();
  absl::Cord flood;
  for (int i = 0; i < 5000; ++i) {
    ASSERT_EQ(SSL_key_update(peer_.ssl(), SSL_KEY_UPDATE_REQUESTED), 1);
    ASSERT_EQ(SSL_do_handshake(peer_.ssl()), 1);
    flood.Append(peer_.Take());
  }
  engine_->FeedCiphertext(flood);
  ReadAll();
  EXPECT_EQ(last_, Result::kError);
  // An answer has less than 40 bytes, and no more were given than updates are allowed.
  EXPECT_LT(engine_->TakeCiphertext().size(), 34u * 40);
  EXPECT_EQ(engine_->ciphertext_pending(), 0u);
}

// Rows: 217
TEST(TlsEngineTest, ATicketInPiecesHoldsWritingUpAndLosesNothing) {
  auto client = TlsEngine::Create(ClientContext(), "localhost").value();
  // A ticket of more than 2000 bytes in records of at most 512.
  OpensslPeer peer(TlsSide::kServer, [](SSL_CTX* ctx) {
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
  ASSERT_TRUE(peer.ShakeHands(*client));
  ASSERT_EQ(SSL_new_session_ticket(peer.ssl()), 1);
  ASSERT_TRUE(peer.Write("data behind the ticket"));
  const absl::Cord sent = peer.Take();
  ASSERT_GT(sent.size(), 2000u);

  client->FeedCiphertext(sent.Subcord(0, 1200));
  absl::Cord received;
  EXPECT_EQ(client->Read(&received, 1000), Result::kWantInput);
  absl::Cord plain("held up");
  EXPECT_EQ(client->Write(&plain), Result::kWantInput);
  EXPECT_EQ(client->SendCloseNotify(), Result::kWantInput);
  EXPECT_EQ(plain, "held up");
  EXPECT_TRUE(client->error().ok());

  client->FeedCiphertext(sent.Subcord(1200, sent.size()));
  EXPECT_EQ(client->Read(&received, 1000), Result::kWantInput);
  EXPECT_EQ(received, "data behind the ticket");
  EXPECT_EQ(client->Write(&plain), Result::kDone);
  peer.Feed(client->TakeCiphertext());
  EXPECT_EQ(peer.Read(), "held up");
}

// --- the end

// Rows: 212
TEST_P(TlsEngineOfVersionTest, ACloseNotifyStandsBehindTheDataBeforeIt) {
  ASSERT_TRUE(link_.Establish());
  absl::Cord plain("last words");
  ASSERT_EQ(link_.server->Write(&plain), Result::kDone);
  ASSERT_EQ(link_.server->SendCloseNotify(), Result::kDone);
  link_.Carry(*link_.server);
  EXPECT_EQ(link_.ReadAll(*link_.client), "last words");
  EXPECT_EQ(link_.last, Result::kClosed);
  EXPECT_EQ(link_.ReadAll(*link_.client), "");
  EXPECT_EQ(link_.last, Result::kClosed) << "and is said again";
}

// Rows: 212
TEST_P(TlsEngineOfVersionTest, AfterTheirCloseNotifyWeMayStillWriteAndClose) {
  ASSERT_TRUE(link_.Establish());
  ASSERT_EQ(link_.server->SendCloseNotify(), Result::kDone);
  link_.Carry(*link_.server);
  link_.ReadAll(*link_.client);
  link_.Write(*link_.client, "answer");
  EXPECT_EQ(link_.last, Result::kDone);
  EXPECT_EQ(link_.client->SendCloseNotify(), Result::kDone);
  EXPECT_EQ(link_.client->Shutdown(), Result::kDone);
  link_.Carry(*link_.client);
  EXPECT_EQ(link_.ReadAll(*link_.server), "answer");
  EXPECT_EQ(link_.last, Result::kClosed);
}

// Rows: 215
TEST_P(TlsEngineOfVersionTest, ShutdownIsDoneWhenBothCloseNotifiesHavePassed) {
  ASSERT_TRUE(link_.Establish());
  EXPECT_EQ(link_.client->SendCloseNotify(), Result::kDone);
  EXPECT_EQ(link_.client->Shutdown(), Result::kWantInput);
  link_.Carry(*link_.client);
  EXPECT_EQ(link_.ReadAll(*link_.server), "");
  EXPECT_EQ(link_.last, Result::kClosed);
  EXPECT_EQ(link_.server->SendCloseNotify(), Result::kDone);
  EXPECT_EQ(link_.server->Shutdown(), Result::kDone);
  link_.Carry(*link_.server);
  EXPECT_EQ(link_.client->Shutdown(), Result::kDone);
}

// Rows: 215
TEST_P(TlsEngineOfVersionTest, CloseNotifyIsSentOnce) {
  ASSERT_TRUE(link_.Establish());
  link_.Carry(*link_.client);
  EXPECT_EQ(link_.client->SendCloseNotify(), Result::kDone);
  EXPECT_GT(link_.client->TakeCiphertext().size(), 0u);
  EXPECT_EQ(link_.client->SendCloseNotify(), Result::kDone);
  EXPECT_EQ(link_.client->Shutdown(), Result::kWantInput);
  EXPECT_EQ(link_.client->TakeCiphertext().size(), 0u);
}

// Rows: 216
TEST_P(TlsEngineOfVersionTest, DataInsteadOfTheirCloseNotifyIsAnError) {
  ASSERT_TRUE(link_.Establish());
  EXPECT_EQ(link_.client->SendCloseNotify(), Result::kDone);
  link_.Write(*link_.server, "too late");
  EXPECT_EQ(link_.client->Shutdown(), Result::kError);
  EXPECT_THAT(link_.client->error(),
              StatusIs(StatusCode::kUnavailable, HasSubstr("application data after close notify")));
}

// Rows: 212
TEST(TlsEngineTest, AfterOurCloseNotifyWeMayStillRead) {
  EngineLink link;
  ASSERT_TRUE(link.Establish());
  EXPECT_EQ(link.client->SendCloseNotify(), Result::kDone);
  link.Write(*link.server, "answer");
  EXPECT_EQ(link.ReadAll(*link.client), "answer");
  EXPECT_EQ(link.last, Result::kWantInput);
}

// --- names

// Rows: 20
TEST(TlsEngineTest, AnAddressIsCheckedAndNotSentAsServerName) {
  EngineLink link(ClientContext(), ServerContext(), "127.0.0.1");
  ASSERT_TRUE(link.Establish());
  EXPECT_EQ(link.server->info().server_name, "");
  EngineLink other(ClientContext(), ServerContext(), "127.0.0.2");
  EXPECT_FALSE(other.Establish());
  EXPECT_THAT(other.client->error(), StatusIs(StatusCode::kUnavailable, HasSubstr("IP address")));
}

// Rows: 21, 224
TEST(TlsEngineTest, WithoutANameNeitherIsOneSentNorChecked) {
  for (const auto& name : {std::optional<std::string>(), std::optional<std::string>("")}) {
    EngineLink link(ClientContext(), ServerContext(), name);
    ASSERT_TRUE(link.Establish());
    EXPECT_EQ(link.server->info().server_name, "");
  }
}

// Rows: 21
TEST(TlsEngineTest, WithoutANameTheChainIsStillVerified) {
  const TestAuthority other("Another Root");
  EngineLink link(MakeContext({.side = TlsSide::kClient, .ca_pem = other.certificate_pem()}),
                  ServerContext(), "");
  EXPECT_FALSE(link.Establish());
  EXPECT_TRUE(GetTlsVerifyFailure(link.client->error()).has_value());
}

// Rows: 20
TEST(TlsEngineTest, ANameThatOpensslWouldTakeForAPatternIsRefused) {
  for (const std::string& name :
       {std::string(".localhost"), std::string("local\0host", 10), std::string(300, 'x')}) {
    EXPECT_THAT(TlsEngine::Create(ClientContext(), name), StatusIs(StatusCode::kInvalidArgument));
  }
}

// Rows: 224
TEST(TlsEngineTest, AServerIgnoresTheName) {
  EXPECT_THAT(TlsEngine::Create(ServerContext(), "whatever"), IsOk());
}

}  // namespace
}  // namespace sockbroker::streams
