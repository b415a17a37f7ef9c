#include "streams/testing/co_test.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <utility>

#include "streams/testing/manual_clock.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {
namespace {

void FailOnLoopException(const EventLoop::ExceptionContext& context) {
  std::string cause = context.status.ToString();
  if (context.exception) {
    try {
      std::rethrow_exception(context.exception);
    } catch (const std::exception& error) {
      cause = error.what();
    } catch (...) {
      cause = "an exception of unknown type";
    }
  }
  ADD_FAILURE() << "the loop's exception handler was called: " << context.message << ": " << cause;
}

}  // namespace

void RunInVirtualTime(Task<void> body) {
  ManualClock clock;
  EventLoop loop(&clock);
  loop.SetExceptionHandler(FailOnLoopException);
  loop.RunUntilComplete(std::move(body));
}

void RunInRealTime(Task<void> body, absl::Duration limit) {
  EventLoop loop;
  loop.SetExceptionHandler(FailOnLoopException);
  CancelSource overdue;
  Timer stuck(&loop, [] {
    std::fputs("the test goes on though its time is up and it was cancelled\n", stderr);
    std::abort();
  });
  Timer watchdog(&loop, [&] {
    ADD_FAILURE() << "the test took longer than " << limit;
    overdue.Cancel(absl::DeadlineExceededError("the test took too long"));
    stuck.SetAfter(absl::Seconds(10));
  });
  watchdog.SetAfter(limit);
  auto run = [](Task<void> task, CancelToken token) -> Task<void> {
    co_await WithCancel(std::move(task), token);
  };
  loop.RunUntilComplete(run(std::move(body), overdue.token()));
}

}  // namespace sockbroker::streams
