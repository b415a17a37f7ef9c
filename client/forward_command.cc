#include "client/forward_command.h"

#include "absl/status/status.h"
#include "client/console.h"

namespace sockbroker::client {

int RunForward(const BrokerAddress& /*address*/, const ForwardOptions& /*options*/,
               Interrupt* /*interrupt*/) {
  // TODO: listeners, relays, SOCKS; the word joins the command line with them.
  return FailWith(absl::UnimplementedError("forward is not there yet"));
}

}  // namespace sockbroker::client
