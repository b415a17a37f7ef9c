#include "server/broker_core.h"

#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/connection_record.h"
#include "server/server_record.h"
#include "server/session_call.h"

namespace sockbroker::server {
namespace {

// Labels can make a single tombstone or event some kilobytes large.
constexpr std::size_t kTombstoneBytes = 64 << 20;
constexpr std::size_t kEventBytes = 32 << 20;
constexpr absl::Duration kRevokeEvery = absl::Milliseconds(500);

MemoryBudgets::Limits MemoryLimits(const BrokerLimits& limits) {
  constexpr std::size_t kLeast = 256 << 20;
  std::size_t process = limits.buffer_memory;
  if (process == 0) {
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page = sysconf(_SC_PAGESIZE);
    process =
        pages > 0 && page > 0
            ? std::max(kLeast, static_cast<std::size_t>(pages) / 8 * static_cast<std::size_t>(page))
            : kLeast;
  }
  const std::size_t principal = limits.buffer_memory_per_principal;
  return {.process = process, .principal = principal != 0 ? principal : process / 2};
}

}  // namespace

BrokerCore::BrokerCore(BrokerOptions o)
    : options(std::move(o)),
      clock(options.clock != nullptr ? options.clock : streams::MonotonicClock()),
      identity(BrokerIdentity::Draw(options.broker_id_seed)),
      creations(clock, options.limits.tombstone_lifetime, options.limits.remembered_requests),
      connections(identity, clock,
                  {options.limits.tombstone_lifetime, options.limits.tombstones, kTombstoneBytes},
                  [this](const std::string& key) { creations.Forget(key); }),
      servers(identity, clock,
              {options.limits.tombstone_lifetime, options.limits.tombstones, kTombstoneBytes},
              [this](const std::string& key) { creations.Forget(key); }),
      events(identity.incarnation, options.limits.events, kEventBytes),
      tls(options.tls_store, options.tls_key_log),
      memory(MemoryLimits(options.limits), [this] { RevokeUnusedWindows(); }) {
  const int count = options.loops > 0
                        ? options.loops
                        : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 0; i < count; i++) {
    threads.push_back(std::make_unique<streams::LoopThread>(absl::StrCat("loop-", i), clock));
    loops.push_back(threads.back()->loop());
    // gRPC's threads then do themselves what a call asks of a loop that has nothing else to do.
    loops.back()->EnableDispatch();
  }
}

void BrokerCore::RevokeUnusedWindows() {
  // Those who are short ask again and again; the answers take a round trip.
  const int64_t now = absl::ToUnixMillis(clock->Now());
  int64_t last = windows_revoked_ms.load(std::memory_order_relaxed);
  if (now - last < absl::ToInt64Milliseconds(kRevokeEvery) ||
      !windows_revoked_ms.compare_exchange_strong(last, now, std::memory_order_relaxed)) {
    return;
  }
  for (const auto& session : sessions.All()) session->RevokeUnusedWindows();
}

RpcStatus BrokerCore::AcquireDescriptors(std::size_t count,
                                         std::vector<DescriptorBudget::Hold>* holds) {
  if (options.descriptors == nullptr) {
    holds->resize(holds->size() + count);
    return RpcStatus();
  }
  const std::size_t before = holds->size();
  for (std::size_t i = 0; i < count; i++) {
    std::optional<DescriptorBudget::Hold> hold = options.descriptors->Acquire();
    if (!hold.has_value()) {
      holds->resize(before);
      return Exhausted(v1::DESCRIPTOR_RESERVE, "descriptors", options.descriptors->capacity(),
                       absl::Seconds(1), "no descriptor to spare above the broker's reserve");
    }
    holds->push_back(*std::move(hold));
  }
  return RpcStatus();
}

}  // namespace sockbroker::server
