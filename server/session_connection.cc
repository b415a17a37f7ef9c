#include "server/session_connection.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::server {

using session::Position;
using streams::Task;

namespace {

// What is asked of the kernel at once, bytes.
constexpr std::size_t kMaxAppetite = 256 * 1024;

// Whoever had it before knows what it said; another's words in between it would take for its own.
RpcStatus CheckTurn(ConnectionRecord& record, const TakeOverRequest& request) {
  const SessionMemory& memory = record.session_memory();
  const bool known = memory.holder == request.holder;
  const bool stale = known ? !request.reopened && request.attempt < memory.attempt
                           : request.epoch != 0 || (request.reopened && !memory.holder.empty());
  if (stale) return StaleEpoch(record.epoch());
  if (record.binding() != nullptr && !known && !request.steal) return IsBound(record.epoch());
  return RpcStatus();
}

}  // namespace

v1::Closed ClosedFrame(const ConnectionTombstone& tombstone) {
  v1::Closed closed;
  *closed.mutable_status() = tombstone.loss.ToProto();
  *closed.mutable_offsets() = tombstone.last.offsets();
  closed.set_reason(tombstone.last.close_reason());
  return closed;
}

Task<TakeOverResult> TakeOver(std::shared_ptr<ConnectionRecord> record, TakeOverRequest request) {
  TakeOverResult result;
  const Lease::Use use = record->BeginCall();
  while (true) {
    if (record->state() == ConnectionRecord::State::kReleased) {
      result.status = NoSuchHandle();
      co_return result;
    }
    if (record->tombstone() != nullptr) {
      result.closed = ClosedFrame(*record->tombstone());
      co_return result;
    }
    result.status = CheckTurn(*record, request);
    if (result.status.ok() && record->upgrading() &&
        !record->session_memory().read_marks.upgrading) {
      result.status = WrongState(v1::UPGRADE_PENDING, "a StartTls is under way");
    }
    if (!result.status.ok()) co_return result;
    absl::Status waited;
    if (!record->reads().idle()) {
      record->reads().EndReads(record->epoch() + 1);
      waited = co_await record->reads().WaitIdle();
    } else if (record->binding() != nullptr) {
      record->binding()->Fence();
      waited = co_await record->WaitUnbound();
    } else {
      break;
    }
    if (!waited.ok()) {
      result.status = CallerGone();
      co_return result;
    }
  }
  SessionConnection::Client client;
  client.holder = request.holder;
  client.attempt = request.reopened ? record->session_memory().attempt : request.attempt;
  client.knows_marks = request.epoch != 0;
  client.read = request.read;
  result.connection = std::make_shared<SessionConnection>(record);
  client.budgets = request.budgets;
  client.limit = request.limit;
  result.status = result.connection->Begin(client, &result.binding);
  if (!result.status.ok()) *result.status.detail().mutable_offsets() = record->offsets();
  co_return result;
}

RpcStatus SessionConnection::Begin(const Client& client, session::BrokerSession::Binding* binding) {
  MemoryGrant held(client.budgets.read);
  MemoryGrant granted(client.budgets.write);
  if (!held.GetReserve() || !granted.GetReserve()) {
    return server::Exhausted(v1::BUDGET, "buffer_memory", client.budgets.read->limit(),
                             absl::Seconds(1),
                             "the memory for what clients have not taken yet is all in use");
  }
  SessionMemory& memory = record_->session_memory();
  const session::ReadMarkLog& log = memory.read_marks;
  std::optional<uint64_t> offset;
  if (client.read.has_value()) {
    offset = client.read->offset;
    // A client that lost the link during an upgrade: what lies between belongs to TLS.
    if (*offset >= log.void_from && *offset < log.void_to) offset = log.void_to;
  }
  if (RpcStatus status = record_->reads().BeginPull(offset, this); !status.ok()) return status;
  Position from{record_->reads().next(), 0};
  const auto stands_before = [&](const auto& mark) { return mark.offset < from.offset; };
  from.marks =
      static_cast<uint32_t>(std::count_if(log.entries.begin(), log.entries.end(), stands_before));
  if (client.knows_marks && client.read.has_value()) {
    // Those that stand right here it may have passed or not.
    const uint32_t passed = client.read->marks;
    if (passed > log.entries.size() ||
        (passed > from.marks && log.entries[passed - 1].offset > from.offset)) {
      record_->reads().EndPull({});
      return RpcStatus(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
                       absl::StrCat(passed, " marks don't go with offset ", from.offset));
    }
    from.marks = std::max(from.marks, passed);
  }
  limit_ = client.limit;
  memory.read = from;
  memory.holder = client.holder;
  memory.attempt = client.attempt;
  flushed_ = record_->writes().flushed();
  binding->epoch = record_->BeginBinding(this);
  binding->connection = shared_from_this();
  binding->info = record_->Snapshot();
  binding->read = from;
  binding->write = {record_->writes().offset(), memory.write_marks};
  binding->window = granted.Grow(kInitialWindow);
  held_ = std::move(held);
  window() = std::move(granted);
  return RpcStatus();
}

