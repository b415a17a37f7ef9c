#include "streams/event_loop.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/resolver.h"

namespace sockbroker::streams {
namespace {

constexpr int kBudgetPerIteration = 256;
// So many a thread that only dispatches something runs in a row; the rest is the owner's.
constexpr int kBorrowedIterations = 8;

thread_local EventLoop* running_loop = nullptr;

// Marks the loop as this thread's for a scope.
class RunningScope {
 public:
  explicit RunningScope(EventLoop* loop) : previous_(std::exchange(running_loop, loop)) {}
  ~RunningScope() { running_loop = previous_; }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  EventLoop* const previous_;
};

class RealClock final : public Clock {
 public:
  absl::Time Now() override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::TimeFromTimespec(now);
  }
};

std::string DescribeException(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

void PrintToStderr(const EventLoop::ExceptionContext& context) {
  const std::string cause =
      context.exception ? DescribeException(context.exception) : context.status.ToString();
  std::fprintf(stderr, "%s: %s\n", context.message.c_str(), cause.c_str());
}

}  // namespace

Clock* MonotonicClock() {
  static RealClock* const clock = new RealClock;
  return clock;
}

EventLoop* GetRunningLoop() {
  if (running_loop == nullptr) throw std::logic_error("no running event loop");
  return running_loop;
}

// --- timers: a binary heap that knows where each timer stands

Timer::Timer(EventLoop* loop, absl::AnyInvocable<void()> callback)
    : loop_(loop), callback_(std::move(callback)) {}

void Timer::Set(absl::Time deadline) {
  Cancel();
  if (deadline == absl::InfiniteFuture()) return;
  deadline_ = deadline;
  order_ = loop_->next_timer_order_++;
  loop_->HeapPush(this);
}

void Timer::SetAfter(absl::Duration delay) { Set(loop_->Now() + delay); }

void Timer::Cancel() {
  if (armed()) loop_->HeapRemove(this);
}

bool EventLoop::Before(const Timer* a, const Timer* b) {
  return a->deadline_ != b->deadline_ ? a->deadline_ < b->deadline_ : a->order_ < b->order_;
}

void EventLoop::HeapPush(Timer* timer) {
  timer->heap_index_ = timers_.size();
  timers_.push_back(timer);
  HeapSiftUp(timer->heap_index_);
}

void EventLoop::HeapRemove(Timer* timer) {
  const std::size_t index = std::exchange(timer->heap_index_, Timer::kNotInHeap);
  Timer* last = timers_.back();
  timers_.pop_back();
  if (last == timer) return;
  timers_[index] = last;
  last->heap_index_ = index;
  HeapSiftUp(index);
  HeapSiftDown(last->heap_index_);
}

void EventLoop::HeapSiftUp(std::size_t index) {
  while (index > 0) {
    const std::size_t parent = (index - 1) / 2;
    if (!Before(timers_[index], timers_[parent])) return;
    std::swap(timers_[index], timers_[parent]);
    timers_[index]->heap_index_ = index;
    timers_[parent]->heap_index_ = parent;
    index = parent;
  }
}

void EventLoop::HeapSiftDown(std::size_t index) {
  while (true) {
    std::size_t least = index;
    for (const std::size_t child : {2 * index + 1, 2 * index + 2}) {
      if (child < timers_.size() && Before(timers_[child], timers_[least])) least = child;
    }
    if (least == index) return;
    std::swap(timers_[index], timers_[least]);
    timers_[index]->heap_index_ = index;
    timers_[least]->heap_index_ = least;
    index = least;
  }
}

bool EventLoop::FireTimers(uint64_t set_meanwhile) {
  if (timers_.empty()) return false;
  bool fired = false;
  const absl::Time now = Now();
  while (!timers_.empty() && timers_.front()->deadline_ <= now &&
         timers_.front()->order_ < set_meanwhile) {
    Timer* timer = timers_.front();
    HeapRemove(timer);
    fired = true;
    // The callback may destroy its timer, so it is not run from inside it.
    bool destroyed = false;
    timer->destroyed_ = &destroyed;
    absl::AnyInvocable<void()> callback = std::move(timer->callback_);
    RunGuarded(callback);
    if (destroyed) continue;
    timer->destroyed_ = nullptr;
    timer->callback_ = std::move(callback);
  }
  return fired;
}

// --- root tasks

struct EventLoop::RootTask {
  CancelSource cancel;
  std::size_t index;

