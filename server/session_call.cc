#include "server/session_call.h"

#include <algorithm>
#include <vector>

#include "server/connection_record.h"
#include "server/creation_spec.h"
#include "server/dial.h"
#include "server/server_record.h"
#include "server/session_connection.h"
#include "session/frame_codec.h"
#include "transport/byte_buffer.h"

namespace sockbroker::server {
namespace {

using session::BrokerChannel;
using session::BrokerSession;
using streams::Task;

// Messages that may wait for the loop before gRPC is asked for the next one.
constexpr int kAhead = 4;
// Connections that are waited for at once, whatever the credits.
constexpr std::size_t kMaxAcceptors = 64;
constexpr uint64_t kInitialWindow = 64 * 1024;
constexpr uint64_t kMaxWindow = 16 << 20;

BrokerSession::Options SessionOptions(const BrokerCore& core) {
  BrokerSession::Options options;
  for (int shift = 56; shift >= 0; shift -= 8) {
    options.broker_id.push_back(static_cast<char>(core.identity.broker_id >> shift));
  }
  options.incarnation = core.identity.incarnation;
  options.initial_window = kInitialWindow;
  return options;
}

v1::Closed ClosedFrame(const ConnectionTombstone& tombstone) {
  v1::Closed closed;
  *closed.mutable_status() = tombstone.loss.ToProto();
  *closed.mutable_offsets() = tombstone.last.offsets();
  closed.set_reason(tombstone.last.close_reason());
  return closed;
}

}  // namespace

SessionCall::Reactor* SessionCall::Start(BrokerCore* core,
                                         std::shared_ptr<const Principal> principal) {
  std::shared_ptr<SessionCall> call(new SessionCall(core, std::move(principal)));
  call->self_ = call;
  call->session_.set_on_output([raw = call.get()] { raw->OnOutput(); });
  core->sessions.Add(call);
  call->StartSendInitialMetadata();
  call->StartRead(&call->received_);
  return call.get();
}

SessionCall::~SessionCall() { core_->sessions.Remove(this); }

SessionCall::SessionCall(BrokerCore* core, std::shared_ptr<const Principal> principal)
    : core_(core),
      principal_(std::move(principal)),
      loop_(core->NextLoop()),
      session_(SessionOptions(*core), this) {}

template <typename Function>
void SessionCall::OnLoop(Function function) {
  streams::EventLoop* const loop = this->loop();
  loop->Post([self = shared_from_this(), loop, function = std::move(function)]() mutable {
    if (self->loop() != loop) return self->OnLoop(std::move(function));
    function();
  });
}

// --- gRPC's threads

void SessionCall::OnReadDone(bool ok) {
  if (!ok) {
    // The client has ended its direction, or is gone: either way nobody is left to speak to.
    return OnLoop([this] { Disconnect(RpcStatus()); });
  }
  absl::Cord message = ToCord(received_);
  received_.Clear();
  const bool ahead = unprocessed_.fetch_add(1, std::memory_order_relaxed) + 1 < kAhead &&
                     placed_.load(std::memory_order_acquire);
  OnLoop([this, message = std::move(message), ahead]() mutable {
    OnMessage(std::move(message), /*read_next=*/!ahead);
  });
  if (ahead) StartRead(&received_);
}

void SessionCall::OnWriteDone(bool ok) {
  OnLoop([this, ok] {
    writing_ = false;
    if (!ok) Disconnect(RpcStatus());
    FinishIfIdle();
    Flush();
  });
}

void SessionCall::OnCancel() {
  OnLoop([this] { Disconnect(CallerGone()); });
}

void SessionCall::OnDone() { const std::shared_ptr<SessionCall> self = std::move(self_); }

void SessionCall::GoAway(absl::Duration deadline) {
  OnLoop([this, deadline] {
    if (!disconnected_) session_.GoAway(deadline);
  });
}

void SessionCall::End(RpcStatus status) {
  OnLoop([this, status = std::move(status)]() mutable {
    if (disconnected_ || ending_) return;
    ending_ = true;
    status_ = std::move(status);
    FinishIfIdle();
  });
}

// --- the loop's

streams::EventLoop* SessionCall::PlaceOf(const absl::Cord& message) const {
  session::FrameReader<v1::ClientFrame> frames(message);
  while (frames.Next()) {
    if (frames.data() != nullptr) continue;
    const v1::ClientFrame& frame = frames.frame();
    if (frame.has_bind()) {
      const auto found = core_->connections.Find(principal_->name, frame.bind().handle());
      return found.record != nullptr ? found.record->loop() : loop();
    }
    if (frame.has_listen()) {
      const auto found = core_->servers.Find(principal_->name, frame.listen().server());
      return found.record != nullptr ? found.record->loop() : loop();
    }
    if (frame.has_open()) return loop();
  }
  return nullptr;
}

void SessionCall::OnMessage(absl::Cord message, bool read_next) {
  if (!placed_.load(std::memory_order_relaxed)) {
    // Until here one message at a time was read, so that none can overtake another.
    if (streams::EventLoop* const place = PlaceOf(message)) {
      placed_.store(true, std::memory_order_release);
      if (place != loop()) {
        loop_.store(place, std::memory_order_relaxed);
        return OnLoop([this, message = std::move(message), read_next]() mutable {
          OnMessage(std::move(message), read_next);
        });
      }
    }
  }
  unprocessed_.fetch_sub(1, std::memory_order_relaxed);
  if (disconnected_) return;
  if (absl::Status status = session_.OnMessage(std::move(message), loop()->Now()); !status.ok()) {
    return Disconnect(RpcStatus(static_cast<grpc::StatusCode>(status.code()), v1::SESSION_FAULT,
                                status.message()));
  }
  if (read_next) StartRead(&received_);
}

void SessionCall::OnOutput() {
  if (session_.HasPendingAcks() && !std::exchange(acks_scheduled_, true)) {
    loop()->CallLater(session::kAckDelay, [self = shared_from_this()] {
      self->acks_scheduled_ = false;
      if (!self->disconnected_) self->session_.AckPending();
    });
  }
  if (flush_scheduled_ || writing_ || disconnected_ || !session_.HasOutput()) return;
  flush_scheduled_ = true;
  loop()->CallSoon([self = shared_from_this()] {
    self->flush_scheduled_ = false;
    self->Flush();
  });
}

void SessionCall::Flush() {
  if (writing_ || disconnected_) return;
  const absl::Cord batch = session_.NextBatch();
  if (batch.empty()) return;
  sending_ = ToByteBuffer(batch);
  writing_ = true;
  StartWrite(&sending_);
}

void SessionCall::Disconnect(RpcStatus status) {
  if (!disconnected_) {
    disconnected_ = true;
    if (!ending_) status_ = std::move(status);
    binds_.Cancel();
    for (auto& [channel, opening] : openings_) {
      core_->creations.Leave(opening.attempt, opening.waiter);
    }
    session_.OnLinkDown();
  }
  FinishIfIdle();
}

void SessionCall::FinishIfIdle() {
  if (writing_ || finished_) return;
  if (!disconnected_) {
    if (!ending_ || session_.HasOutput()) return;
    return Disconnect(RpcStatus());
  }
  finished_ = true;
  Finish(status_.ToGrpc());
}

void SessionCall::Refuse(uint32_t channel, const RpcStatus& status) {
  if (!disconnected_) session_.Failed(channel, status.ToProto());
}

// --- opening

void SessionCall::Open(v1::Open request) {
  const uint32_t channel = request.channel();
  CreationSpec spec;
  RpcStatus status = InvalidField("open", "tcp or unix");
  if (request.has_tcp()) status = SpecOfOpen(core_, principal_, request.tcp(), &spec);
  if (request.has_unix()) status = SpecOfOpen(core_, principal_, request.unix(), &spec);
  if (!status.ok()) return Refuse(channel, status);
  spec.loop = loop();
  const bool repeatable = !spec.request_id.empty();
  const CreationTable::Entered entered = BeginCreation(
      core_, std::move(spec), [self = shared_from_this(), channel](const CreationOutcome& outcome) {
        self->OnLoop([raw = self.get(), channel, outcome] { raw->OnOpened(channel, outcome); });
      });
  if (!entered.status.ok()) return Refuse(channel, entered.status);
  openings_[channel] = {entered.attempt, entered.waiter, entered.start, repeatable};
}

void SessionCall::OnOpened(uint32_t channel, const CreationOutcome& outcome) {
  const auto found = openings_.extract(channel);
  if (found.empty()) return;
  const Opening& opening = found.mapped();
  if (!outcome.status.ok()) return Refuse(channel, outcome.status);
  const auto made = core_->connections.Find(principal_->name, outcome.handle.bytes());
  if (made.record == nullptr) {
    if (made.tombstone != nullptr && !disconnected_) {
      return session_.Closed(channel, ClosedFrame(*made.tombstone));
    }
    return Refuse(channel, made.status);
  }
  if (disconnected_) {
    // Nobody will ever ask for it.
    if (opening.ours && !opening.repeatable) {
      UndoConnection(core_, *principal_, outcome.handle);
    }
    return;
  }
  if (!opening.ours) {
    v1::Bind bind;
    bind.set_channel(channel);
    bind.set_handle(std::string(outcome.handle.bytes()));
    loop()->Spawn(RunBind(shared_from_this(), std::move(bind), /*reopened=*/true),
                  binds_.token().state());
    return;
  }
  auto connection = std::make_shared<SessionConnection>(made.record);
  BrokerSession::Binding binding;
  const RpcStatus status =
      connection->Begin({.holder = session_.holder()}, kInitialWindow, &binding);
  if (!status.ok()) return Refuse(channel, status);
  if (session_.Opened(channel, std::move(binding)) == nullptr) {
    // The client has given it up meanwhile: nothing was said on it.
    if (made.record->binding() == connection.get()) connection->Cancel();
    made.record->Close(v1::CLOSED_BY_CLIENT, /*discard=*/true);
    return;
  }
  connection->TellIfGone();
}

// --- binding

void SessionCall::Bind(v1::Bind request, const std::string& /*holder*/) {
  loop()->Spawn(RunBind(shared_from_this(), std::move(request), /*reopened=*/false),
                binds_.token().state());
}

Task<void> SessionCall::RunBind(std::shared_ptr<SessionCall> self, v1::Bind request,
                                bool reopened) {
  const uint32_t channel = request.channel();
  BrokerCore* const core = self->core_;
  std::string handle = request.handle();
  if (request.has_request_id()) {
    const std::optional<CreationOutcome> made =
        core->creations.Find(CreationKey(*self->principal_, request.request_id()));
    if (!made.has_value()) {
      co_return self->Refuse(channel, NoSuchHandle());
    }
    if (!made->status.ok()) co_return self->Refuse(channel, made->status);
    handle = std::string(made->handle.bytes());
  }
  auto found = core->connections.Find(self->principal_->name, handle);
  if (found.tombstone != nullptr) {
    if (!self->disconnected_) self->session_.Closed(channel, ClosedFrame(*found.tombstone));
    co_return;
  }
  if (found.record == nullptr) co_return self->Refuse(channel, found.status);
  const RpcStatus status =
      co_await self->TryBind(std::move(found.record), std::move(request), reopened);
  if (!status.ok()) self->Refuse(channel, status);
}

RpcStatus SessionCall::CheckTurn(ConnectionRecord& record, const v1::Bind& request,
                                 bool reopened) const {
  const SessionMemory& memory = record.session_memory();
  const bool known = memory.holder == session_.holder();
  // Whoever had it before knows what it said; another's words in between it would take for its own.
  const bool stale = known ? !reopened && request.attempt() < memory.attempt
                           : request.epoch() != 0 || (reopened && !memory.holder.empty());
  if (stale) return StaleEpoch(record.epoch());
  if (record.binding() != nullptr && !known && !request.steal()) return IsBound(record.epoch());
  return RpcStatus();
}

Task<RpcStatus> SessionCall::TryBind(std::shared_ptr<ConnectionRecord> record, v1::Bind request,
                                     bool reopened) {
  if (record->loop() != loop()) {
    co_return WrongState(v1::UNSUPPORTED,
                         "the connection lives on another loop than this session's others: bind it "
                         "in a session of its own");
  }
  const Lease::Use use = record->BeginCall();
  while (true) {
    if (record->state() == ConnectionRecord::State::kReleased) co_return NoSuchHandle();
    if (record->tombstone() != nullptr) {
      if (!disconnected_) session_.Closed(request.channel(), ClosedFrame(*record->tombstone()));
      co_return RpcStatus();
    }
    if (RpcStatus status = CheckTurn(*record, request, reopened); !status.ok()) {
      co_return status;
    }
    if (record->upgrading() && !record->session_memory().read_marks.upgrading) {
      co_return WrongState(v1::UPGRADE_PENDING, "a StartTls is under way");
    }
    if (record->reads().idle()) break;
    record->reads().EndReads(record->epoch() + 1);
    if (!(co_await record->reads().WaitIdle()).ok()) co_return CallerGone();
  }
  if (disconnected_) co_return CallerGone();
  if (record->binding() != nullptr) {
    record->binding()->Fence();
    if (record->tombstone() != nullptr) {
      session_.Closed(request.channel(), ClosedFrame(*record->tombstone()));
      co_return RpcStatus();
    }
  }
  SessionConnection::Client client;
  client.holder = session_.holder();
  client.attempt = reopened ? record->session_memory().attempt : request.attempt();
  client.knows_marks = request.epoch() != 0;
  if (request.has_read()) {
    client.read = session::Position{request.read().offset(), request.read().marks()};
  }
  auto connection = std::make_shared<SessionConnection>(record);
  BrokerSession::Binding binding;
  if (RpcStatus status = connection->Begin(client, kInitialWindow, &binding); !status.ok()) {
    *status.detail().mutable_offsets() = record->offsets();
    co_return status;
  }
  if (session_.Bound(request.channel(), std::move(binding)) == nullptr) {
    // The client has given the channel up meanwhile.
    if (record->binding() == connection.get()) connection->Cancel();
    co_return RpcStatus();
  }
  connection->TellIfGone();
  co_return RpcStatus();
}

// --- accepting

void SessionCall::Listen(v1::Listen request) {
  const uint32_t channel = request.channel();
  std::shared_ptr<Listening>& listening = listening_[channel];
  if (listening == nullptr) {
    auto found = core_->servers.Find(principal_->name, request.server());
    RpcStatus status = found.status;
    if (found.record == nullptr && found.tombstone != nullptr) {
      status = WrongState(v1::SERVER_CLOSED, "the server is closed");
    } else if (found.record != nullptr && found.record->loop() != loop()) {
      status =
          WrongState(v1::UNSUPPORTED,
                     "the server lives on another loop than this session's others: listen to it "
                     "in a session of its own");
    } else if (core_->draining) {
      status = Draining();
    }
    if (!status.ok()) {
      listening_.erase(channel);
      return Refuse(channel, status);
    }
    listening = std::make_shared<Listening>();
    listening->server = std::move(found.record);
  }
  listening->credits += request.credits();
  while (listening->acceptors < std::min<std::size_t>(listening->credits, kMaxAcceptors)) {
    listening->acceptors++;
    loop()->Spawn(AcceptSome(shared_from_this(), channel, listening),
                  listening->cancel.token().state());
  }
}

Task<void> SessionCall::AcceptSome(std::shared_ptr<SessionCall> self, uint32_t channel,
                                   std::shared_ptr<Listening> listening) {
  BrokerCore* const core = self->core_;
  const auto wanted = [&] { return listening->acceptors <= listening->credits; };
  while (wanted()) {
    const CreationOutcome outcome =
        co_await AcceptFrom(core, listening->server, {self->principal_, "", "Session"});
    if (!outcome.status.ok()) {
      if (!listening->cancel.cancelled() && !self->disconnected_ &&
          self->listening_.erase(channel) > 0) {
        listening->cancel.Cancel();
        self->session_.Failed(channel, outcome.status.ToProto());
      }
      break;
    }
    const auto found = core->connections.Find(self->principal_->name, outcome.handle.bytes());
    if (found.record == nullptr) continue;  // lost already
    if (self->disconnected_ || listening->cancel.cancelled()) {
      found.record->GiveBack();
      break;
    }
    listening->credits--;
    auto connection = std::make_shared<SessionConnection>(found.record);
    BrokerSession::Binding binding;
    if (!connection->Begin({.holder = self->session_.holder()}, kInitialWindow, &binding).ok() ||
        self->session_.Accepted(channel, std::move(binding)) == nullptr) {
      if (found.record->binding() == connection.get()) connection->Cancel();
      break;
    }
    connection->TellIfGone();
  }
  listening->acceptors--;
}

void SessionCall::StopListening(uint32_t channel) {
  const auto found = listening_.extract(channel);
  if (!found.empty()) found.mapped()->cancel.Cancel();
}

void SessionCall::Claimed(session::BrokerConnection* connection) {
  static_cast<SessionConnection*>(connection)->Claim();
}

uint64_t SessionCall::GrowWindow(session::BrokerConnection* /*connection*/, uint64_t window) {
  return std::min(2 * window, kMaxWindow);
}

}  // namespace sockbroker::server
