// EventLoop: callbacks, timers and descriptors, run by one thread at a time. asyncio's event loop.
//
//   EventLoop loop;
//   absl::Status status = loop.RunUntilComplete(Main());   // asyncio.run(main())
//
// Everything but `Post`, `Dispatch`, `EnableDispatch` and `Stop` belongs to the thread that runs
// the loop. An iteration is asyncio's: wait for descriptors and timers, account for all that
// happened, then run what was ready at that moment; what becomes ready meanwhile runs in the next
// iteration. When the loop is destroyed, tasks that still run are cancelled and run to their end
// first.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "streams/clock.h"
#include "streams/internal/poller.h"
#include "streams/task.h"

namespace sockbroker::streams {

class Resolver;
class EventLoop;

// A one-shot timer that can be set again. Owned by its user, on the loop's thread; destroying it
// cancels it.
class Timer {
 public:
  // `callback` runs on the loop, once per Set.
  Timer(EventLoop* loop, absl::AnyInvocable<void()> callback);
  ~Timer() {
    Cancel();
    if (destroyed_ != nullptr) *destroyed_ = true;
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // (Re)arms it. InfiniteFuture cancels.
  void Set(absl::Time deadline);
  void SetAfter(absl::Duration delay);
  void Cancel();
  bool armed() const { return heap_index_ != kNotInHeap; }
  absl::Time deadline() const { return deadline_; }

 private:
  friend class EventLoop;
  static constexpr std::size_t kNotInHeap = ~std::size_t{0};
  EventLoop* loop_;
  absl::AnyInvocable<void()> callback_;
  absl::Time deadline_;
  uint64_t order_ = 0;
  std::size_t heap_index_ = kNotInHeap;
  bool* destroyed_ = nullptr;  // set while the callback runs
};

class EventLoop {
 public:
  // What asyncio gives to the loop's exception handler: something went wrong that no caller waits
  // for.
  struct ExceptionContext {
    std::string message;
    absl::Status status;           // OK when an exception was thrown
    std::exception_ptr exception;  // null when a status says it
  };

  // `clock` must outlive the loop; null means MonotonicClock().
  explicit EventLoop(Clock* clock = nullptr);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs until `task` has ended, and returns its result. Throws what the task throws. Under a
  // virtual clock a task that can never end throws std::logic_error instead of hanging.
  template <typename T>
  T RunUntilComplete(Task<T> task);
  // Runs until Stop; after a Stop that came before, one iteration.
  void RunForever();
  // Runs what can be run without waiting, and returns. For tests: "still blocked" is seen, not
  // slept for.
  void RunUntilIdle();
  // Ends RunForever after the current iteration. Any thread.
  void Stop();

  // Runs `callback` on this loop. Any thread; returns at once; order is kept per caller. Callbacks
  // that were posted when the loop is destroyed are dropped unrun.
  void Post(absl::AnyInvocable<void()> callback);
  // Post, but where nobody else has work for the loop the calling thread does it: while the loop's
  // own thread waits for descriptors and timers, the caller runs `callback`, and what gets ready by
  // it, before Dispatch returns. That saves waking a thread up. Needs EnableDispatch; otherwise,
  // and from a thread that runs a loop already, it is Post. As in Boost.Asio.
  void Dispatch(absl::AnyInvocable<void()> callback) { Visit(this).Dispatch(std::move(callback)); }
  // Keeps the loop from being destroyed: its destructor waits. For who must let go of a lock
  // between knowing that the loop is there and calling it.
  class Visit {
   public:
    explicit Visit(EventLoop* loop) : loop_(loop) {
      loop_->visitors_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Visit() { loop_->visitors_.fetch_sub(1, std::memory_order_release); }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    void Dispatch(absl::AnyInvocable<void()> callback);

   private:
    EventLoop* const loop_;
  };
  // Allows Dispatch to run this loop on other threads: one at a time, but not always the same, so
  // that nothing on the loop may block, or keep anything in thread_local variables (but for caches
  // that any thread may empty). Any thread, at any time.
  void EnableDispatch() { dispatch_enabled_.store(true, std::memory_order_relaxed); }
  // Runs `callback` in the next iteration. This loop's thread only.
  void CallSoon(absl::AnyInvocable<void()> callback);
  void CallLater(absl::Duration delay, absl::AnyInvocable<void()> callback);

  // Starts `task` on this loop in a later iteration; it belongs to the loop until it ends. What it
  // throws goes to the exception handler. CreateTask (create_task.h) is the comfortable form.
  void Spawn(Task<void> task, internal::CancelState* cancel = nullptr);

  // asyncio's loop.time().
  absl::Time Now() const { return clock_->Now(); }
  Clock* clock() const { return clock_; }

  // Whether the calling thread is running this loop right now.
  bool IsRunningHere() const;

  // Whoever resolves names for this loop; made at first use (c-ares). Replace it before the first
  // look-up.
  Resolver& resolver();
  void set_resolver(std::unique_ptr<Resolver> resolver);

  // Called for what nobody waits for. Default: one line on stderr. asyncio's set_exception_handler.
  void SetExceptionHandler(std::function<void(const ExceptionContext&)> handler);
  void CallExceptionHandler(const ExceptionContext& context);

