#include "server/watch_call.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/connection_record.h"
#include "server/endpoint_codec.h"
#include "server/listing.h"
#include "streams/with_cancel.h"

namespace sockbroker::server {
namespace {

using streams::Task;

constexpr std::size_t kBatch = 256;

}  // namespace

grpc::ServerWriteReactor<v1::ConnectionEvent>* WatchCall::Start(
    BrokerCore* core, std::shared_ptr<const Principal> principal,
    const v1::WatchConnectionsRequest& request, const RpcStatus& checked) {
  std::shared_ptr<WatchCall> call(new WatchCall(core, core->NextLoop()));
  call->self_ = call;
  if (!checked.ok()) {
    call->Finish(checked.ToGrpc());
    return call.get();
  }
  call->request_ = request;
  call->filter_ = {
      .principal = principal->name, .labels = request.labels(), .server = request.server()};
  call->loop_->Dispatch([call] { call->loop_->Spawn(Run(call), call->cancel_.token().state()); });
  return call.get();
}

Task<void> WatchCall::Run(std::shared_ptr<WatchCall> self) {
  BrokerCore* const core = self->core_;
  const uint64_t subscription = core->events.Subscribe([weak = std::weak_ptr<WatchCall>(self)] {
    if (const auto watch = weak.lock()) watch->Wake();
  });
  const uint64_t head = core->events.head();
  uint64_t cursor = head;
  bool alive = true;
  if (!self->request_.has_after_sequence()) {
    alive = co_await self->SendExisting(head);
  } else if (self->request_.incarnation() != core->identity.incarnation) {
    alive = co_await self->SendMark(v1::ConnectionEvent::GAP, head);
  } else {
    cursor = self->request_.after_sequence();
  }
  bool synced = false;
  std::vector<EventLog::Event> events;
  while (alive) {
    // What is owed for the time before the watch began is sent first; SYNCED comes right behind it.
    if (!synced && cursor >= head) {
      synced = true;
      alive = co_await self->SendMark(v1::ConnectionEvent::SYNCED, cursor);
      continue;
    }
    events.clear();
    if (!core->events.Read(&cursor, self->filter_, synced ? kBatch : 1, &events)) {
      alive = co_await self->SendMark(v1::ConnectionEvent::GAP, cursor);
      continue;
    }
    for (const EventLog::Event& event : events) {
      if (alive) alive = co_await self->Send(event.get());
    }
    if (!events.empty() || cursor < core->events.head()) continue;
    if (!synced && cursor >= head) continue;
    if (!(co_await self->changed_.Wait()).ok()) break;
  }
  core->events.Unsubscribe(subscription);
  self->Finish(CallerGone().ToGrpc());
}

Task<bool> WatchCall::SendExisting(uint64_t up_to) {
  decltype(core_->connections)::Query query;
  query.principal = filter_.principal;
  query.labels = filter_.labels;
  query.server = filter_.server;
  uint64_t after = 0;
  while (true) {
    auto items = core_->connections.Scan(query, after, kBatch);
    if (items.empty()) co_return true;
    after = items.back().order;
    const std::vector<v1::Connection> connections = co_await SnapshotAll<v1::Connection>(
        std::move(items), [up_to](const ConnectionRecord& record) {
          // Opened since, or gone since: the live events tell.
          return record.opened_sequence() <= up_to && record.tombstone() == nullptr;
        });
    for (const v1::Connection& connection : connections) {
      if (connection.handle().empty()) continue;
      v1::ConnectionEvent event;
      event.set_kind(v1::ConnectionEvent::OPENED);
      event.set_incarnation(core_->identity.incarnation);
      *event.mutable_at() = connection.opened_at();
      *event.mutable_connection() = connection;
      event.set_existing(true);
      if (!co_await Send(&event)) co_return false;
    }
  }
}

Task<bool> WatchCall::SendMark(v1::ConnectionEvent::Kind kind, uint64_t sequence) {
  v1::ConnectionEvent event;
  event.set_kind(kind);
  event.set_sequence(sequence);
  event.set_incarnation(core_->identity.incarnation);
  *event.mutable_at() = ToProto(absl::Now());
  co_return co_await Send(&event);
}

Task<bool> WatchCall::Send(const v1::ConnectionEvent* event) {
  if (cancel_.cancelled() || !write_ok_) co_return false;
  writing_ = true;
  StartWrite(event);
  // Not cancelled itself: gRPC reads the event until OnWriteDone, which a cancellation hastens.
  while (writing_) {
    co_await streams::Shielded(
        [](WatchCall* call) -> Task<void> { (void)co_await call->changed_.Wait(); }(this));
  }
  co_return write_ok_ && !cancel_.cancelled();
}

// Any thread, for each event: one post at a time is enough.
void WatchCall::Wake() {
  if (wake_posted_.exchange(true)) return;
  loop_->Dispatch([self = shared_from_this()] {
    self->wake_posted_.store(false);
    self->changed_.WakeAll();
  });
}

void WatchCall::OnWriteDone(bool ok) {
  loop_->Dispatch([self = self_, ok] {
    self->writing_ = false;
    self->write_ok_ = ok;
    self->changed_.WakeAll();
  });
}

void WatchCall::OnCancel() {
  loop_->Dispatch([self = self_] { self->cancel_.Cancel(); });
}

void WatchCall::OnDone() { const std::shared_ptr<WatchCall> self = std::move(self_); }

}  // namespace sockbroker::server
