// CreationSpec: what a request asks to be made, whether a unary call or a session asks, and how an
// attempt at it runs.
//
//   CreationSpec spec;
//   RpcStatus status = SpecOfOpen(core, principal, request, &spec);
//   if (!status.ok()) return status;
//   auto entered = BeginCreation(core, std::move(spec), [](const CreationOutcome&) {});
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/broker_core.h"
#include "server/creation.h"
#include "server/dial.h"
#include "server/errors.h"
#include "server/options_codec.h"
#include "server/principal.h"
#include "sockbroker/v1/connection.pb.h"
#include "streams/task.h"

namespace sockbroker::server {

struct CreationSpec {
  std::shared_ptr<const Principal> principal;
  std::string request_id;
  std::string fingerprint;
  std::string rpc;
  // The attempt ends when nobody waits for it any more. Always so without a request_id.
  bool abandonable = false;
  streams::EventLoop* loop = nullptr;
  // Makes it, on `loop`, under the attempt's cancel token.
  std::function<streams::Task<CreationOutcome>(Maker)> make;
  // Undoes it when nobody wants it any more, on `loop`.
  std::function<void(const Handle&)> undo;
  // Told of a refusal.
  std::function<void(const RpcStatus&)> refused;
};

// Joins the attempt that is under way for the request_id (or has its result), or begins one. `done`
// may be called before this returns, and on any thread.
CreationTable::Entered BeginCreation(BrokerCore* core, CreationSpec spec, CreationTable::Done done);

// The creation table's key of a principal's request; "" without an id.
std::string CreationKey(const Principal& principal, absl::string_view request_id);

template <typename Request>
CreationSpec MakeSpec(std::shared_ptr<const Principal> principal, absl::string_view rpc,
                      const Request& request) {
  CreationSpec spec;
  spec.principal = std::move(principal);
  spec.request_id = request.request_id();
  // Hashing is for those who may ask again.
  if (!spec.request_id.empty()) spec.fingerprint = Fingerprint(rpc, request);
  spec.rpc = std::string(rpc);
  return spec;
}

// OpenConnection, OpenUnixConnection: checked, refusals audited; the loop is still to be chosen.
RpcStatus SpecOfOpen(BrokerCore* core, std::shared_ptr<const Principal> principal,
                     const v1::OpenConnectionRequest& request, CreationSpec* spec);
RpcStatus SpecOfOpen(BrokerCore* core, std::shared_ptr<const Principal> principal,
                     const v1::OpenUnixConnectionRequest& request, CreationSpec* spec);

// What the listener a caller came through forbids by itself. Unix sockets and adopted descriptors
// lend the caller the broker's own rights.
RpcStatus CheckRights(const Principal& principal, bool is_unix, bool adopts);
// A line in the audit log, if there is one.
void AuditRefusal(const BrokerCore& core, absl::string_view object, absl::string_view rpc,
                  const Principal& principal, absl::string_view requested,
                  absl::string_view traceparent, const RpcStatus& status);

}  // namespace sockbroker::server
