#include "server/session_call.h"

#include <algorithm>
#include <vector>

#include "server/connection_record.h"
#include "server/creation_spec.h"
#include "server/dial.h"
#include "server/remote_connection.h"
#include "server/server_record.h"
#include "server/session_connection.h"
#include "session/frame_codec.h"
#include "transport/byte_buffer.h"

namespace sockbroker::server {
namespace {

using session::BrokerSession;
using streams::Task;

// Connections that are waited for at once, whatever the credits.
constexpr std::size_t kMaxAcceptors = 64;

BrokerSession::Options SessionOptions(const BrokerCore& core) {
  BrokerSession::Options options;
  for (int shift = 56; shift >= 0; shift -= 8) {
    options.broker_id.push_back(static_cast<char>(core.identity.broker_id >> shift));
  }
  options.incarnation = core.identity.incarnation;
  options.initial_window = SessionConnection::kInitialWindow;
  return options;
}

// Makes the binding one for a session on `home`, on the connection's loop.
void BringHome(TakeOverResult* result, streams::EventLoop* home) {
  if (result->connection == nullptr || !result->status.ok()) return;
  if (streams::GetRunningLoop() == home) {
    result->binding.connection = result->connection;
  } else {
    RemoteConnection::Wrap(result->connection, home, &result->binding);
  }
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
      budgets_(core->memory.OfPrincipal(principal_->name)),
      session_(SessionOptions(*core), this) {}

SessionConnection::Client SessionCall::NewClient() const {
  SessionConnection::Client client;
  client.holder = session_.holder();
  client.budgets = budgets_;
  client.limit = core_->options.limits.buffer_memory_per_connection;
  return client;
}

template <typename Function>
auto SessionCall::For(streams::EventLoop* loop, Function function) {
  return [self = shared_from_this(), loop, function = std::move(function)]() mutable {
    if (self->loop() != loop) return self->OnLoop(std::move(function));
    function();
  };
}

template <typename Function>
void SessionCall::OnLoop(Function function) {
  streams::EventLoop* const loop = this->loop();
  loop->Dispatch(For(loop, std::move(function)));
}

template <typename Function>
void SessionCall::AtHome(Function function) {
  streams::EventLoop* const loop = this->loop();
  if (loop->IsRunningHere()) return function();
  loop->Post([self = shared_from_this(), function = std::move(function)]() mutable { function(); });
}

// --- gRPC's threads

void SessionCall::OnReadDone(bool ok) {
  if (!ok) {
    // The client has ended its direction, or is gone: either way nobody is left to speak to.
    return OnLoop([this] { Disconnect(RpcStatus()); });
  }
  absl::Cord message = ToCord(received_);
  received_.Clear();
  const SessionInbox::Arrival arrival = inbox_.Put(std::move(message));
  if (arrival.read_next) StartRead(&received_);
  if (arrival.tell) OnLoop([this] { TakeMessages(); });
}

void SessionCall::OnWriteDone(bool ok) {
  sending_.Clear();
  OnLoop([this, ok] {
    writing_ = false;
    if (!ok) Disconnect(RpcStatus());
    FinishIfIdle();
    Flush();
    if (inbox_.Resume(session_.control_bytes())) TakeMessages();
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

void SessionCall::RevokeUnusedWindows() {
  OnLoop([this] {
    if (!disconnected_) {
      session_.RevokeUnused(SessionConnection::kInitialWindow, loop()->Now());
    }
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

void SessionCall::TakeMessages() {
  while (!disconnected_) {
    SessionInbox::Taken taken = inbox_.Take(session_.control_bytes());
    if (taken.found == SessionInbox::Found::kTurnOver) {
      return OnLoop([this] { TakeMessages(); });
    }
    if (taken.found != SessionInbox::Found::kMessage) return;
    if (!placed_) {
      if (streams::EventLoop* const place = PlaceOf(taken.message)) {
        placed_ = true;
        if (place != loop()) {
          inbox_.PutBack(std::move(taken.message));
          loop_.store(place, std::memory_order_release);
          return OnLoop([this] { TakeMessages(); });
        }
      }
    }
    if (taken.read_next) StartRead(&received_);
    OnMessage(std::move(taken.message));
    if (!disconnected_ && inbox_.Handled()) StartRead(&received_);
  }
}

void SessionCall::OnMessage(absl::Cord message) {
  if (absl::Status status = session_.OnMessage(std::move(message), loop()->Now()); !status.ok()) {
    Disconnect(RpcStatus(static_cast<grpc::StatusCode>(status.code()), v1::SESSION_FAULT,
                         status.message()));
  }
}

void SessionCall::OnOutput() {
  if (session_.HasPendingAcks() && !std::exchange(acks_scheduled_, true)) {
    loop()->CallLater(session::kAckDelay, For(loop(), [this] {
                        acks_scheduled_ = false;
                        if (!disconnected_) session_.AckPending();
                      }));
  }
  if (flush_scheduled_ || writing_ || disconnected_ || !session_.HasOutput()) return;
  flush_scheduled_ = true;
  loop()->CallSoon(For(loop(), [this] {
    flush_scheduled_ = false;
    Flush();
  }));
}

void SessionCall::Flush() {
  if (writing_ || disconnected_) return;
  const absl::Cord batch = session_.NextBatch(loop()->Now());
  if (batch.empty()) return FinishIfIdle();
  sending_ = ToByteBuffer(batch);
  // Until OnWriteDone has come round to the loop: what gathers meanwhile goes in one message.
  writing_ = true;
  StartWrite(&sending_);
}

void SessionCall::Disconnect(RpcStatus status) {
  if (!disconnected_) {
    disconnected_ = true;
    if (!ending_) status_ = std::move(status);
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
    if (!ending_ || session_.HasMoreToSay()) return;
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
    return BeginBind(std::move(bind), /*reopened=*/true);
  }
  TakeOverResult result;
  result.connection = std::make_shared<SessionConnection>(made.record);
  result.status = result.connection->Begin(NewClient(), &result.binding);
  BringHome(&result, loop());
  if (!result.status.ok()) {
    made.record->Close(v1::CLOSED_BY_CLIENT, /*discard=*/true);
    return Refuse(channel, result.status);
  }
  if (!Bind(std::move(result), [&](BrokerSession::Binding binding) {
        return session_.Opened(channel, std::move(binding));
      })) {
    // The client has given it up meanwhile: nothing was said on it.
    made.record->Close(v1::CLOSED_BY_CLIENT, /*discard=*/true);
  }
}

template <typename Answer>
bool SessionCall::Bind(TakeOverResult result, Answer answer) {
  const auto bound = std::static_pointer_cast<BoundConnection>(result.binding.connection);
  const session::Position read = result.binding.read;
  const session::Position write = result.binding.write;
  if (!disconnected_ && answer(std::move(result.binding)) != nullptr) {
    // It may have ended before.
    streams::EventLoop* const there = result.connection->record()->loop();
    if (there == loop()) {
      result.connection->TellIfGone();
    } else {
      there->Post([connection = result.connection] { connection->TellIfGone(); });
    }
    return true;
  }
  // It may have been bound and ended at once, by what was sent ahead.
  if (!bound->unbound()) bound->Unbind(read, absl::Cord(), write);
  return false;
}

// --- binding

void SessionCall::Bind(v1::Bind request, const std::string& /*holder*/) {
  BeginBind(std::move(request), /*reopened=*/false);
}

void SessionCall::BeginBind(v1::Bind request, bool reopened) {
  const uint32_t channel = request.channel();
  std::string handle = request.handle();
  if (request.has_request_id()) {
    const std::optional<CreationOutcome> made =
        core_->creations.Find(CreationKey(*principal_, request.request_id()));
    if (!made.has_value()) return Refuse(channel, NoSuchHandle());
    if (!made->status.ok()) return Refuse(channel, made->status);
    handle = std::string(made->handle.bytes());
  }
  auto found = core_->connections.Find(principal_->name, handle);
  if (found.tombstone != nullptr) return session_.Closed(channel, ClosedFrame(*found.tombstone));
  if (found.record == nullptr) return Refuse(channel, found.status);
  TakeOverRequest turn;
  turn.holder = session_.holder();
  turn.attempt = request.attempt();
  turn.steal = request.steal();
  turn.epoch = request.epoch();
  turn.reopened = reopened;
  turn.budgets = budgets_;
  turn.limit = core_->options.limits.buffer_memory_per_connection;
  if (request.has_read()) {
    turn.read = session::Position{request.read().offset(), request.read().marks()};
  }
  streams::EventLoop* const there = found.record->loop();
  there->Post([self = shared_from_this(), there, record = std::move(found.record), channel,
               turn = std::move(turn)]() mutable {
    there->Spawn(RunTakeOver(std::move(self), std::move(record), channel, std::move(turn)));
  });
}

Task<void> SessionCall::RunTakeOver(std::shared_ptr<SessionCall> self,
                                    std::shared_ptr<ConnectionRecord> record, uint32_t channel,
                                    TakeOverRequest request) {
  TakeOverResult result = co_await TakeOver(std::move(record), std::move(request));
  BringHome(&result, self->loop());
  self->AtHome([raw = self.get(), channel, result = std::move(result)]() mutable {
    raw->OnTakenOver(channel, std::move(result));
  });
}

void SessionCall::OnTakenOver(uint32_t channel, TakeOverResult result) {
  if (result.closed.has_value()) {
    if (!disconnected_) session_.Closed(channel, *std::move(result.closed));
  } else if (!result.status.ok()) {
    Refuse(channel, result.status);
  } else {
    Bind(std::move(result), [&](BrokerSession::Binding binding) {
      return session_.Bound(channel, std::move(binding));
    });
  }
}

// --- accepting

void SessionCall::Listen(v1::Listen request) {
  const uint32_t channel = request.channel();
  std::shared_ptr<Listening>& listening = listening_[channel];
  if (listening == nullptr) {
    auto found = core_->servers.Find(principal_->name, request.server());
    RpcStatus status = found.status;
    if (found.tombstone != nullptr) {
      status = WrongState(v1::SERVER_CLOSED, "the server is closed");
    } else if (found.record != nullptr && core_->draining) {
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
  AcceptMore(channel, listening);
}

void SessionCall::AcceptMore(uint32_t channel, const std::shared_ptr<Listening>& listening) {
  streams::EventLoop* const there = listening->server->loop();
  // Nobody waits for what there is no channel for: the server has other users.
  const std::size_t wanted =
      std::min({std::size_t{listening->credits}, kMaxAcceptors, session_.room()});
  while (listening->acceptors < wanted) {
    listening->acceptors++;
    there->Post([self = shared_from_this(), there, channel, listening] {
      there->Spawn(AcceptOne(self, channel, listening), listening->cancel.token().state());
    });
  }
}

Task<void> SessionCall::AcceptOne(std::shared_ptr<SessionCall> self, uint32_t channel,
                                  std::shared_ptr<Listening> listening) {
  BrokerCore* const core = self->core_;
  TakeOverResult result;
  while (result.connection == nullptr && result.status.ok()) {
    const CreationOutcome outcome =
        co_await AcceptFrom(core, listening->server, {self->principal_, "", "Session"});
    result.status = outcome.status;
    if (!outcome.status.ok()) break;
    const auto found = core->connections.Find(self->principal_->name, outcome.handle.bytes());
    if (found.record == nullptr) continue;  // lost already
    result.connection = std::make_shared<SessionConnection>(found.record);
    result.status = result.connection->Begin(self->NewClient(), &result.binding);
    BringHome(&result, self->loop());
  }
  self->AtHome([raw = self.get(), channel, listening, result = std::move(result)]() mutable {
    raw->OnAccepted(channel, listening, std::move(result));
  });
}

void SessionCall::OnAccepted(uint32_t channel, const std::shared_ptr<Listening>& listening,
                             TakeOverResult result) {
  listening->acceptors--;
  const bool wanted = !disconnected_ && listening_.contains(channel);
  if (!result.status.ok()) {
    if (!wanted) return;
    StopListening(channel);
    return Refuse(channel, result.status);
  }
  // Without a channel for it, it goes back to the server's queue; OnRoom asks again.
  const bool bound = Bind(std::move(result), [&](BrokerSession::Binding binding) {
    return wanted ? session_.Accepted(channel, std::move(binding)) : nullptr;
  });
  if (!bound) return;
  listening->credits--;
  AcceptMore(channel, listening);
}

void SessionCall::OnRoom() {
  for (const auto& [channel, listening] : listening_) AcceptMore(channel, listening);
}

void SessionCall::StopListening(uint32_t channel) {
  const auto found = listening_.extract(channel);
  if (found.empty()) return;
  const std::shared_ptr<Listening>& listening = found.mapped();
  listening->server->loop()->Post([listening] { listening->cancel.Cancel(); });
}

void SessionCall::Claimed(session::BrokerConnection* connection) {
  static_cast<BoundConnection*>(connection)->Claim();
}

uint64_t SessionCall::GrowWindow(session::BrokerConnection* connection, uint64_t window) {
  const std::size_t most = core_->options.limits.buffer_memory_per_connection;
  const std::size_t wanted = std::max<std::size_t>(std::min<std::size_t>(2 * window, most), window);
  // Less than it has already it never becomes; and after a Revoke more may still be granted.
  const std::size_t granted = static_cast<BoundConnection*>(connection)->window().Grow(wanted);
  return std::clamp<uint64_t>(granted, window, wanted);
}

void SessionCall::ShrinkWindow(session::BrokerConnection* connection, uint64_t window) {
  static_cast<BoundConnection*>(connection)->window().Shrink(window);
}

}  // namespace sockbroker::server