  RootTask(EventLoop* owner, internal::CancelState* parent)
      : cancel(CancelToken(parent)), index(owner->roots_.size()), owner_(owner) {
    owner->roots_.push_back(this);
    if (owner->shutting_down_)
      cancel.Cancel(absl::CancelledError("the event loop is shutting down"));
  }
  ~RootTask() {
    owner_->roots_.back()->index = index;
    std::swap(owner_->roots_[index], owner_->roots_.back());
    owner_->roots_.pop_back();
  }
  RootTask(const RootTask&) = delete;
  RootTask& operator=(const RootTask&) = delete;

 private:
  EventLoop* const owner_;
};

// A coroutine that owns itself: its frame goes when it ends.
struct EventLoop::Detached {
  struct promise_type {
    static void* operator new(std::size_t size) { return internal::AllocateFrame(size); }
    static void operator delete(void* frame, std::size_t size) { internal::FreeFrame(frame, size); }
    promise_type(EventLoop* loop, internal::CancelState* /*cancel*/, Task<void>& /*task*/)
        : context_{loop, nullptr} {}
    internal::TaskContext& context() { return context_; }
    Detached get_return_object() {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }  // RunRoot catches all

   private:
    internal::TaskContext context_;
  };
  std::coroutine_handle<promise_type> handle;
};

EventLoop::Detached EventLoop::RunRoot(EventLoop* loop, internal::CancelState* cancel,
                                       Task<void> task) {
  RootTask root(loop, cancel);
  try {
    co_await std::move(task).AwaitUnder(root.cancel.token().state());
  } catch (...) {
    loop->CallExceptionHandler(
        {"a task that nobody waits for threw", absl::OkStatus(), std::current_exception()});
  }
}

void EventLoop::Spawn(Task<void> task, internal::CancelState* cancel) {
  Ready(RunRoot(this, cancel, std::move(task)).handle);
}

void EventLoop::ResumeCoroutine(void* frame) {
  std::coroutine_handle<>::from_address(frame).resume();
}

void EventLoop::RunCallback(void* callback) {
  std::unique_ptr<absl::AnyInvocable<void()>> owned(
      static_cast<absl::AnyInvocable<void()>*>(callback));
  running_loop->RunGuarded(*owned);
}

void EventLoop::RunGuarded(absl::AnyInvocable<void()>& callback) {
  try {
    callback();
  } catch (...) {
    CallExceptionHandler({"a callback threw", absl::OkStatus(), std::current_exception()});
  }
}

// --- the loop

EventLoop::EventLoop(Clock* clock)
    : clock_(clock != nullptr ? clock : MonotonicClock()),
      poller_(internal::MakeEpollPoller()),
      scratch_(new char[kScratchSize]),
      exception_handler_(PrintToStderr) {}

EventLoop::~EventLoop() {
  RunningScope scope(this);
  shutting_down_ = true;
  const std::vector<RootTask*> roots = roots_;
  for (RootTask* root : roots)
    root->cancel.Cancel(absl::CancelledError("the event loop is shutting down"));
  while (!roots_.empty() || !ready_.empty()) RunOnce(/*may_block=*/true);
  while (!shutdown_listeners_.empty()) shutdown_listeners_.back()->OnLoopShutdown();
  while (!roots_.empty() || !ready_.empty()) RunOnce(/*may_block=*/true);
  later_.clear();
  resolver_.reset();
  // Whoever dispatched the callback that ended the loop may still be on the way out.
  while (visitors_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
}

bool EventLoop::IsRunningHere() const { return running_loop == this; }

void EventLoop::RunForever() {
  RunningScope scope(this);
  do {
    RunOnce(/*may_block=*/true);
  } while (!stop_.load(std::memory_order_relaxed));
  stop_.store(false, std::memory_order_relaxed);
}

void EventLoop::RunUntilIdle() {
  RunningScope scope(this);
  while (RunOnce(/*may_block=*/false)) {
  }
}

void EventLoop::Stop() {
  stop_.store(true);
  if (!IsRunningHere()) Wake();
}

void EventLoop::Wake() {
  // Coalesced: only the first wake-up of a loop that sleeps, or is about to, costs a system call.
  if (sleeping_.exchange(false)) poller_->Wake();
}

bool EventLoop::Enqueue(absl::AnyInvocable<void()> callback) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(callback));
  }
  return !posted_pending_.exchange(true);
}

