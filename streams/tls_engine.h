// TlsEngine: TLS without sockets. Bytes go in, bytes come out, and somebody else (TlsStream) moves
// them.
//
//   engine.FeedCiphertext(from_network);
//   TlsEngine::Result result = engine.Handshake();     // kDone, kWantInput, ...
//   to_network.Append(engine.TakeCiphertext());        // after every call: reading writes too
//
// One connection's; not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "streams/tls_context.h"
#include "streams/tls_info.h"

struct bio_st;
struct ssl_st;

namespace sockbroker::streams {

class TlsEngine {
 public:
  enum class Result {
    kDone,       // what was asked is done
    kWantInput,  // more ciphertext is needed first
    kClosed,     // the peer sent close_notify: nothing more will be read
    kError,      // see error(); the connection is beyond use
  };

  // `server_hostname`, for a client: sent as SNI and checked against the certificate. An IP address
  // is checked but not sent; empty or none: neither (the chain is still verified). For a server it
  // is ignored.
  static absl::StatusOr<std::unique_ptr<TlsEngine>> Create(
      std::shared_ptr<const TlsContext> context, std::optional<std::string> server_hostname);
  ~TlsEngine();
  TlsEngine(const TlsEngine&) = delete;
  TlsEngine& operator=(const TlsEngine&) = delete;

  // What came from the peer.
  void FeedCiphertext(absl::Cord data);
  // Fed and not yet decrypted, bytes. (A part of a record may be inside OpenSSL besides.)
  std::size_t ciphertext_pending() const;
  // What must go to the peer.
  absl::Cord TakeCiphertext();

  Result Handshake();
  // Appends what can be decrypted to `plain`: kDone after about `max` bytes; else why there is no
  // more behind what it appended. Asked again, it says kClosed and kError again.
  Result Read(absl::Cord* plain, std::size_t max);
  // Encrypts `plain` and clears it. kWantInput: a message of the peer's handshake has come in part
  // (a ticket over several records, say); what is left in `plain` can follow once Read has had the
  // rest.
  Result Write(absl::Cord* plain);
  // How much of what was written lies wholly, in whole records, within the first `sent` bytes of
  // all ciphertext. `sent` must not go back: what lies below is forgotten.
  uint64_t PlaintextWithin(uint64_t sent);
  // Sends close_notify; reading goes on. kDone, or kWantInput as for Write.
  Result SendCloseNotify();
  // After SendCloseNotify: looks for the peer's. kDone when it has passed, kWantInput while it is
  // outstanding. Data that comes instead of it is an error, as in asyncio.
  Result Shutdown();

  // The first error: kUnavailable with IsTlsError, GetTlsVerifyFailure (error.h).
  const absl::Status& error() const { return error_; }
  // Filled when the handshake is done.
  const TlsInfo& info() const { return info_; }

 private:
  struct Io;  // the custom BIO's ends

  TlsEngine(std::shared_ptr<const TlsContext> context, ssl_st* ssl, std::unique_ptr<Io> io);
  Result Examine(int returned);
  void FillInfo();
  static void OnMessage(int write_p, int version, int content_type, const void* buffer,
                        std::size_t size, ssl_st* ssl, void* engine);

  const std::shared_ptr<const TlsContext> context_;
  ssl_st* const ssl_;
  const std::unique_ptr<Io> io_;
  absl::Status error_;
  TlsInfo info_;
  // Where a record of ours ends, in all ciphertext and in all plaintext.
  struct Record {
    uint64_t ciphertext_end;
    uint64_t plaintext_end;
  };
  std::deque<Record> records_;
  uint64_t written_ = 0;
  uint64_t within_ = 0;  // what PlaintextWithin last said
  // Key updates of the peer since it last sent data: a flood of them costs us work for nothing.
  int idle_key_updates_ = 0;
  bool flooded_ = false;
};

}  // namespace sockbroker::streams
