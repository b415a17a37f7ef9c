#include "server/server_record.h"

#include <algorithm>
#include <utility>

#include "server/audit_log.h"
#include "server/endpoint_codec.h"
#include "server/proxy_protocol.h"
#include "server/tls_settings.h"
#include "streams/error.h"
#include "streams/wait_for.h"
#include "streams/with_cancel.h"

namespace sockbroker::server {
namespace {

using streams::Task;

// Connections whose PROXY header or TLS handshake is under way at once, per server: an eighth of
// all descriptors, within these. Whoever connects and says nothing holds one until its time-out, or
// until others need it.
constexpr std::size_t kLeastPreparing = 16;
constexpr std::size_t kMostPreparing = 1024;
// While some stall, so many more than are waited for are taken from the backlog: behind who is
// silent there stand others, and each silent one costs kStalled.
constexpr std::size_t kMaxAhead = 64;
// One that takes longer no longer counts as a connection on its way: the next is taken from
// the backlog.
constexpr absl::Duration kStalled = absl::Milliseconds(50);

std::size_t MaxPreparing(const BrokerCore& core) {
  const DescriptorBudget* const budget = core.options.descriptors;
  if (budget == nullptr) return kMostPreparing;
  return std::clamp<std::size_t>(budget->capacity() / 8, kLeastPreparing, kMostPreparing);
}

}  // namespace

std::shared_ptr<ServerRecord> ServerRecord::Create(BrokerCore* core, Birth birth) {
  std::string request_key = std::move(birth.request_key);
  std::shared_ptr<ServerRecord> record(
      new ServerRecord(core, std::move(birth), streams::GetRunningLoop()));
  HandleAttributes attributes;
  attributes.principal = record->principal_->name;
  attributes.labels = record->settings_.labels();
  attributes.name = record->settings_.name;
  attributes.request_key = std::move(request_key);
  core->servers.Insert(record->handle_, std::move(attributes), record);
  record->loop_->Spawn(Watch(record));
  record->Audit(/*open=*/true);
  return record;
}

ServerRecord::ServerRecord(BrokerCore* core, Birth birth, streams::EventLoop* loop)
    : core_(core),
      loop_(loop),
      handle_(Handle::Random(core->identity)),
      principal_(std::move(birth.principal)),
      rpc_(std::move(birth.rpc)),
      settings_(std::move(birth.settings)),
      started_at_wall_(absl::Now()),
      started_at_(loop->Now()),
      server_(std::move(birth.server)),
      descriptors_(std::move(birth.descriptors)),
      max_preparing_(MaxPreparing(*core)),
      lease_(loop, settings_.lease, [this] { Close("the lease has expired"); }) {}

// --- Accept

Task<RpcStatus> ServerRecord::Accept(AcceptedSocket* accepted) {
  if (closed_) co_return WrongState(v1::SERVER_CLOSED, "the server is closed");
  if (!server_.is_serving()) {
    co_return WrongState(v1::NOT_SERVING, "the server is not serving: StartServing comes first");
  }
  const std::shared_ptr<ServerRecord> self = shared_from_this();
  Waiter waiter;
  waiters_.push_back(&waiter);
  Deliver();
  UpdatePump();
  while (!waiter.served) {
    const absl::Status status = co_await waiter.woken.Wait();
    if (status.ok() || waiter.served) continue;
    waiters_.erase(std::find(waiters_.begin(), waiters_.end(), &waiter));
    UpdatePump();
    co_return CallerGone();
  }
  if (!waiter.status.ok()) co_return waiter.status;
  *accepted = std::move(waiter.socket);
  co_return RpcStatus();
}

// Whether one more connection should leave the kernel's backlog.
bool ServerRecord::WantsMore() const {
  if (closed_ || waiters_.size() <= ready_.size()) return false;
  // One that stalls can make room.
  if (preparing_.size() >= max_preparing_ && OneThatCanGo() == nullptr) return false;
  const std::size_t on_their_way = preparing_.size() - stalled_;
  return waiters_.size() + std::min(stalled_, kMaxAhead) > ready_.size() + on_their_way;
}

void ServerRecord::UpdatePump() {
  if (!WantsMore()) {
    if (pump_cancel_ != nullptr) pump_cancel_->Cancel();
  } else if (!pumping_) {
    pumping_ = true;
    pump_cancel_ = std::make_unique<streams::CancelSource>();
    loop_->Spawn(Pump(shared_from_this()), pump_cancel_->token().state());
  }
}

Task<void> ServerRecord::Pump(std::shared_ptr<ServerRecord> self) {
  while (self->WantsMore()) {
    // Before anything leaves the backlog: what we can't keep stays there.
    std::vector<DescriptorBudget::Hold> descriptor;
    if (RpcStatus status = self->core_->AcquireDescriptors(1, &descriptor); !status.ok()) {
      // Whoever says nothing keeps nobody out.
      if (self->EndOneThatStalls()) {
        if (!(co_await self->prepared_.Wait()).ok()) break;
        continue;
      }
      self->FailAccepts(status);
      break;
    }
    absl::StatusOr<streams::Connection> connection = co_await self->server_.Accept();
    if (!connection.ok()) {
      if (!absl::IsCancelled(connection.status()) && !self->closed_) {
        self->FailAccepts(FromEngine(connection.status(), EngineCall::kStream));
      }
      break;
    }
    AcceptedSocket socket{.connection = *std::move(connection),
                          .descriptor = std::move(descriptor.front())};
    if (self->closed_) {
      socket.connection.writer.Abort();
    } else if (self->settings_.proxy_header_timeout.has_value() ||
               self->settings_.tls.context != nullptr) {
      if (self->preparing_.size() >= self->max_preparing_) self->EndOneThatStalls();
      auto preparation = std::make_unique<Preparation>();
      self->preparing_.push_back(preparation.get());
      self->loop_->Spawn(PrepareForAccept(self, std::move(socket), std::move(preparation)),
                         self->prepare_cancel_.token().state());
    } else {
      self->ready_.push_back(std::move(socket));
      self->Deliver();
    }
  }
  self->pumping_ = false;
  self->pump_cancel_ = nullptr;
  // Somebody may have begun to wait after this was told to stop.
  if (self->WantsMore() && !self->waiters_.empty()) self->UpdatePump();
}

void ServerRecord::Deliver() {
  while (!ready_.empty() && !waiters_.empty()) {
    Waiter* waiter = waiters_.front();
    waiters_.pop_front();
    waiter->socket = std::move(ready_.front());
    ready_.pop_front();
    waiter->served = true;
    waiter->woken.WakeAll();
  }
}

void ServerRecord::TakeBack(AcceptedSocket socket) {
  if (closed_) {
    socket.connection.writer.Abort();
    return;
  }
  ready_.push_front(std::move(socket));
  Deliver();
  UpdatePump();
}

void ServerRecord::FailAccepts(const RpcStatus& status) {
  for (Waiter* waiter : std::exchange(waiters_, {})) {
    waiter->status = status;
    waiter->served = true;
    waiter->woken.WakeAll();
  }
  UpdatePump();
}

// --- what comes before Accept: PROXY headers, TLS handshakes

ServerRecord::Preparation* ServerRecord::OneThatCanGo() const {
  Preparation* oldest = nullptr;
  for (Preparation* preparation : preparing_) {
    if (!preparation->stalled) continue;
    if (!preparation->spoke) return preparation;
    if (oldest == nullptr) oldest = preparation;
  }
  // Who has said something is slow at worst: the silent ones that have just come go before.
  return stalled_ + ending_ == preparing_.size() ? oldest : nullptr;
}

bool ServerRecord::EndOneThatStalls() {
  Preparation* const chosen = OneThatCanGo();
  if (chosen == nullptr) return ending_ > 0;
  chosen->stalled = false;
  stalled_--;
  chosen->ending = true;
  ending_++;
  chosen->cancel->Cancel();
  return true;
}

Task<void> ServerRecord::PrepareForAccept(std::shared_ptr<ServerRecord> self, AcceptedSocket socket,
                                          std::unique_ptr<Preparation> preparation) {
  streams::CancelSource cancel(co_await streams::GetCancelToken());
  preparation->cancel = &cancel;
  streams::Timer timer(self->loop_, [&] {
    preparation->stalled = true;
    self->stalled_++;
    self->UpdatePump();
  });
  timer.SetAfter(kStalled);
  const bool prepared = co_await streams::WithCancel(
      Prepare(self->settings_, preparation.get(), &socket), cancel.token());
  timer.Cancel();
  if (preparation->stalled) self->stalled_--;
  if (preparation->ending) self->ending_--;
  self->preparing_.remove(preparation.get());
  if (prepared && !self->closed_) {
    self->ready_.push_back(std::move(socket));
    self->Deliver();
  } else {
    // Nobody asked for this one: there is nobody to tell.
    socket.connection.writer.Abort();
    socket = AcceptedSocket();
  }
  self->prepared_.WakeAll();
  self->UpdatePump();
}

Task<bool> ServerRecord::Prepare(const ServerSettings& settings, Preparation* preparation,
                                 AcceptedSocket* socket) {
  if (settings.proxy_header_timeout.has_value()) {
    const absl::StatusOr<RpcStatus> parsed = co_await streams::WaitFor(
        ParseProxyHeader(preparation, socket), *settings.proxy_header_timeout);
    if (!parsed.ok() || !parsed->ok()) co_return false;
  }
  if (settings.tls.context != nullptr) {
    // What came behind the PROXY header is the begin of the handshake. Its time-out is TLS's own.
    streams::StartTlsOptions options = ToStartTlsOptions(settings.tls);
    options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
    // A client speaks first: until then there is no use for the memory that TLS takes.
    if (!preparation->spoke) {
      streams::EventLoop* const loop = streams::GetRunningLoop();
      const absl::Time deadline = loop->Now() + options.stream.handshake_timeout;
      const absl::StatusOr<bool> spoke = co_await streams::WaitFor(
          FirstBytes(preparation, socket), options.stream.handshake_timeout);
      if (!spoke.ok() || !*spoke) co_return false;
      options.stream.handshake_timeout = std::max(deadline - loop->Now(), absl::Milliseconds(1));
    }
    socket->tls = true;
    const absl::Status status =
        co_await socket->connection.writer.StartTls(settings.tls.context, std::move(options));
    if (!status.ok()) co_return false;
  }
  co_return true;
}

Task<bool> ServerRecord::FirstBytes(Preparation* preparation, AcceptedSocket* socket) {
  absl::StatusOr<absl::Cord> data = co_await socket->connection.reader.Read(65536);
  if (!data.ok() || data->empty()) co_return false;
  preparation->spoke = true;
  socket->connection.reader.Unread(*std::move(data));
  co_return true;
}

Task<RpcStatus> ServerRecord::ParseProxyHeader(Preparation* preparation, AcceptedSocket* socket) {
  const auto bad = [](absl::string_view message) {
    return WrongState(v1::BAD_PROXY_HEADER, message);
  };
  ProxyHeaderParser parser;
  absl::Cord received;
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await socket->connection.reader.Read(65536);
    if (!data.ok()) co_return bad(data.status().message());
    if (data->empty()) co_return bad("the connection ended within its PROXY header");
    preparation->spoke = true;
    received.Append(*std::move(data));
    switch (parser.Feed(received.Flatten())) {
      case ProxyHeaderParser::Result::kNeedMore:
        continue;
      case ProxyHeaderParser::Result::kBad:
        co_return bad(parser.error().message());
      case ProxyHeaderParser::Result::kDone:
        received.RemovePrefix(parser.header_size());
        socket->connection.reader.Unread(std::move(received));
        socket->skip = parser.header_size();
        socket->proxy_header = parser.header();
        co_return RpcStatus();
    }
  }
}