void EventLoop::Post(absl::AnyInvocable<void()> callback) {
  // Whoever has borrowed the turn looks again before leaving.
  if (Enqueue(std::move(callback)) && turn_.load() != Turn::kBorrowed) Wake();
}

void EventLoop::Visit::Dispatch(absl::AnyInvocable<void()> callback) {
  EventLoop* const loop = loop_;
  if (!loop->dispatch_enabled_.load(std::memory_order_relaxed) || running_loop != nullptr) {
    return loop->Post(std::move(callback));
  }
  const bool first = loop->Enqueue(std::move(callback));
  Turn turn = Turn::kFree;
  if (loop->turn_.compare_exchange_strong(turn, Turn::kBorrowed)) {
    loop->RunBorrowed();
  } else if (first && turn != Turn::kBorrowed) {
    loop->Wake();
  }
}

void EventLoop::RunBorrowed() {
  const RunningScope scope(this);
  bool handed_back = false;
  Turn turn = Turn::kFree;
  do {
    int rounds = 0;
    do {
      budget_ = kBudgetPerIteration;
      RunPosted();
      RunReady();
    } while (++rounds < kBorrowedIterations && !stop_.load(std::memory_order_relaxed) &&
             !owner_waits_.load(std::memory_order_relaxed) &&
             (!ready_.empty() || posted_pending_.load(std::memory_order_relaxed)));
    if (owner_waits_.load()) {
      turn_.store(Turn::kOwners);
      turn_.notify_one();
      return;
    }
    const bool earlier = !timers_.empty() && timers_.front()->deadline_ < wakes_at_;
    if (earlier) wakes_at_ = timers_.front()->deadline_;
    handed_back = earlier || !ready_.empty() || rounds == kBorrowedIterations || stop_.load();
    if (handed_back) Wake();
    turn_.store(Turn::kFree);
    turn_.notify_one();
    turn = Turn::kFree;
    // Nobody was woken for what was posted while the turn was borrowed.
  } while (!handed_back && posted_pending_.load() &&
           turn_.compare_exchange_strong(turn, Turn::kBorrowed));
}

void EventLoop::WaitForEvents(absl::Duration timeout) {
  // The end of a loop is its owner's: nobody else could tell that the last task has ended.
  if (!dispatch_enabled_.load(std::memory_order_relaxed) || shutting_down_ ||
      timeout <= absl::ZeroDuration()) {
    return poller_->Wait(timeout);
  }
  wakes_at_ = timers_.empty() ? absl::InfiniteFuture() : timers_.front()->deadline_;
  turn_.store(Turn::kFree);
  poller_->Wait(timeout);
  while (true) {
    Turn turn = Turn::kFree;
    if (turn_.compare_exchange_strong(turn, Turn::kOwners) || turn == Turn::kOwners) break;
    // Not to whoever comes first: descriptors and timers would wait for as long as others have
    // something to dispatch.
    owner_waits_.store(true);
    turn_.wait(Turn::kBorrowed);
  }
  owner_waits_.store(false, std::memory_order_relaxed);
}

void EventLoop::CallSoon(absl::AnyInvocable<void()> callback) {
  ready_.push_back({&RunCallback, new absl::AnyInvocable<void()>(std::move(callback))});
}

