#include "server/proxy_protocol.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sockbroker::server {
namespace {

using streams::SocketAddress;

constexpr absl::string_view kV1Start = "PROXY ";
constexpr absl::string_view kV2Signature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr std::size_t kV2FixedSize = 16;

// Nibbles of v2's bytes 13 and 14.
constexpr uint8_t kVersion2 = 0x2;
constexpr uint8_t kLocal = 0x0;
constexpr uint8_t kProxy = 0x1;
constexpr uint8_t kInet = 0x1;
constexpr uint8_t kInet6 = 0x2;
constexpr uint8_t kUnix = 0x3;
constexpr uint8_t kStream = 0x1;
constexpr uint8_t kDatagram = 0x2;

// v2's address blocks: two addresses (and ports).
constexpr std::size_t kInetBlock = 12;
constexpr std::size_t kInet6Block = 36;
constexpr std::size_t kUnixPath = 108;

bool IsUnknown(const SocketAddress& address) { return address.family() == AF_UNSPEC; }

uint8_t ByteAt(absl::string_view data, std::size_t index) {
  return static_cast<uint8_t>(data[index]);
}

void AppendUint16(std::string* out, uint16_t value) {
  out->push_back(static_cast<char>(value >> 8));
  out->push_back(static_cast<char>(value & 0xff));
}

uint16_t Uint16At(absl::string_view data, std::size_t index) {
  return static_cast<uint16_t>(ByteAt(data, index) << 8 | ByteAt(data, index + 1));
}

// The address's 4 or 16 bytes in network order; an IPv4 address in 16 bytes is mapped
// (::ffff:0:0/96).
std::string IpBytes(const SocketAddress& address, bool as_inet6) {
  if (address.family() == AF_INET6) {
    const auto* inet6 = reinterpret_cast<const sockaddr_in6*>(address.data());
    return std::string(reinterpret_cast<const char*>(&inet6->sin6_addr), 16);
  }
  const auto* inet = reinterpret_cast<const sockaddr_in*>(address.data());
  const std::string bytes(reinterpret_cast<const char*>(&inet->sin_addr), 4);
  return as_inet6 ? std::string(10, '\0') + "\xff\xff" + bytes : bytes;
}

std::string IpText(const SocketAddress& address, bool as_inet6) {
  const std::string bytes = IpBytes(address, as_inet6);
  char text[INET6_ADDRSTRLEN];
  inet_ntop(as_inet6 ? AF_INET6 : AF_INET, bytes.data(), text, sizeof(text));
  return text;
}

bool HasZone(const SocketAddress& address) {
  return address.family() == AF_INET6 &&
         reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_scope_id != 0;
}

SocketAddress FromIpBytes(int family, absl::string_view bytes, uint16_t port) {
  if (family == AF_INET) {
    sockaddr_in inet = {};
    inet.sin_family = AF_INET;
    inet.sin_port = htons(port);
    std::memcpy(&inet.sin_addr, bytes.data(), sizeof(inet.sin_addr));
    return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&inet), sizeof(inet));
  }
  sockaddr_in6 inet6 = {};
  inet6.sin6_family = AF_INET6;
  inet6.sin6_port = htons(port);
  std::memcpy(&inet6.sin6_addr, bytes.data(), sizeof(inet6.sin6_addr));
  return SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(&inet6), sizeof(inet6));
}

// A field of 108 bytes, as sun_path is: a path ends at its first NUL, an abstract name (leading
// NUL) at the last byte that is not one.
SocketAddress FromUnixField(absl::string_view field) {
  std::size_t size;
  if (field[0] == '\0') {
    const std::size_t last = field.find_last_not_of('\0');
    size = last == absl::string_view::npos ? 0 : last + 1;
  } else {
    size = std::min(field.find('\0'), field.size());  // a path may fill the field
  }
  sockaddr_un local = {};
  local.sun_family = AF_UNIX;
  std::memcpy(local.sun_path, field.data(), size);
  return SocketAddress::FromSockaddr(
      reinterpret_cast<const sockaddr*>(&local),
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size));
}

std::string UnixField(const SocketAddress& address) {
  std::string path = address.unix_path();
  path.resize(kUnixPath, '\0');
  return path;
}

