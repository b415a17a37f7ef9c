// What the exit status of `sockbroker` says. `sockbroker --help` and client/README.md list the
// same.
//
//   return kExitUsage;
//   return ExitBySignal(SIGINT);   // 130, as a shell reports it
#pragma once

namespace sockbroker::client {

// Everything went well. For `connect -z`: at least one port answered.
inline constexpr int kExitOk = 0;
// The broker said no, or the network did: refused, reset, timed out, no such handle. The reason is
// on stderr.
inline constexpr int kExitFailed = 1;
// The command line was not understood.
inline constexpr int kExitUsage = 2;
// The broker could not be reached, or was lost for good.
inline constexpr int kExitNoBroker = 3;
// Another client has taken the connection over (attach --steal).
inline constexpr int kExitFenced = 4;
// Nobody reads what goes to stdout any more: what a shell reports for SIGPIPE.
inline constexpr int kExitBrokenPipe = 141;

constexpr int ExitBySignal(int signal_number) { return 128 + signal_number; }

}  // namespace sockbroker::client