struct EventLoop::Later {
  Timer timer;
  absl::AnyInvocable<void()> callback;
  std::list<Later>::iterator self;
  Later(EventLoop* loop, absl::AnyInvocable<void()> function)
      : timer(loop, [this, loop] { loop->RunLater(this); }), callback(std::move(function)) {}
};

void EventLoop::CallLater(absl::Duration delay, absl::AnyInvocable<void()> callback) {
  Later& later = later_.emplace_back(this, std::move(callback));
  later.self = std::prev(later_.end());
  later.timer.SetAfter(delay);
}

void EventLoop::RunLater(Later* later) {
  std::list<Later> owned;
  owned.splice(owned.end(), later_, later->self);
  later->callback();
}

void EventLoop::RunPosted() {
  if (!posted_pending_.exchange(false)) return;
  {
    const std::lock_guard lock(posted_mutex_);
    running_posted_.swap(posted_);
  }
  for (absl::AnyInvocable<void()>& callback : running_posted_) RunGuarded(callback);
  running_posted_.clear();
}

bool EventLoop::RunOnce(bool may_block) {
  budget_ = kBudgetPerIteration;
  bool did_something = false;

  absl::Duration timeout = absl::ZeroDuration();
  if (may_block && ready_.empty()) {
    timeout = timers_.empty() ? absl::InfiniteDuration()
                              : std::max(timers_.front()->deadline_ - Now(), absl::ZeroDuration());
    if (timeout > absl::ZeroDuration()) {
      // From here on a Post must wake us; one that came before is seen here.
      sleeping_.store(true);
      if (posted_pending_.load() || stop_.load()) timeout = absl::ZeroDuration();
    }
    if (timeout > absl::ZeroDuration() && poller_->registered() == 0) {
      const absl::Time next = timers_.empty() ? absl::InfiniteFuture() : timers_.front()->deadline_;
      if (clock_->JumpTo(next)) timeout = absl::ZeroDuration();
    }
  }
  // Timers set from here on wait for the next iteration, or a loop could starve.
  const uint64_t set_meanwhile = next_timer_order_;
  WaitForEvents(timeout);
  did_something |= poller_->DealOut();
  sleeping_.store(false, std::memory_order_relaxed);

  did_something |= FireTimers(set_meanwhile);
  did_something |= posted_pending_.load(std::memory_order_relaxed);
  RunPosted();

  did_something |= !ready_.empty();
  RunReady();
  return did_something;
}

void EventLoop::RunReady() {
  // What gets ready from here on runs in the next iteration.
  running_.swap(ready_);
  for (const ReadyItem& item : running_) item.run(item.argument);
  running_.clear();
}

Resolver& EventLoop::resolver() {
  if (resolver_ == nullptr) resolver_ = MakeCaresResolver(this, {});
  return *resolver_;
}

void EventLoop::set_resolver(std::unique_ptr<Resolver> resolver) {
  resolver_ = std::move(resolver);
}

void EventLoop::SetExceptionHandler(std::function<void(const ExceptionContext&)> handler) {
  exception_handler_ = handler ? std::move(handler) : PrintToStderr;
}

void EventLoop::CallExceptionHandler(const ExceptionContext& context) {
  exception_handler_(context);
}

absl::StatusOr<internal::PollRegistration*> EventLoop::Register(int fd,
                                                                internal::PollHandler* handler) {
  return poller_->Register(fd, handler);
}

void EventLoop::Deregister(int fd, internal::PollRegistration* registration) {
  poller_->Deregister(fd, registration);
}

void EventLoop::AddShutdownListener(ShutdownListener* listener) {
  listener->shutdown_index_ = shutdown_listeners_.size();
  shutdown_listeners_.push_back(listener);
}

void EventLoop::RemoveShutdownListener(ShutdownListener* listener) {
  const std::size_t index = listener->shutdown_index_;
  shutdown_listeners_.back()->shutdown_index_ = index;
  std::swap(shutdown_listeners_[index], shutdown_listeners_.back());
  shutdown_listeners_.pop_back();
}

}  // namespace sockbroker::streams
