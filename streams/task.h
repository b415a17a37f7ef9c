// Task<T>: a coroutine that runs when awaited and gives its awaiter a T.
//
//   Task<absl::StatusOr<int>> Answer() { co_return 42; }
//   Task<void> Ask() { absl::StatusOr<int> answer = co_await Answer(); }
//
// Lazy (nothing runs before co_await, as with a Python coroutine object) and single-owner: a Task
// is awaited once, by one awaiter, on the loop its awaiter runs on. It inherits its awaiter's loop
// and cancel token. Expected outcomes of the network travel as absl::Status; an exception is a bug
// and propagates to the awaiter. A Task that was never awaited is simply destroyed; one that has
// started must finish before it is (the owner awaits it).
//
// A coroutine lambda's captures die with the lambda, not with the coroutine: pass state as
// parameters.
#pragma once

#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>
#include <variant>

#include "streams/cancel.h"
#include "streams/internal/frame_pool.h"

namespace sockbroker::streams {

class EventLoop;
template <typename T>
class Task;

namespace internal {

// What a coroutine inherits from whoever awaits or spawns it.
struct TaskContext {
  EventLoop* loop = nullptr;
  CancelState* cancel = nullptr;  // null: can't be cancelled
};

class PromiseBase {
 public:
  static void* operator new(std::size_t size) { return AllocateFrame(size); }
  static void operator delete(void* frame, std::size_t size) { FreeFrame(frame, size); }

  std::suspend_always initial_suspend() noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
      return self.promise().continuation_;
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }

  TaskContext& context() { return context_; }
  void Start(TaskContext context, std::coroutine_handle<> continuation) {
    context_ = context;
    continuation_ = continuation;
  }

 private:
  TaskContext context_;
  std::coroutine_handle<> continuation_ = std::noop_coroutine();
};

template <typename T>
class Promise : public PromiseBase {
 public:
  Task<T> get_return_object();
  template <typename U = T>
    requires std::is_convertible_v<U&&, T>
  void return_value(U&& value) {
    result_.template emplace<1>(std::forward<U>(value));
  }
  void unhandled_exception() { result_.template emplace<2>(std::current_exception()); }
  T TakeResult() {
    if (result_.index() == 2) std::rethrow_exception(std::get<2>(result_));
    return std::move(std::get<1>(result_));
  }

 private:
  std::variant<std::monostate, T, std::exception_ptr> result_;
};

template <>
class Promise<void> : public PromiseBase {
 public:
  Task<void> get_return_object();
  void return_void() {}
  void unhandled_exception() { exception_ = std::current_exception(); }
  void TakeResult() {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  std::exception_ptr exception_;
};

}  // namespace internal

template <typename T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::Promise<T>;
  using value_type = T;

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  // Awaiting consumes the task: `co_await std::move(task)` or `co_await Function()`.
  auto operator co_await() && noexcept { return Awaiter{handle_, nullptr, false}; }

  // For the helpers of this library: await it under another cancel state than the awaiter's (null:
  // none).
  auto AwaitUnder(internal::CancelState* cancel) && noexcept {
    return Awaiter{handle_, cancel, true};
  }

  // For the helpers of this library: gives the frame away.
  std::coroutine_handle<promise_type> Release() && { return std::exchange(handle_, nullptr); }

 private:
  friend promise_type;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}

  struct Awaiter {
    std::coroutine_handle<promise_type> handle;
    internal::CancelState* cancel;
    bool replace_cancel;

    bool await_ready() const noexcept { return false; }
    template <typename Parent>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Parent> parent) noexcept {
      internal::TaskContext context = parent.promise().context();
      if (replace_cancel) context.cancel = cancel;
      handle.promise().Start(context, parent);
      return handle;
    }
    T await_resume() { return handle.promise().TakeResult(); }
  };

  std::coroutine_handle<promise_type> handle_;
};

namespace internal {

template <typename T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

// co_await CurrentContext{} gives the running coroutine's context without suspending it.
struct CurrentContext {
  TaskContext context;
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) noexcept {
    context = self.promise().context();
    return false;
  }
  TaskContext await_resume() const noexcept { return context; }
};

}  // namespace internal

// The token that the running task is under: `CancelToken token = co_await GetCancelToken();`
struct GetCancelToken {
  internal::CurrentContext inner;
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) noexcept {
    return inner.await_suspend(self);
  }
  CancelToken await_resume() const noexcept { return CancelToken(inner.context.cancel); }
};

}  // namespace sockbroker::streams
