// Interrupt: the user's wish to stop (SIGINT, SIGTERM, SIGHUP), seen by whoever polls and whoever
// waits in a call.
//
//   Interrupt interrupt;
//   interrupt.CatchSignals();                  // before any thread is started
//   poll(interrupt.fd()) ...                   // readable from the first signal on
//
// The first signal raises it; from then on signals have their default effect, so that a second
// Ctrl-C ends at once a program whose clean end takes too long.
#pragma once

#include <csignal>
#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace sockbroker::client {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Blocks the signals in this thread, and so in all that it starts, and waits for them in a thread
  // of its own. A SIGHUP that is ignored (nohup) stays ignored. At most once.
  void CatchSignals();
  // What a signal does; tests call it too.
  void Raise(int signal_number);

  // Readable once raised, for ever. Not to be read from.
  int fd() const { return fd_; }
  bool raised() const { return signal_number() != 0; }
  // 0 until raised.
  int signal_number() const;

  // Calls `function` when raised (at once, in this thread, if it already is) until the Subscription
  // goes.
  class Subscription {
   public:
    Subscription(Interrupt* interrupt, std::function<void()> function);
    ~Subscription();
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    Interrupt* interrupt_;
    int id_ = 0;
  };

 private:
  void WaitForSignals();

  int fd_;
  int stop_fd_;
  sigset_t signals_;
  mutable absl::Mutex mutex_;
  int signal_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int, std::function<void()>> functions_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace sockbroker::client