std::string EncodeV1(const ProxyHeader& header) {
  if (header.local || IsUnknown(header.source)) return "PROXY UNKNOWN\r\n";
  const bool inet6 = header.source.family() == AF_INET6 || header.destination.family() == AF_INET6;
  return absl::StrCat("PROXY ", inet6 ? "TCP6 " : "TCP4 ", IpText(header.source, inet6), " ",
                      IpText(header.destination, inet6), " ", header.source.port(), " ",
                      header.destination.port(), "\r\n");
}

std::string EncodeV2(const ProxyHeader& header) {
  std::string out(kV2Signature);
  if (header.local || IsUnknown(header.source)) {
    out.push_back(static_cast<char>(kVersion2 << 4 | kLocal));
    out.push_back('\0');
    AppendUint16(&out, 0);
    return out;
  }
  out.push_back(static_cast<char>(kVersion2 << 4 | kProxy));
  if (header.source.is_unix()) {
    out.push_back(static_cast<char>(kUnix << 4 | kStream));
    AppendUint16(&out, 2 * kUnixPath);
    return absl::StrCat(out, UnixField(header.source), UnixField(header.destination));
  }
  const bool inet6 = header.source.family() == AF_INET6 || header.destination.family() == AF_INET6;
  out.push_back(static_cast<char>((inet6 ? kInet6 : kInet) << 4 | kStream));
  AppendUint16(&out, inet6 ? kInet6Block : kInetBlock);
  out += IpBytes(header.source, inet6);
  out += IpBytes(header.destination, inet6);
  AppendUint16(&out, header.source.port());
  AppendUint16(&out, header.destination.port());
  return out;
}

// A decimal number from 0 to 65535 without leading zeros.
std::optional<uint16_t> ParsePort(absl::string_view text) {
  if (text.empty() || text.size() > 5 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  uint32_t port = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    port = port * 10 + static_cast<uint32_t>(digit - '0');
  }
  if (port > 65535) return std::nullopt;
  return static_cast<uint16_t>(port);
}

// Exactly inet_pton's forms: no "127.1", no octal, no zone.
std::optional<std::string> ParseIp(int family, absl::string_view text) {
  // inet_pton would stop at a NUL and take what stands before it.
  if (absl::StrContains(text, '\0')) return std::nullopt;
  char bytes[sizeof(in6_addr)];
  if (inet_pton(family, std::string(text).c_str(), bytes) != 1) return std::nullopt;
  return std::string(bytes, family == AF_INET ? 4 : 16);
}

}  // namespace

absl::StatusOr<std::string> EncodeProxyHeader(ProxyVersion version, const ProxyHeader& header) {
  if (IsUnknown(header.source) != IsUnknown(header.destination)) {
    return absl::InvalidArgumentError("a PROXY header names both ends or none");
  }
  if (!header.local && !IsUnknown(header.source)) {
    if (header.source.is_unix() != header.destination.is_unix()) {
      return absl::InvalidArgumentError("a PROXY header can't have a Unix end beside one of IP");
    }
    if (version == ProxyVersion::kV1 && header.source.is_unix()) {
      return absl::InvalidArgumentError("the PROXY protocol's version 1 has no Unix addresses");
    }
    if (HasZone(header.source) || HasZone(header.destination)) {
      return absl::InvalidArgumentError("the PROXY protocol has no IPv6 zones");
    }
  }
  return version == ProxyVersion::kV1 ? EncodeV1(header) : EncodeV2(header);
}

ProxyHeaderParser::Result ProxyHeaderParser::Bad(absl::string_view reason) {
  error_ = absl::InvalidArgumentError(absl::StrCat("bad PROXY header: ", reason));
  return Result::kBad;
}

ProxyHeaderParser::Result ProxyHeaderParser::Feed(absl::string_view data) {
  if (result_ != Result::kNeedMore || data.empty()) return result_;
  result_ = data[0] == kV2Signature[0] ? FeedV2(data) : FeedV1(data);
  return result_;
}

ProxyHeaderParser::Result ProxyHeaderParser::FeedV1(absl::string_view data) {
  const std::size_t known = std::min(data.size(), kV1Start.size());
  if (data.substr(0, known) != kV1Start.substr(0, known)) {
    return Bad("it begins neither with \"PROXY \" nor with the signature of version 2");
  }
  const std::size_t end = data.substr(0, kProxyV1MaxSize).find('\r');
  if (end == absl::string_view::npos) {
    if (data.size() >= kProxyV1MaxSize) return Bad("its line is longer than 107 bytes");
    return Result::kNeedMore;
  }
  if (end + 2 > kProxyV1MaxSize) return Bad("its line is longer than 107 bytes");
  if (data.size() < end + 2) return Result::kNeedMore;
  if (data[end + 1] != '\n') return Bad("a carriage return without a line feed");
  version_ = ProxyVersion::kV1;
  header_size_ = end + 2;
  return ParseV1Line(data.substr(kV1Start.size(), end - kV1Start.size()));
}

