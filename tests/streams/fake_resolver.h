// FakeResolver: a loop's resolver that answers from a table, so that a test decides what a name
// resolves to, ports included.
//
//   FakeResolver* resolver = UseFakeResolver();
//   resolver->hosts["two.test"] = {refusing, listening};
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/resolver.h"
#include "streams/sleep.h"

namespace sockbroker::streams {

class FakeResolver final : public Resolver {
 public:
  // What a host resolves to, as it stands; a host that isn't here can't be resolved.
  std::map<std::string, std::vector<SocketAddress>> hosts;
  // What was asked, and how many look-ups were under way at once at most.
  std::vector<AddrInfoRequest> requests;
  int most_at_once = 0;

  Task<absl::StatusOr<std::vector<SocketAddress>>> GetAddrInfo(AddrInfoRequest request) override {
    requests.push_back(request);
    most_at_once = std::max(most_at_once, ++under_way_);
    for (int i = 0; i < 3; ++i) co_await Yield();
    under_way_--;
    const auto found = hosts.find(request.host.value_or(""));
    if (found == hosts.end()) co_return ResolveError(request.host.value_or(""), "not in the table");
    co_return found->second;
  }

 private:
  int under_way_ = 0;
};

// Makes a new one the running loop's, which owns it.
inline FakeResolver* UseFakeResolver() {
  auto resolver = std::make_unique<FakeResolver>();
  FakeResolver* raw = resolver.get();
  GetRunningLoop()->set_resolver(std::move(resolver));
  return raw;
}

}  // namespace sockbroker::streams
