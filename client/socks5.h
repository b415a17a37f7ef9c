// Socks5Handshake: the server's side of SOCKS 5 (RFC 1928) up to the CONNECT request: bytes in,
// bytes out, no I/O.
//
//   Socks5Handshake handshake;
//   while (handshake.wanted() > 0) {
//     const std::string reply = handshake.Feed(ReadExactly(handshake.wanted()));
//     ... send `reply`, if any
//   }
//   if (handshake.failed()) ... the reply is out: close
//   ... else connect to handshake.host(), port(), and send what was said of that:
//   Socks5Reply(Socks5ReplyFor(status), local_address)
//
// Only "no authentication" and CONNECT; anything else is refused as the RFC says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "streams/address.h"

namespace sockbroker::client {

// RFC 1928, section 6.
enum class Socks5Code : uint8_t {
  kSucceeded = 0,
  kGeneralFailure = 1,
  kNotAllowed = 2,
  kNetworkUnreachable = 3,
  kHostUnreachable = 4,
  kConnectionRefused = 5,
  kTtlExpired = 6,
  kCommandNotSupported = 7,
  kAddressTypeNotSupported = 8,
};

class Socks5Handshake {
 public:
  // How many bytes Feed wants next, exactly; 0: it is over.
  std::size_t wanted() const { return wanted_; }
  // Gives what is to be sent back now. What the client sent behind the request stays the caller's.
  std::string Feed(absl::string_view bytes);

  // The client was refused; `error` says why, for people.
  bool failed() const { return !error_.empty(); }
  const std::string& error() const { return error_; }

  // Who is to be connected to, once it is over and has not failed: an address, or a name that is
  // still to be resolved. Printable ASCII.
  const std::string& host() const { return host_; }
  uint16_t port() const { return port_; }

 private:
  enum class State { kGreeting, kMethods, kRequest, kNameLength, kAddress, kDone };

  std::string OnMethods(absl::string_view methods);
  std::string OnRequest(absl::string_view request);
  std::string OnAddress(absl::string_view address);
  std::string Refuse(std::string reply, std::string error);
  void Want(State state, std::size_t bytes);

  State state_ = State::kGreeting;
  std::size_t wanted_ = 2;
  uint8_t address_type_ = 0;
  std::string host_;
  uint16_t port_ = 0;
  std::string error_;
};

// The answer to the request. `bound`: our end of the connection, if there is one.
std::string Socks5Reply(Socks5Code code, const streams::SocketAddress& bound = {});
// What the broker's word for why it could not connect is in SOCKS.
Socks5Code Socks5CodeFor(const absl::Status& status);

}  // namespace sockbroker::client