  // --- for this library
  // Makes a suspended coroutine ready: it is resumed in this iteration's turn or the next.
  void Ready(std::coroutine_handle<> handle) {
    ready_.push_back({&ResumeCoroutine, handle.address()});
  }
  // False once a chain of waits that need not wait has had its share of this iteration: the caller
  // must then suspend through Ready, so that one busy connection can't starve its loop.
  bool TakeBudget() { return budget_-- > 0; }
  // Descriptors. `handler` is called with EPOLL* bits, edge-triggered, until Deregister; never
  // after it.
  absl::StatusOr<internal::PollRegistration*> Register(int fd, internal::PollHandler* handler);
  void Deregister(int fd, internal::PollRegistration* registration);
  // A scratch buffer that is shared by all of the loop's reads; valid until the next callback.
  static constexpr std::size_t kScratchSize = 256 * 1024;
  char* scratch() { return scratch_.get(); }
  // Run once, when the loop is destroyed, after all tasks have ended: how transports that nobody
  // closed let go.
  class ShutdownListener {
   public:
    virtual void OnLoopShutdown() = 0;

   protected:
    ~ShutdownListener() = default;

   private:
    friend class EventLoop;
    std::size_t shutdown_index_ = 0;
  };
  // `OnLoopShutdown` must remove the listener.
  void AddShutdownListener(ShutdownListener* listener);
  void RemoveShutdownListener(ShutdownListener* listener);

 private:
  friend class Timer;
  struct RootTask;
  struct Later;
  struct Detached;
  // Something to run: a function and what it acts on. One queue, so that order is kept between
  // callbacks and tasks.
  struct ReadyItem {
    void (*run)(void*);
    void* argument;
  };

  static void ResumeCoroutine(void* frame);
  static void RunCallback(void* callback);
  static Detached RunRoot(EventLoop* loop, internal::CancelState* cancel, Task<void> task);
  // One iteration. Returns whether anything was done.
  bool RunOnce(bool may_block);
  void RunPosted();
  // Those that are due, but for timers set since `set_meanwhile`.
  bool FireTimers(uint64_t set_meanwhile);
  // What a callback throws goes to the exception handler: the loop goes on, as asyncio's does.
  void RunGuarded(absl::AnyInvocable<void()>& callback);
  void RunLater(Later* later);
  void HeapPush(Timer* timer);
  void HeapRemove(Timer* timer);
  void HeapSiftUp(std::size_t index);
  void HeapSiftDown(std::size_t index);
  static bool Before(const Timer* a, const Timer* b);
  void Wake();
  // True if there was nothing posted before.
  bool Enqueue(absl::AnyInvocable<void()> callback);
  // The turn: whoever has it runs the loop.
  void WaitForEvents(absl::Duration timeout);
  void RunBorrowed();
  void RunReady();

  Clock* const clock_;
  std::unique_ptr<internal::Poller> poller_;
  std::unique_ptr<char[]> scratch_;
  std::unique_ptr<Resolver> resolver_;
  std::function<void(const ExceptionContext&)> exception_handler_;

  std::vector<ReadyItem> ready_;
  std::vector<ReadyItem> running_;
  std::vector<Timer*> timers_;  // a binary heap by (deadline, order)
  uint64_t next_timer_order_ = 0;
  std::list<Later> later_;  // CallLater's that have not come yet
  int budget_ = 0;
  std::vector<RootTask*> roots_;  // each lives in its coroutine's frame
  std::vector<ShutdownListener*> shutdown_listeners_;
  bool shutting_down_ = false;

  enum class Turn : int { kOwners, kFree, kBorrowed };
  std::atomic<bool> dispatch_enabled_{false};
  std::atomic<Turn> turn_{Turn::kOwners};
  std::atomic<bool> owner_waits_{false};  // for the turn: the next one is the owner's
  std::atomic<int> visitors_{0};          // threads inside Dispatch
  absl::Time wakes_at_;                   // at the latest, while the turn is free or borrowed

  std::atomic<bool> stop_{false};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> posted_pending_{false};
  std::mutex posted_mutex_;
  std::vector<absl::AnyInvocable<void()>> posted_;  // under posted_mutex_
  std::vector<absl::AnyInvocable<void()>> running_posted_;
};

// The loop that the calling thread runs; throws std::logic_error("no running event loop") outside a
// callback or coroutine, as asyncio.get_running_loop raises RuntimeError.
EventLoop* GetRunningLoop();

// --- implementation

namespace internal {

// Stores a task's result outside the coroutine, so that loops and threads can wait for it.
template <typename T>
struct ResultSlot {
  std::optional<T> value;
  std::exception_ptr exception;
  bool done = false;
  T Take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};
template <>
struct ResultSlot<void> {
  std::exception_ptr exception;
  bool done = false;
  void Take() {
    if (exception) std::rethrow_exception(exception);
  }
};

// Awaits `task` and leaves its result, or what it threw, in `slot`.
template <typename T>
Task<void> RunInto(Task<T> task, ResultSlot<T>* slot) {
  try {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(task);
    } else {
      slot->value.emplace(co_await std::move(task));
    }
  } catch (...) {
    slot->exception = std::current_exception();
  }
  slot->done = true;
}

// Shares the slot with RunUntilComplete, which a stuck virtual clock leaves by an exception before
// the task has ended.
template <typename T>
Task<void> RunAndStop(EventLoop* loop, Task<T> task, std::shared_ptr<ResultSlot<T>> slot) {
  co_await RunInto(std::move(task), slot.get());
  loop->Stop();
}

}  // namespace internal

template <typename T>
T EventLoop::RunUntilComplete(Task<T> task) {
  auto slot = std::make_shared<internal::ResultSlot<T>>();
  Spawn(internal::RunAndStop(this, std::move(task), slot));
  while (!slot->done) RunForever();
  return slot->Take();
}

}  // namespace sockbroker::streams
