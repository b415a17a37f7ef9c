// CancelSource and CancelToken: how a wait is told to end early.
//
//   CancelSource source;
//   auto result = co_await WithCancel(reader.Read(100), source.token());  // kCancelled after this:
//   source.Cancel();                                                      // from another task
//
// Every task runs under a token that it inherits from whoever awaits it. Cancelling resumes the
// innermost wait with the given status (kCancelled or kDeadlineExceeded); nothing is destroyed
// under way, and a result that came first wins. Cancellation is level-triggered: once cancelled,
// every later wait under the token ends at once too, so code that ignores the status can't go on
// waiting. `Shielded` (with_cancel.h) runs clean-up that must wait all the same.
//
// All of this lives on one loop's thread. To cancel from another thread, Post to the loop.
#pragma once

#include "absl/status/status.h"

namespace sockbroker::streams {

namespace internal {

// A member of an intrusive list: told once when the state it is linked to is cancelled. Unlinks
// itself when destroyed.
class CancelListener {
 public:
  CancelListener() = default;
  CancelListener(const CancelListener&) = delete;
  CancelListener& operator=(const CancelListener&) = delete;

  // Called once, unlinked already. Must not destroy other listeners' owners synchronously.
  virtual void OnCancel(const absl::Status& reason) = 0;

 protected:
  ~CancelListener() { Unlink(); }

  void Unlink() {
    if (prev_ == nullptr) return;
    prev_->next_ = next_;
    next_->prev_ = prev_;
    prev_ = next_ = nullptr;
  }

 private:
  friend class CancelState;
  struct RootTag {};
  explicit CancelListener(RootTag) : prev_(this), next_(this) {}

  CancelListener* prev_ = nullptr;
  CancelListener* next_ = nullptr;
};

class CancelState {
 public:
  CancelState() = default;
  CancelState(const CancelState&) = delete;
  CancelState& operator=(const CancelState&) = delete;
  ~CancelState() {
    while (root_.next_ != &root_) root_.next_->Unlink();
  }

  bool cancelled() const { return !reason_.ok(); }
  const absl::Status& reason() const { return reason_; }

  // The first reason stays. `reason` must not be OK.
  void Cancel(absl::Status reason) {
    if (cancelled()) return;
    reason_ = std::move(reason);
    while (root_.next_ != &root_) {
      CancelListener* listener = root_.next_;
      listener->Unlink();
      listener->OnCancel(reason_);
    }
  }

  // `listener` must not be linked. The caller has seen that this state is not cancelled.
  void Link(CancelListener* listener) {
    listener->prev_ = root_.prev_;
    listener->next_ = &root_;
    root_.prev_->next_ = listener;
    root_.prev_ = listener;
  }

 private:
  struct Root final : CancelListener {
    Root() : CancelListener(RootTag{}) {}
    void OnCancel(const absl::Status&) override {}
  };
  absl::Status reason_;
  Root root_;
};

}  // namespace internal

// A view of a CancelSource, which must outlive it. The default token is never cancelled.
class CancelToken {
 public:
  CancelToken() = default;
  bool cancelled() const { return state_ != nullptr && state_->cancelled(); }
  // OK while not cancelled, then the reason.
  absl::Status status() const { return cancelled() ? state_->reason() : absl::OkStatus(); }

  explicit CancelToken(internal::CancelState* state) : state_(state) {}
  internal::CancelState* state() const { return state_; }

 private:
  internal::CancelState* state_ = nullptr;
};

// Owns the decision to cancel. With a parent, it is cancelled with its parent too, for the parent's
// reason.
class CancelSource final : private internal::CancelListener {
 public:
  CancelSource() = default;
  explicit CancelSource(CancelToken parent) {
    if (parent.state() == nullptr) return;
    if (parent.cancelled()) {
      state_.Cancel(parent.status());
    } else {
      parent.state()->Link(this);
    }
  }

  // Idempotent; the first reason stays.
  void Cancel(absl::Status reason = absl::CancelledError("cancelled")) {
    state_.Cancel(std::move(reason));
  }
  bool cancelled() const { return state_.cancelled(); }
  CancelToken token() { return CancelToken(&state_); }

 private:
  void OnCancel(const absl::Status& reason) override { state_.Cancel(reason); }

  internal::CancelState state_;
};

}  // namespace sockbroker::streams
