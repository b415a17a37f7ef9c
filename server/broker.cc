#include "server/broker.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/broker_core.h"
#include "server/broker_service.h"
#include "server/connection_record.h"
#include "server/server_record.h"
#include "server/session_call.h"
#include "streams/run_coroutine_threadsafe.h"
#include "streams/sleep.h"
#include "streams/wait_for.h"

namespace sockbroker::server {
namespace {

using streams::Task;

constexpr absl::Duration kPurgeEvery = absl::Seconds(30);
// How long clients have to take the last frames of their sessions.
constexpr absl::Duration kSessionFarewell = absl::Seconds(2);

// So that the memory of old tombstones comes back though nothing new is closed.
Task<void> PurgeNowAndThen(BrokerCore* core) {
  while ((co_await streams::Sleep(kPurgeEvery)).ok()) {
    core->connections.PurgeExpired();
    core->servers.PurgeExpired();
  }
}

Task<absl::Status> WaitUntilGone(std::vector<std::shared_ptr<ConnectionRecord>> records) {
  for (const auto& record : records) {
    if (absl::Status status = co_await record->WaitGone(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

// One loop's part of a drain. True if nothing had to be reset.
Task<bool> DrainLoop(BrokerCore* core, streams::EventLoop* loop, absl::Duration timeout) {
  for (const auto& server : core->servers.Records()) {
    if (server->loop() == loop) server->Close("the broker is shutting down");
  }
  std::vector<std::shared_ptr<ConnectionRecord>> records;
  for (auto& record : core->connections.Records()) {
    if (record->loop() == loop) records.push_back(std::move(record));
  }
  for (const auto& record : records) record->Close(v1::BROKER_STOPPED);
  const absl::Status flushed = co_await streams::WaitFor(WaitUntilGone(records), timeout);
  if (flushed.ok()) co_return true;
  for (const auto& record : records) {
    if (record->state() == ConnectionRecord::State::kClosing) record->Abort(v1::BROKER_STOPPED);
  }
  (void)co_await WaitUntilGone(records);
  co_return false;
}

}  // namespace

struct Broker::Parts {
  explicit Parts(BrokerOptions options) : core(std::move(options)), service(&core) {}
  BrokerCore core;
  BrokerService service;
};

Broker::Broker(BrokerOptions options) : parts_(std::make_unique<Parts>(std::move(options))) {
  BrokerCore* const core = &parts_->core;
  core->loops.front()->Post([core] { core->loops.front()->Spawn(PurgeNowAndThen(core)); });
}

Broker::~Broker() { Drain(absl::ZeroDuration()); }

grpc::Service* Broker::service() { return &parts_->service; }

void Broker::AddOwnListener(const streams::SocketAddress& address) {
  parts_->core.own_listeners.Add(address);
}

void Broker::StopOpening() {
  BrokerCore& core = parts_->core;
  if (core.draining.exchange(true)) return;
  core.creations.CancelAll();
  for (const auto& server : core.servers.Records()) {
    server->loop()->Post([server] { server->FailAccepts(Draining()); });
  }
}

bool Broker::Drain(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  StopOpening();
  BrokerCore& core = parts_->core;
  for (const auto& session : core.sessions.All()) session->GoAway(timeout);
  std::vector<streams::ConcurrentFuture<bool>> parts;
  parts.reserve(core.loops.size());
  for (streams::EventLoop* loop : core.loops) {
    parts.push_back(streams::RunCoroutineThreadsafe(DrainLoop(&core, loop, timeout), loop));
  }
  bool clean = true;
  for (auto& part : parts) clean = part.Result().value_or(false) && clean;
  // What there was to say of the ends is said first.
  for (const auto& session : core.sessions.All()) session->End(Draining());
  core.sessions.WaitUntilEmpty(std::min(deadline - absl::Now(), kSessionFarewell));
  return clean;
}

std::size_t Broker::open_connections() const { return parts_->core.connections.open(); }
std::string Broker::id() const { return absl::StrFormat("%016x", parts_->core.identity.broker_id); }
uint64_t Broker::incarnation() const { return parts_->core.identity.incarnation; }
const std::vector<streams::EventLoop*>& Broker::loops() const { return parts_->core.loops; }

}  // namespace sockbroker::server
