// `sockbroker attach`: a connection that is there already, joined to stdin and stdout or to files:
// one that `connect --detach` has left, that a program made by the unary calls, or whose client has
// died.
//
//   AttachFlags flags{.handle = "9f86", .output = "backup.tar", .go_on = true};
//   return RunAttach(address, flags, &interrupt);
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/broker_address.h"
#include "client/interrupt.h"

namespace sockbroker::client {

struct AttachFlags {
  // The first digits suffice.
  std::string handle;
  // Take it from the client that has it.
  bool steal = false;
  // Seconds to wait for that client to go: one that died a moment ago still seems to be there.
  double wait = 2;
  // Files in place of stdin and stdout; empty: these.
  std::string input;
  std::string output;
  // Go on where the files stand: append to `output`, skip what was sent of `input`.
  bool go_on = false;
  // The stream offset at which `output`, and `input`, begin.
  uint64_t base = 0;
  uint64_t input_base = 0;
  // The stream offset to read from; absent: the first byte that nobody has taken.
  std::optional<uint64_t> from;
  // Leave it open at the end.
  bool detach = false;
  // Absent: when `input` is given, but over TLS no.
  std::optional<bool> half_close;
  // Seconds; negative: for ever.
  std::optional<double> quit_after_input;
  std::optional<double> timeout;
  bool crlf = false;
  bool verbose = false;
  bool json = false;
};

// The program's exit status. `interrupt` catches no signals yet.
int RunAttach(const BrokerAddress& address, const AttachFlags& flags, Interrupt* interrupt);

}  // namespace sockbroker::client
