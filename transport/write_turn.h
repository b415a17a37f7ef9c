// WriteTurn: one write at a time on a gRPC stream. The loop that writes hears of a write's end only
// if it has waited for it: to tell it of every one costs a wake-up each.
//
//   while (HasOutput() && turn_.Free()) {  // on the loop
//     turn_.Begin();
//     StartWrite(&message_);
//   }
//   ...
//   void OnWriteDone(bool ok) override {  // on gRPC's thread
//     if (turn_.End()) OnLoop([this] { Flush(); });
//   }
#pragma once

#include <atomic>

namespace sockbroker {

class WriteTurn {
 public:
  // Whether no write is under way. If one is, its End will be true. The writer's thread.
  bool Free() {
    State state = State::kWriting;
    return state_.load(std::memory_order_acquire) == State::kFree ||
           (!state_.compare_exchange_strong(state, State::kAwaited) && state == State::kFree);
  }
  // The writer's thread, while it is free.
  void Begin() { state_.store(State::kWriting, std::memory_order_relaxed); }
  // Of the write. True: the writer waits for it. Any thread.
  bool End() { return state_.exchange(State::kFree) == State::kAwaited; }

 private:
  enum class State : int { kFree, kWriting, kAwaited };
  std::atomic<State> state_{State::kFree};
};

}  // namespace sockbroker
