#include "server/creation_call.h"

#include "absl/strings/str_cat.h"

namespace sockbroker::server {

grpc::ServerUnaryReactor* CreationCall::Start(BrokerCore* core, Spec spec) {
  std::shared_ptr<CreationCall> call(new CreationCall(core, std::move(spec)));
  call->self_ = call;
  grpc::ServerUnaryReactor* const reactor = call.get();
  const Spec& s = call->spec_;
  std::string key;
  if (!s.request_id.empty()) {
    key = absl::StrCat(s.principal->name, absl::string_view("\0", 1), s.request_id);
  }
  CreationTable::Entered entered = core->creations.Enter(
      std::move(key), s.fingerprint, s.abandonable || s.request_id.empty(), s.loop,
      [call](const CreationOutcome& outcome) { call->OnOutcome(outcome); });
  if (!entered.status.ok()) {
    if (call->Claim()) call->Finish(entered.status.ToGrpc());
    return reactor;
  }
  // gRPC calls OnCancel only after this method has returned.
  call->attempt_ = entered.attempt;
  call->waiter_ = entered.waiter;
  if (entered.start) {
    s.loop->Post([call, attempt = entered.attempt] {
      call->spec_.loop->Spawn(RunAttempt(call), attempt->cancel.token().state());
    });
  }
  return reactor;
}

streams::Task<void> CreationCall::RunAttempt(std::shared_ptr<CreationCall> self) {
  const std::shared_ptr<CreationAttempt> attempt = self->attempt_;
  CreationOutcome outcome;
  try {
    outcome = co_await self->spec_.make({self->spec_.principal, attempt->key, self->spec_.rpc});
  } catch (const std::exception& error) {
    outcome.status = RpcStatus(grpc::StatusCode::INTERNAL, v1::REASON_UNSPECIFIED, error.what());
  }
  // Cancelled though somebody still waits: only a drain does that.
  if (outcome.status.code() == grpc::StatusCode::CANCELLED && self->core_->draining) {
    outcome.status = Draining();
  }
  if (!outcome.status.ok()) self->spec_.refused(outcome.status);
  const Handle handle = outcome.handle;
  const bool made = outcome.status.ok();
  if (!self->core_->creations.Finish(attempt, std::move(outcome)) && made) self->spec_.undo(handle);
}

void CreationCall::OnOutcome(const CreationOutcome& outcome) {
  if (!outcome.status.ok()) {
    if (Claim()) Finish(outcome.status.ToGrpc());
    return;
  }
  const std::shared_ptr<CreationCall> self = shared_from_this();
  spec_.fill(
      outcome.handle, [self] { return self->Claim(); },
      [self](const RpcStatus& status) { self->Finish(status.ToGrpc()); });
}

void CreationCall::OnCancel() {
  if (attempt_ != nullptr) core_->creations.Leave(attempt_, waiter_);
  if (Claim()) Finish(CallerGone().ToGrpc());
}

void CreationCall::OnDone() { const std::shared_ptr<CreationCall> self = std::move(self_); }

}  // namespace sockbroker::server
