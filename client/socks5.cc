#include "client/socks5.h"

#include <arpa/inet.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/status.h"
#include "client/forward_spec.h"
#include "streams/error.h"

namespace sockbroker::client {
namespace {

constexpr uint8_t kVersion = 5;
constexpr uint8_t kNoAuthentication = 0;
constexpr uint8_t kNoAcceptableMethod = 0xff;
constexpr uint8_t kConnect = 1;
constexpr uint8_t kBind = 2;
constexpr uint8_t kUdpAssociate = 3;
constexpr uint8_t kIpv4 = 1;
constexpr uint8_t kName = 3;
constexpr uint8_t kIpv6 = 4;

uint8_t At(absl::string_view bytes, std::size_t index) {
  return static_cast<uint8_t>(bytes[index]);
}

std::string NumericHost(int family, absl::string_view address) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(family, address.data(), text, sizeof(text));
  return text;
}

// What somebody may have meant who speaks another protocol, by the first byte.
std::string StrangerText(uint8_t first) {
  if (first == 4) return "the client speaks SOCKS 4; this is SOCKS 5 (curl: --socks5-hostname)";
  if (first >= 'A' && first <= 'Z') {
    return "the client seems to speak HTTP; this is SOCKS 5 (as a proxy: socks5h://HOST:PORT)";
  }
  return absl::StrCat("the client does not speak SOCKS 5: its first byte is ", first);
}

}  // namespace

void Socks5Handshake::Want(State state, std::size_t bytes) {
  state_ = state;
  wanted_ = bytes;
}

std::string Socks5Handshake::Refuse(std::string reply, std::string error) {
  Want(State::kDone, 0);
  error_ = std::move(error);
  return reply;
}

std::string Socks5Handshake::Feed(absl::string_view bytes) {
  if (wanted_ == 0 || bytes.size() != wanted_) return "";
  switch (state_) {
    case State::kGreeting:
      if (At(bytes, 0) != kVersion) return Refuse("", StrangerText(At(bytes, 0)));
      if (At(bytes, 1) == 0) return OnMethods("");
      Want(State::kMethods, At(bytes, 1));
      return "";
    case State::kMethods:
      return OnMethods(bytes);
    case State::kRequest:
      return OnRequest(bytes);
    case State::kNameLength:
      // And the port behind it.
      Want(State::kAddress, std::size_t{At(bytes, 0)} + 2);
      return "";
    case State::kAddress:
      return OnAddress(bytes);
    case State::kDone:
      break;
  }
  return "";
}

std::string Socks5Handshake::OnMethods(absl::string_view methods) {
  if (methods.find(static_cast<char>(kNoAuthentication)) == absl::string_view::npos) {
    return Refuse({static_cast<char>(kVersion), static_cast<char>(kNoAcceptableMethod)},
                  "the client insists on authenticating itself; there is nothing to do it by");
  }
  Want(State::kRequest, 4);
  return {static_cast<char>(kVersion), static_cast<char>(kNoAuthentication)};
}

std::string Socks5Handshake::OnRequest(absl::string_view request) {
  if (At(request, 0) != kVersion) {
    return Refuse(Socks5Reply(Socks5Code::kGeneralFailure), "the request is not SOCKS 5");
  }
  if (const uint8_t command = At(request, 1); command != kConnect) {
    const std::string name = command == kBind           ? "BIND"
                             : command == kUdpAssociate ? "UDP ASSOCIATE"
                                                        : absl::StrCat("command ", command);
    return Refuse(Socks5Reply(Socks5Code::kCommandNotSupported),
                  absl::StrCat("the client asked for ", name, "; there is only CONNECT"));
  }
  address_type_ = At(request, 3);
  switch (address_type_) {
    case kIpv4:
      Want(State::kAddress, 4 + 2);
      return "";
    case kIpv6:
      Want(State::kAddress, 16 + 2);
      return "";
    case kName:
      Want(State::kNameLength, 1);
      return "";
    default:
      return Refuse(Socks5Reply(Socks5Code::kAddressTypeNotSupported),
                    absl::StrCat("the request has an address of type ", address_type_));
  }
}

std::string Socks5Handshake::OnAddress(absl::string_view address) {
  const absl::string_view host = address.substr(0, address.size() - 2);
  port_ = static_cast<uint16_t>(At(address, host.size()) << 8 | At(address, host.size() + 1));
  host_ = address_type_ == kIpv4   ? NumericHost(AF_INET, host)
          : address_type_ == kIpv6 ? NumericHost(AF_INET6, host)
                                   : std::string(host);
  if (!IsPlausibleHost(host_) || port_ == 0) {
    return Refuse(
        Socks5Reply(Socks5Code::kGeneralFailure),
        port_ == 0 ? "port 0 can't be connected to" : "the request has a name that can't be one");
  }
  Want(State::kDone, 0);
  return "";
}

std::string Socks5Reply(Socks5Code code, const streams::SocketAddress& bound) {
  std::string reply = {static_cast<char>(kVersion), static_cast<char>(code), 0};
  if (bound.family() == AF_INET6) {
    sockaddr_in6 address{};
    std::memcpy(&address, bound.data(), sizeof(address));
    reply += static_cast<char>(kIpv6);
    reply.append(reinterpret_cast<const char*>(&address.sin6_addr), sizeof(address.sin6_addr));
  } else {
    sockaddr_in address{};
    if (bound.family() == AF_INET) std::memcpy(&address, bound.data(), sizeof(address));
    reply += static_cast<char>(kIpv4);
    reply.append(reinterpret_cast<const char*>(&address.sin_addr), sizeof(address.sin_addr));
  }
  reply += static_cast<char>(bound.port() >> 8);
  reply += static_cast<char>(bound.port() & 0xff);
  return reply;
}

Socks5Code Socks5CodeFor(const absl::Status& status) {
  if (status.ok()) return Socks5Code::kSucceeded;
  switch (GetReason(status)) {
    case v1::CONNECTION_REFUSED:
      return Socks5Code::kConnectionRefused;
    case v1::UNREACHABLE:
      return streams::GetErrno(status) == EHOSTUNREACH ? Socks5Code::kHostUnreachable
                                                       : Socks5Code::kNetworkUnreachable;
    case v1::NAME_NOT_FOUND:
      return Socks5Code::kHostUnreachable;
    case v1::TIMED_OUT:
      return Socks5Code::kTtlExpired;
    case v1::POLICY:
      return Socks5Code::kNotAllowed;
    default:
      return status.code() == absl::StatusCode::kPermissionDenied ? Socks5Code::kNotAllowed
                                                                  : Socks5Code::kGeneralFailure;
  }
}

}  // namespace sockbroker::client
