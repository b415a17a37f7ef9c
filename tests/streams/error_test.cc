#include "streams/error.h"

#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/address.h"
#include "streams/testing/status_matchers.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::Eq;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

TEST(ErrnoTest, AnOsErrorCarriesItsErrnoAndSaysWhereItCameFrom) {
  const absl::Status status = streams::ErrnoToStatus(ECONNREFUSED, "connect");
  EXPECT_THAT(status,
              StatusIs(StatusCode::kUnavailable, "connect: [errno 111] Connection refused"));
  EXPECT_EQ(GetErrno(status), ECONNREFUSED);
}

TEST(ErrnoTest, AStatusWithoutOneHasNone) {
  EXPECT_EQ(GetErrno(absl::OkStatus()), 0);
  EXPECT_EQ(GetErrno(absl::UnavailableError("not from the kernel")), 0);
}

// Rows: 166
TEST(IncompleteReadErrorTest, CarriesWhatThereWasAndWhatWasExpected) {
  const absl::Status status = IncompleteReadError(absl::Cord("abc"), 10);
  EXPECT_THAT(status,
              StatusIs(StatusCode::kOutOfRange, "3 bytes read on a total of 10 expected bytes"));
  const std::optional<IncompleteRead> incomplete = GetIncompleteRead(status);
  ASSERT_TRUE(incomplete.has_value());
  EXPECT_EQ(incomplete->partial, "abc");
  EXPECT_THAT(incomplete->expected, Optional(10u));
}

// Rows: 166
TEST(IncompleteReadErrorTest, OfReadUntilExpectsAnUndefinedNumber) {
  const absl::Status status = IncompleteReadError(absl::Cord(), std::nullopt);
  EXPECT_THAT(status, StatusIs(StatusCode::kOutOfRange,
                               "0 bytes read on a total of undefined expected bytes"));
  const std::optional<IncompleteRead> incomplete = GetIncompleteRead(status);
  ASSERT_TRUE(incomplete.has_value());
  EXPECT_EQ(incomplete->partial, "");
  EXPECT_THAT(incomplete->expected, Eq(std::nullopt));
}

// Rows: 166
TEST(LimitOverrunErrorTest, CarriesHowManyBytesCanBeSkipped) {
  const absl::Status status = LimitOverrunError("too far", 70'000);
  EXPECT_THAT(status, StatusIs(StatusCode::kResourceExhausted, "too far"));
  const std::optional<LimitOverrun> overrun = GetLimitOverrun(status);
  ASSERT_TRUE(overrun.has_value());
  EXPECT_EQ(overrun->consumed, 70'000u);
}

TEST(PayloadTest, OfOneKindIsNotTakenForAnother) {
  const absl::Status status = streams::ErrnoToStatus(EPIPE, "send");
  EXPECT_FALSE(GetIncompleteRead(status).has_value());
  EXPECT_FALSE(GetLimitOverrun(status).has_value());
  EXPECT_FALSE(GetResolverError(status).has_value());
  EXPECT_FALSE(GetTimeoutPhase(status).has_value());
  EXPECT_THAT(GetAttempts(status), IsEmpty());
  EXPECT_EQ(GetErrno(LimitOverrunError("x", 5)), 0);
}

TEST(ResolveErrorTest, CarriesTheResolversWords) {
  const absl::Status status = ResolveError("no.such.host", "Name or service not known");
  EXPECT_THAT(status, StatusIs(StatusCode::kNotFound));
  EXPECT_THAT(GetResolverError(status), Optional(std::string("Name or service not known")));
}

// Rows: 12
TEST(PhaseTimeoutErrorTest, IsATimeOutLikeAnyOtherAndNamesItsPhase) {
  const absl::Status status = PhaseTimeoutError("connect", "too slow");
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_THAT(GetTimeoutPhase(status), Optional(std::string("connect")));
  EXPECT_THAT(GetTimeoutPhase(absl::DeadlineExceededError("a caller's own")), Eq(std::nullopt));
}

AttemptFailure Failure(const char* host, int os_errno, std::string message) {
  return {SocketAddress::FromIp(host, 80).value(), os_errno, std::move(message)};
}

// Rows: 38
TEST(AttemptsErrorTest, OfOneFailureIsThatVeryError) {
  const absl::Status status = AttemptsError({Failure("127.0.0.1", ECONNREFUSED, "refused")});
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, "refused"));
  EXPECT_THAT(status, HasErrno(ECONNREFUSED));
}

// Rows: 39
TEST(AttemptsErrorTest, OfFailuresThatReadAlikeIsTheFirst) {
  const absl::Status status = AttemptsError({Failure("127.0.0.1", ECONNREFUSED, "no route"),
                                             Failure("127.0.0.2", EHOSTUNREACH, "no route")});
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, "no route"));
  EXPECT_THAT(status, HasErrno(ECONNREFUSED));
}

// Rows: 40
TEST(AttemptsErrorTest, OfDifferentFailuresJoinsTheTextsInOrderAndHasNoErrno) {
  const absl::Status status = AttemptsError(
      {Failure("127.0.0.1", ECONNREFUSED, "refused"), Failure("::1", ETIMEDOUT, "too slow")});
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, "Multiple exceptions: refused, too slow"));
  EXPECT_THAT(status, HasErrno(0));
}

// Rows: 40, 41
TEST(AttemptsErrorTest, KeepsEveryAttemptWithItsAddressAndErrnoEvenWhenThereIsOneOrTheyReadAlike) {
  const std::vector<AttemptFailure> attempts = GetAttempts(AttemptsError(
      {Failure("127.0.0.1", ECONNREFUSED, "same"), Failure("::1", ETIMEDOUT, "same")}));
  ASSERT_THAT(attempts, SizeIs(2));
  EXPECT_EQ(attempts[0].address.ToString(), "127.0.0.1:80");
  EXPECT_EQ(attempts[0].os_errno, ECONNREFUSED);
  EXPECT_EQ(attempts[0].message, "same");
  EXPECT_EQ(attempts[1].address.ToString(), "[::1]:80");
  EXPECT_EQ(attempts[1].os_errno, ETIMEDOUT);
  EXPECT_THAT(GetAttempts(AttemptsError({Failure("127.0.0.1", EPERM, "one")})), SizeIs(1));
}

TEST(AttemptsErrorTest, KeepsTextsOfAnyBytesAndAttemptsWithoutAnAddress) {
  const std::string odd("5:\0,\n12:", 8);
  const std::vector<AttemptFailure> attempts =
      GetAttempts(AttemptsError({{SocketAddress(), 0, odd}, Failure("::1", 1, "")}));
  ASSERT_THAT(attempts, SizeIs(2));
  EXPECT_EQ(attempts[0].message, odd);
  EXPECT_EQ(attempts[0].address, SocketAddress());
  EXPECT_EQ(attempts[1].message, "");
}

}  // namespace
}  // namespace sockbroker::streams