void SessionConnection::OnBinding(session::ConnectionListener* listener) {
  listener_ = listener;
  // Offered, it is not claimed yet.
  if (!record_->unclaimed()) use_.emplace(record_->BeginCall());
}

void SessionConnection::TellIfGone() {
  if (record_->state() == ConnectionRecord::State::kLost) OnGone();
}

void SessionConnection::Fence() { listener_->Fence(record_->epoch() + 1); }

absl::Cord SessionConnection::Read(std::size_t max, std::size_t retained) {
  ReadSide& reads = record_->reads();
  if (max > 0 && reads.buffered() > 0) {
    absl::Cord bytes = reads.Pull(max);
    // Who fills what was asked for gets more the next time.
    if (bytes.size() >= asked_) {
      appetite_ = std::min(4 * appetite_, kMaxAppetite);
    } else if (bytes.size() < asked_ / 4) {
      appetite_ = std::max(appetite_ / 2, MemoryBudget::kReserve);
    }
    return bytes;
  }
  asked_ = std::min({max, appetite_, retained < limit_ ? limit_ - retained : 0});
  Charge(retained);
  if (asked_ == 0 && max > 0 && retained < limit_) WaitForRoom();
  return reads.Pull(asked_);
}

void SessionConnection::Charge(std::size_t retained) {
  const std::size_t wanted = std::max(retained + asked_, MemoryBudget::kReserve);
  const std::size_t have = held_.Grow(wanted);
  asked_ = have > retained ? std::min(asked_, have - retained) : 0;
  // Small change is kept for the next read.
  if (have > wanted + kMaxAppetite) held_.Shrink(wanted);
}

void SessionConnection::OnTaken(std::size_t retained) {
  const std::size_t wanted = std::max(retained + asked_, MemoryBudget::kReserve);
  if (held_.bytes() > wanted + kMaxAppetite / 4 || retained == 0) held_.Shrink(wanted);
}

void SessionConnection::WaitForRoom() {
  if (std::exchange(waiting_for_room_, true)) return;
  held_.budget()->WaitForRoom(record_->loop(), [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->waiting_for_room_ = false;
    if (self->listener_ != nullptr) self->listener_->OnReadable();
  });
}

bool SessionConnection::Exhausted() const {
  return record_->reads().buffered() == 0 &&
         (AtEof() || record_->state() == ConnectionRecord::State::kLost);
}

absl::Status SessionConnection::Write(absl::Cord bytes) {
  if (absl::Status status = record_->writes().WriteFromSession(std::move(bytes)); !status.ok()) {
    return status;
  }
  // The kernel took it at once, or some of it.
  OnFlushed();
  return absl::OkStatus();
}

void SessionConnection::StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) {
  record_->StartTlsFromSession(request, read_marks().void_to, std::move(taken_back));
}

void SessionConnection::Unbind(Position read, absl::Cord unread, Position write) {
  const std::shared_ptr<ConnectionRecord> record = record_;
  SessionMemory& memory = record->session_memory();
  memory.read = read;
  memory.write_marks = write.marks;
  record->reads().EndPull(std::move(unread));
  listener_ = nullptr;
  held_ = MemoryGrant();
  window() = MemoryGrant();
  use_.reset();
  record->EndBinding();
}

void SessionConnection::OnGone() {
  if (listener_ == nullptr) return;
  const RpcStatus loss = record_->LossError();
  if (!loss.ok() && !Exhausted()) listener_->OnWriteClosed(loss.ToProto());
  listener_->OnGone(record_->ClosedFrame());
}

void SessionConnection::OnTlsStarted() {
  if (listener_ != nullptr) listener_->OnTlsStarted();
}

void SessionConnection::OnReadable() {
  if (listener_ != nullptr) listener_->OnReadable();
}

void SessionConnection::OnFlushed() {
  const uint64_t flushed = record_->writes().flushed();
  if (listener_ == nullptr || flushed == std::exchange(flushed_, flushed)) return;
  listener_->OnFlushed();
}

}  // namespace sockbroker::server
