#include "tests/streams/dns_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "streams/error.h"

namespace sockbroker::streams {
namespace {

constexpr std::size_t kHeaderSize = 12;

std::string Number16(uint32_t number) {
  return {static_cast<char>(number >> 8), static_cast<char>(number)};
}
std::string Number32(uint32_t number) { return Number16(number >> 16) + Number16(number); }
uint32_t ReadNumber16(const std::string& data, std::size_t at) {
  return static_cast<uint8_t>(data[at]) << 8 | static_cast<uint8_t>(data[at + 1]);
}

std::string RecordType(uint32_t type) {
  if (type == 1) return "A";
  if (type == 28) return "AAAA";
  return absl::StrCat("TYPE", type);
}

// A resource record for the question's name, which a pointer to offset 12 stands for.
std::string Record(uint32_t type, int family, const std::string& host) {
  char address[sizeof(in6_addr)];
  inet_pton(family, host.c_str(), address);
  const std::size_t size = family == AF_INET ? sizeof(in_addr) : sizeof(in6_addr);
  return absl::StrCat("\xc0\x0c", Number16(type), Number16(1), Number32(60),
                      Number16(static_cast<uint32_t>(size)), std::string(address, size));
}

}  // namespace

FakeDnsServer::~FakeDnsServer() {
  if (registration_ != nullptr) loop_->Deregister(udp_.get(), registration_);
}

Task<absl::Status> FakeDnsServer::Start() {
  loop_ = GetRunningLoop();
  // TCP chooses the port; that it is taken for UDP is unlikely, and then another is chosen.
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<Server> tcp = co_await StartServer(
        [this](StreamReader reader, StreamWriter writer) {
          return ServeTcp(this, std::move(reader), std::move(writer));
        },
        "127.0.0.1", 0);
    if (!tcp.ok()) co_return tcp.status();
    const SocketAddress address = tcp->sockets()[0];
    udp_ = Descriptor(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (bind(udp_.get(), address.data(), address.size()) == 0) {
      tcp_ = *std::move(tcp);
      break;
    }
    if (attempt == 10) co_return ErrnoToStatus(errno, "bind");
  }
  absl::StatusOr<internal::PollRegistration*> registration = loop_->Register(udp_.get(), this);
  if (!registration.ok()) co_return registration.status();
  registration_ = *registration;
  co_return absl::OkStatus();
}

std::string FakeDnsServer::address() const { return SocketAddress::OfLocal(udp_.get()).ToString(); }

void FakeDnsServer::OnPollEvents(uint32_t /*events*/) {
  while (true) {
    char buffer[1500];
    sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    const ssize_t received =
        recvfrom(udp_.get(), buffer, sizeof(buffer), 0, reinterpret_cast<sockaddr*>(&peer), &size);
    if (received < 0) return;
    const std::string reply =
        Reply(std::string(buffer, static_cast<std::size_t>(received)), /*tcp=*/false);
    if (reply.empty()) continue;
    (void)!sendto(udp_.get(), reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&peer),
                  size);
  }
}

std::string FakeDnsServer::Reply(const std::string& query, bool tcp) {
  std::string name;
  std::size_t at = kHeaderSize;
  while (at < query.size() && query[at] != 0) {
    const auto length = static_cast<std::size_t>(static_cast<uint8_t>(query[at]));
    if (!name.empty()) name += '.';
    name += query.substr(at + 1, length);
    at += 1 + length;
  }
  at += 1;
  if (at + 4 > query.size()) return "";
  const uint32_t type = ReadNumber16(query, at);
  const std::string question = query.substr(kHeaderSize, at + 4 - kHeaderSize);
  name = absl::AsciiStrToLower(name);
  queries.emplace_back(name, RecordType(type));
  if (tcp) tcp_queries++;

  Answer answer;
  answer.code = 3;
  if (const auto found = answers.find(name); found != answers.end()) answer = found->second;
  if (answer.silent) return "";
  std::string records;
  uint32_t count = 0;
  const bool truncate = answer.truncated && !tcp;
  const auto add = [&](uint32_t wanted, int family, const std::vector<std::string>& hosts) {
    if (type != wanted || truncate) return;
    for (const std::string& host : hosts) {
      records += Record(type, family, host);
      count++;
    }
  };
  add(1, AF_INET, answer.v4);
  add(28, AF_INET6, answer.v6);
  const uint32_t flags = 0x8180 | (truncate ? 0x0200 : 0) | static_cast<uint32_t>(answer.code);
  return absl::StrCat(query.substr(0, 2), Number16(flags), Number16(1), Number16(count),
                      Number32(0), question, records);
}

Task<void> FakeDnsServer::ServeTcp(FakeDnsServer* dns, StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> length = co_await reader.ReadExactly(2);
    if (!length.ok()) break;
    absl::StatusOr<absl::Cord> query =
        co_await reader.ReadExactly(ReadNumber16(std::string(*length), 0));
    if (!query.ok()) break;
    const std::string reply = dns->Reply(std::string(*query), /*tcp=*/true);
    if (reply.empty()) continue;
    // In one piece: length and message come with one event.
    writer.Write(Number16(static_cast<uint32_t>(reply.size())) + reply).IgnoreError();
    if (dns->closes_tcp) break;
  }
  writer.Close();
}

Resolver& UseDns(const FakeDnsServer& dns, CaresOptions options) {
  EventLoop* loop = GetRunningLoop();
  options.servers = {dns.address()};
  loop->set_resolver(MakeCaresResolver(loop, std::move(options)));
  return loop->resolver();
}

}  // namespace sockbroker::streams
