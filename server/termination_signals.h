// TerminationSignals: SIGTERM and SIGINT as calls on a thread of its own, not as handlers in the
// middle of anything.
//
//   TerminationSignals signals([](int signal, int count) {      // count: 1, 2, ...
//     if (count > 1) _exit(128 + signal);
//     drain.Notify();
//   });
#pragma once

#include <functional>
#include <thread>

#include "streams/descriptor.h"

namespace sockbroker::server {

class TerminationSignals {
 public:
  // Blocks the two signals (threads started later inherit that: make this one first) and ignores
  // SIGPIPE. `on_signal` runs on the thread of this object. Throws std::system_error without
  // descriptors.
  explicit TerminationSignals(std::function<void(int signal, int count)> on_signal);
  // Nothing is called any more. The signals stay blocked.
  ~TerminationSignals();
  TerminationSignals(const TerminationSignals&) = delete;
  TerminationSignals& operator=(const TerminationSignals&) = delete;

 private:
  void Run();

  const std::function<void(int signal, int count)> on_signal_;
  streams::Descriptor signals_;
  streams::Descriptor stop_;
  std::thread thread_;
};

}  // namespace sockbroker::server
