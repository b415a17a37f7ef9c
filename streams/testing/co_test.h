// CO_TEST: a test whose body is a coroutine on an event loop of its own.
//
//   CO_TEST(Sleep, TakesVirtualTime) {
//     CO_ASSERT_OK(co_await Sleep(absl::Hours(1)));         // at once
//   }
//
// CO_TEST runs in virtual time (manual_clock.h): for everything but sockets and threads.
// CO_TEST_REAL runs in real time and fails, instead of hanging, when it takes longer than
// kRealTimeLimit. The _F forms take a fixture, as TEST_F does. GoogleTest's ASSERT_* return from a
// function, which a coroutine can't: CO_ASSERT_* are the same for coroutines that give void.
// EXPECT_* work as they are. What reaches the loop's exception handler fails the test, unless it
// sets its own.
#pragma once

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/testing/status_matchers.h"

namespace sockbroker::streams {

inline constexpr absl::Duration kRealTimeLimit = absl::Seconds(60);

// What the macros run a body with; for a TEST that needs more than one loop, or none at first.
void RunInVirtualTime(Task<void> body);
// The loop's tasks are cancelled at the limit; a body that goes on all the same ends the process.
void RunInRealTime(Task<void> body, absl::Duration limit = kRealTimeLimit);

}  // namespace sockbroker::streams

#define CO_TEST(suite, name) SOCKBROKER_CO_TEST_(suite, name, ::testing::Test, RunInVirtualTime)
#define CO_TEST_F(fixture, name) SOCKBROKER_CO_TEST_(fixture, name, fixture, RunInVirtualTime)
#define CO_TEST_REAL(suite, name) SOCKBROKER_CO_TEST_(suite, name, ::testing::Test, RunInRealTime)
#define CO_TEST_REAL_F(fixture, name) SOCKBROKER_CO_TEST_(fixture, name, fixture, RunInRealTime)

#define CO_ASSERT_EQ(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::EqHelper::Compare, a, b)
#define CO_ASSERT_NE(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::CmpHelperNE, a, b)
#define CO_ASSERT_LT(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::CmpHelperLT, a, b)
#define CO_ASSERT_LE(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::CmpHelperLE, a, b)
#define CO_ASSERT_GT(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::CmpHelperGT, a, b)
#define CO_ASSERT_GE(a, b) CO_ASSERT_PRED_FORMAT2_(::testing::internal::CmpHelperGE, a, b)
#define CO_ASSERT_TRUE(condition) \
  GTEST_TEST_BOOLEAN_(condition, #condition, false, true, CO_FATAL_FAILURE_)
#define CO_ASSERT_FALSE(condition) \
  GTEST_TEST_BOOLEAN_(!(condition), #condition, true, false, CO_FATAL_FAILURE_)
#define CO_ASSERT_THAT(value, matcher)                                                        \
  GTEST_PRED_FORMAT1_(::testing::internal::MakePredicateFormatterFromMatcher(matcher), value, \
                      CO_FATAL_FAILURE_)
#define CO_ASSERT_OK(status) CO_ASSERT_THAT(status, ::sockbroker::streams::IsOk())
#define CO_SKIP() co_return GTEST_MESSAGE_("", ::testing::TestPartResult::kSkip)

// --- implementation

#define CO_FATAL_FAILURE_(message) \
  co_return GTEST_MESSAGE_(message, ::testing::TestPartResult::kFatalFailure)
#define CO_ASSERT_PRED_FORMAT2_(format, a, b) GTEST_PRED_FORMAT2_(format, a, b, CO_FATAL_FAILURE_)

// NOLINTBEGIN(bugprone-macro-parentheses): a base class is no expression.
#define SOCKBROKER_CO_TEST_(suite, name, fixture, run)                                     \
  class suite##_##name##_CoTest final : public fixture {                                   \
    void TestBody() override { ::sockbroker::streams::run(Body()); }                       \
    ::sockbroker::streams::Task<void> Body();                                              \
  };                                                                                       \
  [[maybe_unused]] static const auto* const suite##_##name##_test_info =                   \
      ::testing::RegisterTest(#suite, #name, nullptr, nullptr, __FILE__, __LINE__,         \
                              []() -> fixture* { return new suite##_##name##_CoTest(); }); \
  ::sockbroker::streams::Task<void> suite##_##name##_CoTest::Body()
// NOLINTEND(bugprone-macro-parentheses)