ProxyHeaderParser::Result ProxyHeaderParser::ParseV1Line(absl::string_view line) {
  // Whatever follows UNKNOWN is to be ignored.
  if (line == "UNKNOWN" || absl::StartsWith(line, "UNKNOWN ")) return Result::kDone;
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words[0] != "TCP4" && words[0] != "TCP6") return Bad("neither TCP4, TCP6 nor UNKNOWN");
  if (words.size() != 5) return Bad("not two addresses and two ports, one space before each");
  const int family = words[0] == "TCP4" ? AF_INET : AF_INET6;
  const std::optional<std::string> source = ParseIp(family, words[1]);
  const std::optional<std::string> destination = ParseIp(family, words[2]);
  if (!source || !destination) return Bad(absl::StrCat("not an address of ", words[0]));
  const std::optional<uint16_t> source_port = ParsePort(words[3]);
  const std::optional<uint16_t> destination_port = ParsePort(words[4]);
  if (!source_port || !destination_port) return Bad("not a port from 0 to 65535");
  header_.source = FromIpBytes(family, *source, *source_port);
  header_.destination = FromIpBytes(family, *destination, *destination_port);
  return Result::kDone;
}

ProxyHeaderParser::Result ProxyHeaderParser::FeedV2(absl::string_view data) {
  const std::size_t known = std::min(data.size(), kV2Signature.size());
  if (data.substr(0, known) != kV2Signature.substr(0, known)) {
    return Bad("it begins neither with \"PROXY \" nor with the signature of version 2");
  }
  // Each byte is judged as soon as it is there, so that the verdict falls at the same byte however
  // the header was split.
  if (data.size() < 13) return Result::kNeedMore;
  if (ByteAt(data, 12) >> 4 != kVersion2) return Bad("its version is not 2");
  const uint8_t command = ByteAt(data, 12) & 0xf;
  if (command != kLocal && command != kProxy) return Bad("its command is neither LOCAL nor PROXY");
  if (data.size() < 14) return Result::kNeedMore;
  const uint8_t family = ByteAt(data, 13) >> 4;
  const uint8_t transport = ByteAt(data, 13) & 0xf;
  // LOCAL: "discard the protocol block including the family which is ignored".
  if (command == kProxy && family > kUnix) return Bad("its address family is unknown");
  if (command == kProxy && transport > kDatagram) return Bad("its transport is unknown");
  if (data.size() < kV2FixedSize) return Result::kNeedMore;
  const std::size_t length = Uint16At(data, 14);
  // Addresses of what is not a stream say nothing about this connection; they are skipped like
  // TLVs.
  const bool addressed = command == kProxy && transport == kStream && family != 0;
  if (addressed) {
    const std::size_t block = family == kInet    ? kInetBlock
                              : family == kInet6 ? kInet6Block
                                                 : 2 * kUnixPath;
    if (length < block) return Bad("it is too short for its addresses");
  }
  if (data.size() < kV2FixedSize + length) return Result::kNeedMore;

  version_ = ProxyVersion::kV2;
  header_size_ = kV2FixedSize + length;
  header_.local = command == kLocal;
  if (!addressed) return Result::kDone;
  const absl::string_view block = data.substr(kV2FixedSize, length);
  if (family == kUnix) {
    header_.source = FromUnixField(block.substr(0, kUnixPath));
    header_.destination = FromUnixField(block.substr(kUnixPath, kUnixPath));
    return Result::kDone;
  }
  const int af = family == kInet ? AF_INET : AF_INET6;
  const std::size_t size = family == kInet ? 4 : 16;
  header_.source = FromIpBytes(af, block.substr(0, size), Uint16At(block, 2 * size));
  header_.destination = FromIpBytes(af, block.substr(size, size), Uint16At(block, 2 * size + 2));
  return Result::kDone;
}

}  // namespace sockbroker::server
