#include "server/connection_record.h"

#include <algorithm>
#include <utility>

#include "server/audit_log.h"
#include "server/endpoint_codec.h"
#include "server/server_record.h"
#include "server/session_connection.h"
#include "server/tls_settings.h"
#include "streams/error.h"
#include "transport/utf8.h"

namespace sockbroker::server {
namespace {

// How often an idle time-out looks, as a part of the time-out: it ends a connection at most so much
// too late.
constexpr int kIdleLooks = 8;

}  // namespace

std::shared_ptr<ConnectionRecord> ConnectionRecord::Create(BrokerCore* core, Birth birth) {
  std::string request_key = std::move(birth.request_key);
  std::shared_ptr<ConnectionRecord> record(new ConnectionRecord(core, std::move(birth)));
  record->unclaimed_ = record->server_ != nullptr;
  HandleAttributes attributes;
  attributes.principal = record->principal_->name;
  attributes.labels = record->settings_->labels();
  if (record->server_ != nullptr)
    attributes.server = std::string(record->server_->handle().bytes());
  attributes.request_key = std::move(request_key);
  core->connections.Insert(record->handle_, std::move(attributes), record,
                           /*listed=*/!record->unclaimed_);
  // Neither keeps the record alive: the table does.
  record->reads_.reader().NotifyEof([weak = record->weak_from_this()] {
    if (const auto self = weak.lock()) self->OnPeerEof();
  });
  record->writer_.NotifyClosed([weak = record->weak_from_this()] {
    if (const auto self = weak.lock()) self->OnGone(self->reads_.reader().Exception());
  });
  record->ArmTimeouts();
  if (record->unclaimed_) {
    record->server_->Add(record.get());
    record->RestartClaimTimer();
  } else {
    record->opened_sequence_ = record->Publish(v1::ConnectionEvent::OPENED);
    record->Audit(/*open=*/true);
  }
  return record;
}

ConnectionRecord::ConnectionRecord(BrokerCore* core, Birth birth)
    : core_(core),
      loop_(birth.socket.connection.writer.loop()),
      handle_(Handle::Random(core->identity)),
      principal_(std::move(birth.principal)),
      requested_host_(std::move(birth.requested_host)),
      rpc_(std::move(birth.rpc)),
      proxy_header_(birth.socket.proxy_header.has_value()
                        ? std::make_unique<ProxyHeader>(*std::move(birth.socket.proxy_header))
                        : nullptr),
      opened_at_wall_(absl::Now()),
      opened_at_(loop_->Now()),
      server_(std::move(birth.server)),
      settings_(core->settings.Share(std::move(birth.settings))),
      descriptor_(std::move(birth.socket.descriptor)),
      writer_(birth.socket.connection.writer),
      reads_(birth.socket.connection.reader, birth.socket.skip),
      writes_(writer_, core->options.limits.write_buffer, birth.written_before),
      lease_(loop_, settings_->lease, [this] { OnLeaseExpired(); }),
      claim_timer_(this),
      half_close_timer_(this),
      idle_timer_(this) {
  if (birth.socket.tls) tls_ = TlsBegin{server_ != nullptr, 0, 0};
  // The options were checked: this can't fail.
  (void)writer_.SetWriteBufferLimits(static_cast<int64_t>(settings_->write_high_water),
                                     static_cast<int64_t>(settings_->write_low_water));
}

ConnectionRecord::~ConnectionRecord() = default;

Lease::Use ConnectionRecord::BeginCall() {
  if (unclaimed_) {
    unclaimed_ = false;
    claim_timer_.Cancel();
    core_->connections.Publish(handle_);
    opened_sequence_ = Publish(v1::ConnectionEvent::ACCEPTED);
    Audit(/*open=*/true);
    if (state_ == State::kLost) {  // it was lost before anybody knew of it
      Publish(v1::ConnectionEvent::CLOSED);
      Audit(/*open=*/false);
    }
  }
  return lease_.Begin();
}

void ConnectionRecord::EndCall() {
  if (state_ == State::kLost && reads_.empty() && reads_.idle()) Bury();
}

// --- the end

void ConnectionRecord::OnGone(const absl::Status& status) {
  claim_timer_.Cancel();
  idle_timer_.Cancel();
  half_close_timer_.Cancel();
  descriptor_.Release();
  closed_at_wall_ = absl::Now();
  close_reason_ = intent_;
  close_phase_ = intent_phase_;
  if (status.ok() && writer_.tls_truncated()) close_reason_ = v1::TLS_TRUNCATED;
  if (!status.ok()) {
    loss_ = upgrade_failure_.ok() ? FromEngine(status, EngineCall::kStream) : upgrade_failure_;
    close_reason_ = loss_.reason();
    if (loss_.code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      close_reason_ = v1::ENDED_BY_TIMEOUT;
      close_phase_ = loss_.detail().phase();
    }
    loss_.detail().set_close_reason(close_reason_);
  } else if (close_reason_ == v1::REASON_UNSPECIFIED) {
    // Nobody here has ended it: the peer's end of TLS is that of both directions.
    close_reason_ = state_ == State::kOpen ? v1::ENDED_BY_PEER : v1::CLOSED_BY_CLIENT;
  }
  if (server_ != nullptr) server_->Remove(this);
  // After an error, or the peer's end of TLS, what was received before it is still to be read;
  // after our own Close nobody asks for it.
  ended_by_peer_ = state_ == State::kOpen && loss_.ok();
  readable_after_end_ = state_ == State::kOpen;
  const bool readable = readable_after_end_ && !(reads_.empty() && reads_.idle());
  state_ = State::kLost;
  if (!unclaimed_) {
    Publish(v1::ConnectionEvent::CLOSED);
    Audit(/*open=*/false);
  }
  gone_.WakeAll();
  if (binding_ != nullptr) {
    binding_->OnGone();
  } else if (!readable) {
    Bury();
  }
}

// --- a session's binding

SessionMemory& ConnectionRecord::session_memory() {
  if (session_memory_ == nullptr) session_memory_ = std::make_unique<SessionMemory>();
  return *session_memory_;
}

uint64_t ConnectionRecord::BeginBinding(SessionConnection* binding) {
  binding_ = binding;
  return ++epoch_;
}

void ConnectionRecord::EndBinding() {
  binding_ = nullptr;
  unbound_.WakeAll();
  if (unclaimed_) return GiveBack();
  if (state_ == State::kLost && (reads_.empty() || !readable_after_end_)) Bury();
}

streams::Task<absl::Status> ConnectionRecord::WaitUnbound() {
  while (binding_ != nullptr) {
    if (absl::Status status = co_await unbound_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

void ConnectionRecord::StartTlsFromSession(const v1::SessionStartTls& request, uint64_t begin,
                                           absl::Cord taken_back) {
  streams::TlsOptions tls;
  bool server = false;
  RpcStatus status = MakeTls(request.tls(), request.side(), &tls, &server);
  if (status.ok() && upgrading_) {
    status = WrongState(v1::UPGRADE_PENDING, "another StartTls is under way");
  }
  if (status.ok() && state_ != State::kOpen) status = ClosedError();
  if (!status.ok()) {
    upgrade_failure_ = status;
    return writer_.Abort(absl::FailedPreconditionError(status.message()));
  }
  reads_.BeginTlsAt(begin, std::move(taken_back));
  tls_ = TlsBegin{server, begin, writes_.offset()};
  upgrading_ = true;
  loop_->Spawn(Upgrade(shared_from_this(), std::move(tls)));
}

streams::Task<void> ConnectionRecord::Upgrade(std::shared_ptr<ConnectionRecord> self,
                                              streams::TlsOptions tls) {
  streams::StartTlsOptions options = ToStartTlsOptions(tls);
  options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
  const absl::Status status = co_await self->writer_.StartTls(tls.context, std::move(options));
  self->upgrading_ = false;
  if (!status.ok()) {
    // Most failures have closed it already. What was refused before the handshake has not.
    self->upgrade_failure_ = FromEngine(status, EngineCall::kStream, "tls");
    if (!self->writer_.IsClosing()) self->writer_.Abort(status);
    co_return;
  }
  self->session_memory().read_marks.EndUpgrade(self->tls().value_or(v1::TlsInfo()));
  if (self->binding_ != nullptr) self->binding_->OnTlsStarted();
}

v1::Closed ConnectionRecord::ClosedFrame() const {
  v1::Closed closed;
  if (!loss_.ok()) *closed.mutable_status() = loss_.ToProto();
  *closed.mutable_offsets() = offsets();
  closed.set_reason(close_reason_);
  return closed;
}

void ConnectionRecord::Bury() {
  if (state_ == State::kGone) return;
  // The table's reference may be the last.
  const std::shared_ptr<ConnectionRecord> self = shared_from_this();
  auto tombstone = std::make_shared<ConnectionTombstone>();
  tombstone->last = Snapshot();
  tombstone->last.set_state(v1::CONNECTION_STATE_CLOSED);
  tombstone->last.set_read_buffered(0);
  tombstone->last.mutable_offsets()->set_read_kept(tombstone->last.offsets().read_offset());
  tombstone->loss = LossError();
  tombstone->eof = ended_by_peer_;
  state_ = State::kGone;
  lease_.Stop();
  tombstone_ = std::move(tombstone);
  core_->connections.Bury(handle_, tombstone_,
                          sizeof(ConnectionTombstone) + tombstone_->last.SpaceUsedLong());
}

void ConnectionRecord::Close(v1::Reason reason, bool discard, v1::Phase phase) {
  switch (state_) {
    case State::kOpen:
      state_ = State::kClosing;
      intent_ = reason;
      intent_phase_ = phase;
      half_close_timer_.Cancel();
      idle_timer_.Cancel();
      if (!unclaimed_) Publish(v1::ConnectionEvent::CLOSING);
      writer_.Close(discard);
      break;
    case State::kClosing:
      if (!discard) break;
      intent_ = reason;
      writer_.Close(/*discard_pending=*/true);
      break;
    case State::kLost:
      // Whoever closes does not want to read what is left.
      if (reads_.idle()) Bury();
      break;
    case State::kGone:
    case State::kReleased:
      break;
  }
}

void ConnectionRecord::Abort(v1::Reason reason) {
  if (state_ != State::kOpen && state_ != State::kClosing) return Close(reason);
  state_ = State::kClosing;
  intent_ = reason;
  writer_.Abort();
}

streams::Task<absl::Status> ConnectionRecord::WaitGone() {
  while (state_ == State::kOpen || state_ == State::kClosing) {
    if (absl::Status status = co_await gone_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

AcceptedSocket ConnectionRecord::Release() {
  state_ = State::kReleased;
  claim_timer_.Cancel();
  idle_timer_.Cancel();
  half_close_timer_.Cancel();
  lease_.Stop();
  writer_.NotifyClosed(nullptr);
  gone_.WakeAll();
  server_->Remove(this);
  AcceptedSocket socket{
      .connection = {reads_.reader(), writer_},
      .descriptor = std::move(descriptor_),
      .proxy_header = proxy_header_ != nullptr ? std::optional(*proxy_header_) : std::nullopt,
      .skip = reads_.skip(),
      .tls = tls_.has_value()};
  core_->connections.Erase(handle_);
  return socket;
}

// --- timers

void ConnectionRecord::OnHalfCloseTimer() {
  Close(v1::ENDED_BY_TIMEOUT, /*discard=*/false, v1::PHASE_HALF_CLOSE);
}

void ConnectionRecord::RestartClaimTimer() {
  if (unclaimed_) claim_timer_.SetAfter(core_->options.limits.claim_timeout);
}

void ConnectionRecord::GiveBack() {
  if (state_ != State::kOpen || !unclaimed_) return;
  // The session that was offered it lets go, which ends here again.
  if (binding_ != nullptr) return binding_->Fence();
  const std::shared_ptr<ConnectionRecord> self = shared_from_this();
  server_->TakeBack(Release());
}

void ConnectionRecord::OnLeaseExpired() {
  const std::shared_ptr<ConnectionRecord> self = shared_from_this();
  switch (state_) {
    case State::kOpen:
      Close(v1::LEASE_EXPIRED, /*discard=*/false, v1::PHASE_LEASE);
      break;
    case State::kClosing:
      // The close time-out ends it, if there is one.
      if (settings_->close_timeout == absl::InfiniteDuration()) Abort(v1::LEASE_EXPIRED);
      break;
    case State::kLost:
      Bury();
      break;
    case State::kGone:
    case State::kReleased:
      break;
  }
}

void ConnectionRecord::ArmTimeouts() {
  idle_timer_.Cancel();
  if (state_ != State::kOpen) return;
  if (settings_->idle_timeout != absl::InfiniteDuration()) {
    idle_bytes_ = reads_.received() + writes_.flushed();
    idle_since_ = loop_->Now();
    idle_timer_.SetAfter(settings_->idle_timeout / kIdleLooks);
  }
  if (half_closed_) {
    half_closed_ = false;
    ArmHalfClose();
  }
}

void ConnectionRecord::OnIdleTimer() {
  const uint64_t bytes = reads_.received() + writes_.flushed();
  const absl::Time now = loop_->Now();
  if (bytes != idle_bytes_) {
    idle_bytes_ = bytes;
    idle_since_ = now;
  }
  const absl::Time due = idle_since_ + settings_->idle_timeout;
  if (now >= due) {
    Close(v1::ENDED_BY_TIMEOUT, /*discard=*/false, v1::PHASE_IDLE);
  } else {
    // Looking only when it is due would count bytes from that look on, and could double the time.
    idle_timer_.Set(std::min(due, now + settings_->idle_timeout / kIdleLooks));
  }
}

void ConnectionRecord::ArmHalfClose() {
  const bool ours = writes_.eof();
  const bool theirs = reads_.reader().eof_received();
  if (ours && theirs) {
    half_close_timer_.Cancel();
  } else if ((ours || theirs) && !half_closed_ && state_ == State::kOpen) {
    half_closed_ = true;
    half_close_timer_.SetAfter(settings_->half_close_timeout);
  }
}

void ConnectionRecord::OnPeerEof() {
  if (state_ != State::kOpen) return;
  ArmHalfClose();
  if (!unclaimed_) Publish(v1::ConnectionEvent::PEER_EOF);
}

RpcStatus ConnectionRecord::WriteEof() {
  RpcStatus status = writes_.WriteEof();
  OnWrote();
  return status;
}

void ConnectionRecord::OnWrote() {
  if (writes_.eof()) ArmHalfClose();
}

// --- what is told

v1::Offsets ConnectionRecord::offsets() const {
  v1::Offsets offsets;
  offsets.set_read_offset(reads_.next());
  offsets.set_read_kept(reads_.kept_start());
  offsets.set_received(reads_.received());
  offsets.set_write_offset(writes_.offset());
  offsets.set_flushed(writes_.flushed());
  return offsets;
}

v1::Connection ConnectionRecord::Snapshot() const {
  v1::Connection connection;
  connection.set_handle(std::string(handle_.bytes()));
  switch (state_) {
    case State::kOpen:
      connection.set_state(v1::CONNECTION_STATE_OPEN);
      break;
    case State::kClosing:
      connection.set_state(v1::CONNECTION_STATE_CLOSING);
      break;
    default:
      connection.set_state(v1::CONNECTION_STATE_CLOSED);
      break;
  }
  *connection.mutable_peer() = ToProto(writer_.peername());
  *connection.mutable_local() = ToProto(writer_.sockname());
  if (server_ != nullptr) connection.set_server(std::string(server_->handle().bytes()));
  if (proxy_header_ != nullptr && proxy_header_->source.is_ip()) {
    *connection.mutable_proxied_source() = ToTcpProto(proxy_header_->source);
    *connection.mutable_proxied_destination() = ToTcpProto(proxy_header_->destination);
  }
  *connection.mutable_offsets() = offsets();
  connection.set_read_buffered(reads_.buffered());
  connection.set_write_buffered(writes_.buffered());
  connection.set_at_eof(reads_.reader().AtEof());
  connection.set_write_eof(writes_.eof());
  connection.set_epoch(epoch_);
  connection.set_bound(binding_ != nullptr);
  *connection.mutable_opened_at() = ToProto(opened_at_wall_);
  *connection.mutable_last_used_at() =
      ToProto(std::max(opened_at_wall_, core_->Wall(lease_.last_used())));
  if (connection.state() == v1::CONNECTION_STATE_CLOSED) {
    *connection.mutable_closed_at() = ToProto(closed_at_wall_);
    connection.set_close_reason(close_reason_);
    connection.set_close_phase(close_phase_);
    if (!loss_.ok()) {
      connection.set_close_message(ToUtf8(loss_.message()));
      connection.set_close_errno(loss_.detail().os_errno());
    }
  }
  *connection.mutable_options() = settings_->shown;
  connection.set_requested_host(ToUtf8(requested_host_));
  if (std::optional<v1::TlsInfo> info = tls()) *connection.mutable_tls() = *std::move(info);
  return connection;
}

std::optional<v1::TlsInfo> ConnectionRecord::tls() const {
  const streams::TlsInfo* const agreed = writer_.tls_info();
  if (agreed == nullptr || !tls_.has_value()) return std::nullopt;
  v1::TlsInfo info = ToProto(*agreed, tls_->server_side);
  info.set_read_offset(tls_->read_offset);
  info.set_write_offset(tls_->write_offset);
  return info;
}

RpcStatus ConnectionRecord::MakeTls(const v1::TlsOptions& options, v1::StartTlsRequest::Side side,
                                    streams::TlsOptions* tls, bool* server) const {
  *server = side == v1::StartTlsRequest::SERVER ||
            (side == v1::StartTlsRequest::SIDE_UNSPECIFIED && server_ != nullptr);
  const auto engine_side = *server ? streams::TlsSide::kServer : streams::TlsSide::kClient;
  if (RpcStatus status = CheckTls(options, engine_side); !status.ok()) return status;
  return core_->tls.Make(options, engine_side, principal_->name, tls);
}

streams::Task<RpcStatus> ConnectionRecord::StartTls(const v1::StartTlsRequest& request) {
  if (state_ == State::kLost && !loss_.ok()) co_return LossError();
  if (state_ != State::kOpen) co_return ClosedError();
  streams::TlsOptions tls;
  bool server = false;
  RpcStatus status = MakeTls(request.tls(), request.side(), &tls, &server);
  if (!status.ok()) co_return status;
  if (upgrading_) co_return WrongState(v1::UPGRADE_PENDING, "another StartTls is under way");
  if (writes_.eof()) co_return WrongState(v1::WRITE_AFTER_EOF, "StartTls after write_eof");
  if (reads_.reader().eof_received()) {
    co_return WrongState(v1::UNSUPPORTED, "the peer has ended its direction already");
  }
  // From here to the handshake nothing is awaited: no byte can come between.
  status = reads_.BeginTls(request.has_read_offset() ? std::optional(request.read_offset())
                                                     : std::nullopt);
  if (!status.ok()) {
    *status.detail().mutable_offsets() = offsets();
    co_return status;
  }
  const std::optional<TlsBegin> before = tls_;
  tls_ = TlsBegin{server, reads_.received() - reads_.buffered(), writes_.offset()};
  streams::StartTlsOptions options = ToStartTlsOptions(tls);
  options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
  upgrading_ = true;
  const absl::Status upgraded = co_await writer_.StartTls(tls.context, std::move(options));
  upgrading_ = false;
  if (upgraded.ok()) co_return RpcStatus();
  if (absl::IsFailedPrecondition(upgraded) || absl::IsInvalidArgument(upgraded)) {
    reads_.CancelTls();
    tls_ = before;
    co_return FromEngine(upgraded, EngineCall::kStream, "tls");
  }
  status = FromEngine(upgraded, EngineCall::kStream);
  *status.detail().mutable_offsets() = offsets();
  co_return status;
}

RpcStatus ConnectionRecord::ClosedError() const {
  RpcStatus status = WrongState(v1::CLOSED, state_ == State::kClosing ? "the connection is closing"
                                                                      : "the connection is closed");
  *status.detail().mutable_offsets() = offsets();
  status.detail().set_close_reason(close_reason_ != v1::REASON_UNSPECIFIED ? close_reason_
                                                                           : intent_);
  return status;
}

RpcStatus ConnectionRecord::LossError() const {
  RpcStatus status = loss_;
  if (!status.ok()) *status.detail().mutable_offsets() = offsets();
  return status;
}

RpcStatus ConnectionRecord::SetOptions(const v1::SetOptionsRequest& request) {
  ConnectionSettings settings = *settings_;
  streams::SocketOptions socket;
  if (RpcStatus status = ParseOptionChanges(request, core_->options.limits, &settings, &socket);
      !status.ok()) {
    return status;
  }
  // First what can fail: a refusal by the kernel leaves the rest as it was.
  if (absl::Status status = socket.ApplyTo(writer_.socket().fileno()); !status.ok()) {
    return FromEngine(status, EngineCall::kStream, "options.socket");
  }
  settings_ = core_->settings.Share(std::move(settings));
  (void)writer_.SetWriteBufferLimits(static_cast<int64_t>(settings_->write_high_water),
                                     static_cast<int64_t>(settings_->write_low_water));
  reads_.reader().set_limit(settings_->limit);
  writer_.set_close_timeout(settings_->close_timeout);
  lease_.SetDuration(settings_->lease);
  ArmTimeouts();
  core_->connections.SetLabels(handle_, settings_->labels());
  return RpcStatus();
}

uint64_t ConnectionRecord::Publish(v1::ConnectionEvent::Kind kind) {
  return core_->events.Publish(kind, principal_->name, Snapshot());
}

void ConnectionRecord::Audit(bool open) const {
  const AuditLog* log = core_->options.audit;
  if (log == nullptr) return;
  const std::string peer = writer_.peername().ToString();
  const std::string local = writer_.sockname().ToString();
  AuditEvent event{.kind = open ? AuditEvent::Kind::kOpen : AuditEvent::Kind::kClose,
                   .rpc = rpc_,
                   .principal = principal_->name,
                   .handle = handle_.bytes(),
                   .server = server_ != nullptr ? server_->handle().bytes() : absl::string_view(),
                   .requested = requested_host_,
                   .peer = peer,
                   .local = local,
                   .traceparent = settings_->shown.traceparent()};
  if (!open) {
    event.reason = v1::Reason_Name(close_reason_);
    event.message = loss_.message();
    event.os_errno = loss_.ok() ? 0 : loss_.detail().os_errno();
    event.bytes_read = reads_.next();
    event.bytes_written = writes_.flushed();
    event.lifetime = loop_->Now() - opened_at_;
  }
  log->Record(event);
}

}  // namespace sockbroker::server
