// The PROXY protocol, versions 1 and 2, of haproxy (proxy-protocol.txt): a header in front of the
// first byte of a connection that says whose connection it really is. Sans I/O: text in, text out.
//
//   std::string header = *EncodeProxyHeader(ProxyVersion::kV2, {.source = a, .destination = b});
//   ProxyHeaderParser parser;
//   if (parser.Feed(all_bytes_so_far) == ProxyHeaderParser::Result::kDone) Use(parser.header());
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "streams/address.h"

namespace sockbroker::server {

enum class ProxyVersion { kV1 = 1, kV2 = 2 };

struct ProxyHeader {
  // The ends of the original connection, both IPv4, both IPv6 or (v2 only) both Unix. Both unknown
  // (family() AF_UNSPEC): the header names none, use the socket's own (LOCAL, UNKNOWN).
  streams::SocketAddress source;
  streams::SocketAddress destination;
  // v2's LOCAL: the proxy speaks for itself, as in a health check.
  bool local = false;
};

// v1's longest line, its CR LF included, and v2's longest header.
inline constexpr std::size_t kProxyV1MaxSize = 107;
inline constexpr std::size_t kProxyV2MaxSize = 16 + 65535;

// The header's bytes. Without addresses: v1 "UNKNOWN", v2 LOCAL. An IPv4 end beside an IPv6 one is
// sent as its IPv4-mapped form. kInvalidArgument: only one end is known, an IPv6 zone (the protocol
// has none), a Unix end in v1 or beside one of IP.
absl::StatusOr<std::string> EncodeProxyHeader(ProxyVersion version, const ProxyHeader& header);

// Takes a header of either version, and nothing else: a connection that begins otherwise is kBad
// with its first wrong byte. Its answers do not depend on how the bytes were split.
class ProxyHeaderParser {
 public:
  enum class Result { kNeedMore, kDone, kBad };

  // `data`: everything received so far, from the first byte. After kDone or kBad the answer stays.
  Result Feed(absl::string_view data);

  // After kDone: how many bytes were the header (what follows is payload), its version, what it
  // says.
  std::size_t header_size() const { return header_size_; }
  ProxyVersion version() const { return version_; }
  const ProxyHeader& header() const { return header_; }
  // After kBad: kInvalidArgument, what was wrong.
  const absl::Status& error() const { return error_; }

 private:
  Result Bad(absl::string_view reason);
  Result FeedV1(absl::string_view data);
  Result ParseV1Line(absl::string_view line);
  Result FeedV2(absl::string_view data);

  Result result_ = Result::kNeedMore;
  ProxyVersion version_ = ProxyVersion::kV1;
  std::size_t header_size_ = 0;
  ProxyHeader header_;
  absl::Status error_;
};

}  // namespace sockbroker::server
