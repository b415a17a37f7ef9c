// BrokerAddress: where the broker listens, as people write it.
//
//   auto address = BrokerAddress::Parse("unix:/run/sockbroker/sockbroker.sock");
//   address->target();  // what a gRPC channel is made for
//   address->text();    // what messages call it
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/broker_tls.h"

namespace sockbroker::client {

class BrokerAddress {
 public:
  // "unix:PATH", an absolute PATH alone, "HOST:PORT", "[IPV6]:PORT". kInvalidArgument says what is
  // allowed.
  static absl::StatusOr<BrokerAddress> Parse(absl::string_view text);
  // Where sockbrokerd listens unless told otherwise: $XDG_RUNTIME_DIR/sockbroker/sockbroker.sock
  // (if the variable is not set, /run/user/UID/...), or for root /run/sockbroker/sockbroker.sock.
  static BrokerAddress Default();
  // `option` (may be empty), else $SOCKBROKER_ADDRESS, else Default().
  static absl::StatusOr<BrokerAddress> Choose(absl::string_view option);

  const std::string& text() const { return text_; }
  const std::string& target() const { return target_; }
  // What a channel to it speaks: TLS, or not.
  const BrokerTls& tls() const { return tls_; }
  // Of a Unix address it is ignored: the file's rights say who may use it.
  void set_tls(BrokerTls tls) {
    if (!is_unix()) tls_ = std::move(tls);
  }
  bool is_unix() const { return !unix_path_.empty(); }

  // For a Unix address: errno of a connect() to it, which tells for sure whether anybody listens
  // (ENOENT, ECONNREFUSED) without guessing from gRPC's words. 0 when somebody does, or the address
  // is not a Unix one.
  int ProbeErrno() const;

 private:
  BrokerAddress(std::string text, std::string target, std::string unix_path);

  std::string text_;
  std::string target_;
  std::string unix_path_;
  BrokerTls tls_;
};

}  // namespace sockbroker::client
