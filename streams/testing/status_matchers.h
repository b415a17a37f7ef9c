// Matchers for absl::Status and absl::StatusOr.
//
//   EXPECT_THAT(co_await reader.ReadExactly(3), IsOkAndHolds("abc"));
//   EXPECT_THAT(writer.WriteEof(), IsOk());
//   EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Connection lost")));
//   EXPECT_THAT(status, HasErrno(ECONNRESET));
#pragma once

#include <ostream>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "streams/error.h"

namespace sockbroker::streams {

namespace testing_internal {

inline absl::Status AsStatus(const absl::Status& status) { return status; }
template <typename T>
absl::Status AsStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

}  // namespace testing_internal

MATCHER(IsOk, negation ? "isn't OK" : "is OK") {
  const absl::Status status = testing_internal::AsStatus(arg);
  if (!status.ok()) *result_listener << "which is " << status;
  return status.ok();
}

MATCHER_P(IsOkAndHolds, value, "is OK and holds " + ::testing::PrintToString(value)) {
  if (!arg.ok()) {
    *result_listener << "which is " << arg.status();
    return false;
  }
  return ::testing::ExplainMatchResult(
      ::testing::SafeMatcherCast<const std::decay_t<decltype(*arg)>&>(value), *arg,
      result_listener);
}

MATCHER_P2(StatusIs, code, message,
           "is " + absl::StatusCodeToString(code) + " with the message " +
               ::testing::PrintToString(message)) {
  const absl::Status status = testing_internal::AsStatus(arg);
  *result_listener << "which is " << status;
  return status.code() == code && ::testing::Matches(message)(std::string(status.message()));
}
MATCHER_P(StatusIs, code, "is " + absl::StatusCodeToString(code)) {
  const absl::Status status = testing_internal::AsStatus(arg);
  *result_listener << "which is " << status;
  return status.code() == code;
}

MATCHER_P(HasErrno, os_errno, "has the errno " + ::testing::PrintToString(os_errno)) {
  const absl::Status status = testing_internal::AsStatus(arg);
  *result_listener << "which is " << status << " with errno " << GetErrno(status);
  return GetErrno(status) == os_errno;
}

}  // namespace sockbroker::streams
