#include "server/creation_call.h"

namespace sockbroker::server {

grpc::ServerUnaryReactor* CreationCall::Start(BrokerCore* core, CreationSpec spec, Fill fill) {
  std::shared_ptr<CreationCall> call(new CreationCall(core, std::move(fill)));
  call->self_ = call;
  grpc::ServerUnaryReactor* const reactor = call.get();
  CreationTable::Entered entered = BeginCreation(
      core, std::move(spec), [call](const CreationOutcome& outcome) { call->OnOutcome(outcome); });
  if (!entered.status.ok()) {
    if (call->Claim()) call->Finish(entered.status.ToGrpc());
    return reactor;
  }
  // gRPC calls OnCancel only after this method has returned.
  call->attempt_ = entered.attempt;
  call->waiter_ = entered.waiter;
  return reactor;
}

void CreationCall::OnOutcome(const CreationOutcome& outcome) {
  if (!outcome.status.ok()) {
    if (Claim()) Finish(outcome.status.ToGrpc());
    return;
  }
  const std::shared_ptr<CreationCall> self = shared_from_this();
  fill_(
      outcome.handle, [self] { return self->Claim(); },
      [self](const RpcStatus& status) { self->Finish(status.ToGrpc()); });
}

void CreationCall::OnCancel() {
  if (attempt_ != nullptr) core_->creations.Leave(attempt_, waiter_);
  if (Claim()) Finish(CallerGone().ToGrpc());
}

void CreationCall::OnDone() { const std::shared_ptr<CreationCall> self = std::move(self_); }

}  // namespace sockbroker::server