// --- life

Task<RpcStatus> ServerRecord::StartServing() {
  if (closed_) co_return WrongState(v1::SERVER_CLOSED, "the server is closed");
  co_return FromEngine(co_await server_.StartServing(), EngineCall::kBind);
}

void ServerRecord::Close(absl::string_view why) {
  if (closed_) return;
  const std::shared_ptr<ServerRecord> self = shared_from_this();
  closed_ = true;
  close_message_ = std::string(why);
  closed_at_wall_ = absl::Now();
  lease_.Stop();
  server_.Close();
  descriptors_.clear();
  FailAccepts(WrongState(v1::SERVER_CLOSED, "the server was closed"));
  prepare_cancel_.Cancel();
  for (AcceptedSocket& socket : ready_) socket.connection.writer.Abort();
  ready_.clear();
  Audit(/*open=*/false);
}

std::vector<std::shared_ptr<ConnectionRecord>> ServerRecord::Records() const {
  std::vector<std::shared_ptr<ConnectionRecord>> records;
  for (ConnectionRecord* record : records_) records.push_back(record->shared_from_this());
  return records;
}

uint64_t ServerRecord::CloseClients() {
  // The records first, so that they know why.
  for (const auto& record : Records()) record->Close(v1::CLOSED_BY_SERVER);
  ready_.clear();
  return server_.CloseClients();
}

