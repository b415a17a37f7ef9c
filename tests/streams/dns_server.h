// FakeDnsServer: a DNS server on the loopback interface and on the test's own loop, over UDP and
// TCP, that answers from a table and notes what it was asked.
//
//   FakeDnsServer dns;
//   CO_ASSERT_OK(co_await dns.Start());
//   dns.answers["a.test"].v4 = {"127.0.0.1"};
//   UseDns(dns);                              // the loop's resolver asks nobody else
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "streams/descriptor.h"
#include "streams/event_loop.h"
#include "streams/resolver.h"
#include "streams/server.h"

namespace sockbroker::streams {

class FakeDnsServer final : private internal::PollHandler {
 public:
  struct Answer {
    std::vector<std::string> v4;
    std::vector<std::string> v6;
    int code = 0;            // RCODE: 2 SERVFAIL, 3 NXDOMAIN
    bool truncated = false;  // over UDP: the answer is to be had over TCP
    bool silent = false;     // never answered
  };
  // By name, in lower case; a name that isn't here doesn't exist (NXDOMAIN).
  std::map<std::string, Answer> answers;
  // What was asked: name and record type ("A", "AAAA", "TYPE12").
  std::vector<std::pair<std::string, std::string>> queries;
  int tcp_queries = 0;
  // Whether a TCP connection ends behind its first answer.
  bool closes_tcp = false;

  FakeDnsServer() = default;
  ~FakeDnsServer();
  FakeDnsServer(const FakeDnsServer&) = delete;
  FakeDnsServer& operator=(const FakeDnsServer&) = delete;

  // On the running loop, at a port that is free for UDP and TCP.
  Task<absl::Status> Start();
  // "127.0.0.1:port".
  std::string address() const;

 private:
  void OnPollEvents(uint32_t events) override;
  // The reply to a query; empty: none.
  std::string Reply(const std::string& query, bool tcp);
  static Task<void> ServeTcp(FakeDnsServer* dns, StreamReader reader, StreamWriter writer);

  EventLoop* loop_ = nullptr;
  Descriptor udp_;
  internal::PollRegistration* registration_ = nullptr;
  Server tcp_;
};

// Makes a c-ares resolver that asks only `dns` the running loop's.
Resolver& UseDns(const FakeDnsServer& dns, CaresOptions options = {});

}  // namespace sockbroker::streams
