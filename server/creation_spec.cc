#include "server/creation_spec.h"

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/audit_log.h"

namespace sockbroker::server {
namespace {

streams::Task<void> RunAttempt(BrokerCore* core, std::shared_ptr<const CreationSpec> spec,
                               std::shared_ptr<CreationAttempt> attempt) {
  CreationOutcome outcome;
  try {
    outcome = co_await spec->make({spec->principal, attempt->key, spec->rpc});
  } catch (const std::exception& error) {
    outcome.status = RpcStatus(grpc::StatusCode::INTERNAL, v1::REASON_UNSPECIFIED, error.what());
  }
  // Cancelled though somebody still waits: only a drain does that.
  if (outcome.status.code() == grpc::StatusCode::CANCELLED && core->draining) {
    outcome.status = Draining();
  }
  if (!outcome.status.ok()) spec->refused(outcome.status);
  const Handle handle = outcome.handle;
  const bool made = outcome.status.ok();
  if (!core->creations.Finish(attempt, std::move(outcome)) && made) spec->undo(handle);
}

// Both kinds of open, once the request is a plan.
RpcStatus FinishSpec(BrokerCore* core, OpenPlan plan, CreationSpec* spec) {
  const std::string requested =
      plan.is_unix ? plan.unix_path
                   : absl::StrCat(plan.requested_host, ":",
                                  plan.port.is_service() ? plan.port.service()
                                                         : absl::StrCat(plan.port.number()));
  spec->refused = [core, requested, principal = spec->principal, rpc = spec->rpc,
                   trace = plan.settings.shown.traceparent()](const RpcStatus& status) {
    AuditRefusal(*core, "connection", rpc, *principal, requested, trace, status);
  };
  RpcStatus status = core->draining
                         ? Draining()
                         : CheckRights(*spec->principal, plan.is_unix, plan.sock.has_value());
  if (!status.ok()) {
    spec->refused(status);
    return status;
  }
  spec->make = [core, plan = std::move(plan)](Maker maker) {
    return Dial(core, plan, std::move(maker));
  };
  spec->undo = [core, principal = spec->principal](const Handle& handle) {
    UndoConnection(core, *principal, handle);
  };
  return status;
}

}  // namespace

std::string CreationKey(const Principal& principal, absl::string_view request_id) {
  if (request_id.empty()) return "";
  return absl::StrCat(principal.name, absl::string_view("\0", 1), request_id);
}

CreationTable::Entered BeginCreation(BrokerCore* core, CreationSpec spec,
                                     CreationTable::Done done) {
  const auto shared = std::make_shared<const CreationSpec>(std::move(spec));
  CreationTable::Entered entered = core->creations.Enter(
      CreationKey(*shared->principal, shared->request_id), shared->fingerprint,
      shared->abandonable || shared->request_id.empty(), shared->loop, std::move(done));
  if (entered.status.ok() && entered.start) {
    shared->loop->Dispatch([core, shared, attempt = entered.attempt] {
      shared->loop->Spawn(RunAttempt(core, shared, attempt), attempt->cancel.token().state());
    });
  }
  return entered;
}

RpcStatus SpecOfOpen(BrokerCore* core, std::shared_ptr<const Principal> principal,
                     const v1::OpenConnectionRequest& request, CreationSpec* spec) {
  OpenPlan plan;
  if (RpcStatus status = ParseOpen(request, core->options.limits, &plan); !status.ok()) {
    return status;
  }
  *spec = MakeSpec(std::move(principal), "OpenConnection", request);
  return FinishSpec(core, std::move(plan), spec);
}

RpcStatus SpecOfOpen(BrokerCore* core, std::shared_ptr<const Principal> principal,
                     const v1::OpenUnixConnectionRequest& request, CreationSpec* spec) {
  OpenPlan plan;
  if (RpcStatus status = ParseOpenUnix(request, core->options.limits, &plan); !status.ok()) {
    return status;
  }
  *spec = MakeSpec(std::move(principal), "OpenUnixConnection", request);
  return FinishSpec(core, std::move(plan), spec);
}

RpcStatus CheckRights(const Principal& principal, bool is_unix, bool adopts) {
  if (!principal.may_open) {
    return Denied(principal.rule,
                  "callers of this listener get nothing without a policy; sockbrokerd --allow-all "
                  "lets them open everything");
  }
  if (is_unix && !principal.may_use_unix) {
    return Denied(principal.rule, "callers of this listener get no Unix sockets");
  }
  if (adopts && !principal.may_adopt) {
    return Denied(principal.rule, "callers of this listener get no adopted descriptors");
  }
  return RpcStatus();
}

void AuditRefusal(const BrokerCore& core, absl::string_view object, absl::string_view rpc,
                  const Principal& principal, absl::string_view requested,
                  absl::string_view traceparent, const RpcStatus& status) {
  if (core.options.audit == nullptr) return;
  core.options.audit->Record({.kind = AuditEvent::Kind::kRefusal,
                              .object = object,
                              .rpc = rpc,
                              .principal = principal.name,
                              .requested = requested,
                              .reason = v1::Reason_Name(status.reason()),
                              .message = status.message(),
                              .os_errno = status.detail().os_errno(),
                              .traceparent = traceparent});
}

}  // namespace sockbroker::server
