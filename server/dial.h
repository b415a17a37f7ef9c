// What makes connections and servers out of checked requests: the runners of creation attempts, on
// their loops.
//
//   CreationOutcome outcome =
//       co_await Dial(core, plan, {principal, attempt->key, "OpenConnection"});
#pragma once

#include <memory>
#include <string>

#include "server/broker_core.h"
#include "server/creation.h"
#include "server/options_codec.h"
#include "server/principal.h"
#include "streams/task.h"

namespace sockbroker::server {

// On whose behalf.
struct Maker {
  std::shared_ptr<const Principal> principal;
  std::string request_key;
  std::string rpc;
};

// OpenConnection and OpenUnixConnection. Cancelled, it leaves nothing behind.
streams::Task<CreationOutcome> Dial(BrokerCore* core, OpenPlan plan, Maker maker);
// StartServer and StartUnixServer.
streams::Task<CreationOutcome> Serve(BrokerCore* core, ServePlan plan, Maker maker);
// Accept: from `server`, on its loop; null: it is closed and gone.
streams::Task<CreationOutcome> AcceptFrom(BrokerCore* core, std::shared_ptr<ServerRecord> server,
                                          Maker maker);

// Nobody wants what an attempt of theirs has made: an accepted connection goes back to its server,
// the others are closed. On the loop that made it.
void UndoConnection(BrokerCore* core, const Principal& principal, const Handle& handle);
void UndoServer(BrokerCore* core, const Principal& principal, const Handle& handle);

}  // namespace sockbroker::server