uint64_t ServerRecord::AbortClients() {
  for (const auto& record : Records()) record->Abort(v1::CLOSED_BY_SERVER);
  const uint64_t count = server_.AbortClients();
  ready_.clear();
  return count;
}

Task<void> ServerRecord::Watch(std::shared_ptr<ServerRecord> self) {
  const absl::Status status = co_await self->server_.WaitClosed();
  if (!status.ok()) co_return;  // the loop is being destroyed
  auto tombstone = std::make_shared<ServerTombstone>();
  tombstone->last = self->Snapshot();
  self->tombstone_ = std::move(tombstone);
  self->gone_.WakeAll();
  self->core_->servers.Bury(self->handle_, self->tombstone_,
                            sizeof(ServerTombstone) + self->tombstone_->last.SpaceUsedLong());
}

Task<absl::Status> ServerRecord::WaitClosed() {
  while (tombstone_ == nullptr) {
    if (absl::Status status = co_await gone_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

// --- what is told

v1::Server ServerRecord::Snapshot() const {
  v1::Server server;
  server.set_handle(std::string(handle_.bytes()));
  server.set_name(settings_.name);
  for (const streams::SocketAddress& address : server_.sockets()) {
    *server.add_sockets() = ToProto(address);
  }
  server.set_is_serving(server_.is_serving());
  server.set_closed(closed_);
  server.set_active_connections(server_.active_connections());
  server.set_accepted_total(server_.accepted_total());
  server.set_waiting_accepts(static_cast<uint32_t>(waiters_.size()));
  std::size_t unclaimed = ready_.size();
  for (const ConnectionRecord* record : records_) unclaimed += record->unclaimed() ? 1 : 0;
  server.set_unclaimed(static_cast<uint32_t>(unclaimed));
  *server.mutable_started_at() = ToProto(started_at_wall_);
  *server.mutable_last_used_at() =
      ToProto(std::max(started_at_wall_, core_->Wall(lease_.last_used())));
  if (closed_) *server.mutable_closed_at() = ToProto(closed_at_wall_);
  server.set_close_message(close_message_);
  *server.mutable_options() = settings_.shown;
  return server;
}

void ServerRecord::Audit(bool open) const {
  const AuditLog* log = core_->options.audit;
  if (log == nullptr) return;
  std::string local;
  for (const streams::SocketAddress& address : server_.sockets()) {
    if (!local.empty()) local += ' ';
    local += address.ToString();
  }
  AuditEvent event{.kind = open ? AuditEvent::Kind::kOpen : AuditEvent::Kind::kClose,
                   .object = "server",
                   .rpc = rpc_,
                   .principal = principal_->name,
                   .handle = handle_.bytes(),
                   .requested = settings_.name,
                   .local = local,
                   .message = close_message_,
                   .traceparent = settings_.shown.traceparent()};
  if (!open) event.lifetime = loop_->Now() - started_at_;
  log->Record(event);
}

}  // namespace sockbroker::server
