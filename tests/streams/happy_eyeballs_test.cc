// In virtual time: in which order addresses are tried, when each attempt begins, who wins. With
// real sockets: that OpenConnection does so, and leaves none open.
#include "streams/internal/happy_eyeballs.h"

#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/open_connection.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "tests/streams/fake_resolver.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using internal::InterleaveFamilies;
using internal::RaceResult;
using internal::StaggeredRace;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::Pair;

// --- the order

std::vector<SocketAddress> Addresses(const std::vector<std::string>& hosts) {
  std::vector<SocketAddress> addresses;
  addresses.reserve(hosts.size());
  for (const std::string& host : hosts) addresses.push_back(*SocketAddress::FromIp(host, 1));
  return addresses;
}

std::vector<std::string> Interleaved(const std::vector<std::string>& hosts, std::size_t count) {
  std::vector<std::string> order;
  for (const SocketAddress& address : InterleaveFamilies(Addresses(hosts), count)) {
    order.push_back(address.host());
  }
  return order;
}

// Rows: 47
TEST(HappyEyeballsTest, InterleavingAlternatesFamiliesBeginningWithTheFirst) {
  EXPECT_THAT(Interleaved({"::1", "::2", "::3", "10.0.0.1", "10.0.0.2"}, 1),
              ElementsAre("::1", "10.0.0.1", "::2", "10.0.0.2", "::3"));
  EXPECT_THAT(Interleaved({"10.0.0.1", "10.0.0.2", "::1"}, 1),
              ElementsAre("10.0.0.1", "::1", "10.0.0.2"));
}

// Rows: 47
TEST(HappyEyeballsTest, AFirstFamilyCountPutsThatManyOfTheFirstFamilyInFront) {
  EXPECT_THAT(Interleaved({"::1", "::2", "::3", "::4", "10.0.0.1", "10.0.0.2"}, 3),
              ElementsAre("::1", "::2", "::3", "10.0.0.1", "::4", "10.0.0.2"));
}

// Rows: 47
TEST(HappyEyeballsTest, AFirstFamilyCountAboveWhatThereIsTakesAllOfTheFirstFamily) {
  EXPECT_THAT(Interleaved({"::1", "::2", "10.0.0.1"}, 9), ElementsAre("::1", "::2", "10.0.0.1"));
  EXPECT_THAT(Interleaved({"::1"}, 2), ElementsAre("::1"));
  EXPECT_THAT(Interleaved({}, 2), IsEmpty());
}

// --- the race, in virtual time

// A race among attempts that take a known time, and the notes of who began when.
class FakeRace {
 public:
  struct Attempt {
    absl::Duration takes;
    absl::Status result;
  };
  explicit FakeRace(std::vector<Attempt> attempts) : attempts_(std::move(attempts)) {}

  std::vector<std::pair<std::size_t, absl::Duration>> began;
  std::vector<std::size_t> cancelled;

  Task<RaceResult<std::size_t>> Run(std::optional<absl::Duration> delay) {
    start_ = GetRunningLoop()->Now();
    return StaggeredRace<std::size_t>(
        attempts_.size(), [this](std::size_t i) { return Try(this, i); }, delay);
  }
  absl::Duration elapsed() const { return GetRunningLoop()->Now() - start_; }

 private:
  static Task<absl::StatusOr<std::size_t>> Try(FakeRace* race, std::size_t i) {
    race->began.emplace_back(i, race->elapsed());
    const Attempt& attempt = race->attempts_[i];
    if (absl::Status status = co_await Sleep(attempt.takes); !status.ok()) {
      race->cancelled.push_back(i);
      co_return status;
    }
    if (!attempt.result.ok()) co_return attempt.result;
    co_return i;
  }

  const std::vector<Attempt> attempts_;
  absl::Time start_;
};

absl::Status Refused(const char* message = "refused") { return absl::UnavailableError(message); }

// Rows: 11, 37
CO_TEST(HappyEyeballsTest, WithoutADelayEachAttemptBeginsWhenTheOneBeforeHasFailed) {
  FakeRace race({{absl::Seconds(5), Refused()}, {absl::Seconds(7), Refused()}, {absl::Seconds(1)}});
  const RaceResult<std::size_t> result = co_await race.Run(std::nullopt);
  EXPECT_THAT(result.winner, Optional(2u));
  EXPECT_THAT(race.began, ElementsAre(Pair(0, absl::ZeroDuration()), Pair(1, absl::Seconds(5)),
                                      Pair(2, absl::Seconds(12))));
}

// Rows: 37
CO_TEST(HappyEyeballsTest, NothingIsTriedAfterASuccess) {
  FakeRace race({{absl::Seconds(1)}, {absl::Seconds(1)}});
  EXPECT_THAT((co_await race.Run(std::nullopt)).winner, Optional(0u));
  EXPECT_THAT(race.began, ElementsAre(Pair(0, absl::ZeroDuration())));
}

// Rows: 44
CO_TEST(HappyEyeballsTest, WithADelayTheNextAttemptBeginsThatLongAfterTheOneBeforeBegan) {
  FakeRace race({{absl::Seconds(10), Refused()},
                 {absl::Seconds(10), Refused()},
                 {absl::Seconds(10), Refused()}});
  const RaceResult<std::size_t> result = co_await race.Run(absl::Milliseconds(250));
  EXPECT_FALSE(result.winner.has_value());
  EXPECT_THAT(race.began,
              ElementsAre(Pair(0, absl::ZeroDuration()), Pair(1, absl::Milliseconds(250)),
                          Pair(2, absl::Milliseconds(500))));
}

// Rows: 44
CO_TEST(HappyEyeballsTest, AFailureBeginsTheNextAttemptBeforeTheDelayIsOver) {
  FakeRace race(
      {{absl::Milliseconds(30), Refused()}, {absl::Seconds(10)}, {absl::Milliseconds(1)}});
  EXPECT_THAT((co_await race.Run(absl::Milliseconds(250))).winner, Optional(2u));
  // The third waits for its own turn, counted from when the second began.
  EXPECT_THAT(race.began,
              ElementsAre(Pair(0, absl::ZeroDuration()), Pair(1, absl::Milliseconds(30)),
                          Pair(2, absl::Milliseconds(280))));
}

// Rows: 44
CO_TEST(HappyEyeballsTest, TheFailureOfAnEarlierAttemptThanTheLastDoesNotHurryTheNext) {
  FakeRace race(
      {{absl::Milliseconds(260), Refused()}, {absl::Seconds(10)}, {absl::ZeroDuration()}});
  EXPECT_THAT((co_await race.Run(absl::Milliseconds(250))).winner, Optional(2u));
  EXPECT_THAT(race.began,
              ElementsAre(Pair(0, absl::ZeroDuration()), Pair(1, absl::Milliseconds(250)),
                          Pair(2, absl::Milliseconds(500))));
}

// Rows: 45
CO_TEST(HappyEyeballsTest, TheFirstSuccessWinsAndEveryOtherAttemptIsCancelled) {
  FakeRace race({{absl::Hours(1)}, {absl::Hours(1)}, {absl::Milliseconds(5)}, {absl::Hours(1)}});
  EXPECT_THAT((co_await race.Run(absl::Milliseconds(10))).winner, Optional(2u));
  EXPECT_EQ(race.elapsed(), absl::Milliseconds(25));
  EXPECT_THAT(race.cancelled, ElementsAre(0, 1));  // the fourth had not begun
}

// Rows: 45
CO_TEST(HappyEyeballsTest, AnEarlierAttemptThatSucceedsLateStillWins) {
  FakeRace race({{absl::Milliseconds(300)}, {absl::Hours(1)}});
  EXPECT_THAT((co_await race.Run(absl::Milliseconds(250))).winner, Optional(0u));
  EXPECT_THAT(race.cancelled, ElementsAre(1));
}

// Rows: 46
CO_TEST(HappyEyeballsTest, ADelayOfZeroBeginsAllAttemptsAtOnce) {
  FakeRace race({{absl::Seconds(3)}, {absl::Seconds(1)}, {absl::Seconds(2)}});
  EXPECT_THAT((co_await race.Run(absl::ZeroDuration())).winner, Optional(1u));
  EXPECT_THAT(race.began, ElementsAre(Pair(0, absl::ZeroDuration()), Pair(1, absl::ZeroDuration()),
                                      Pair(2, absl::ZeroDuration())));
}

// Rows: 49
CO_TEST(HappyEyeballsTest, ErrorsAreListedInTheOrderInWhichTheAttemptsBegan) {
  FakeRace race({{absl::Seconds(3), Refused("first")},
                 {absl::Seconds(1), Refused("second")},
                 {absl::Seconds(2), Refused("third")}});
  const RaceResult<std::size_t> result = co_await race.Run(absl::ZeroDuration());
  EXPECT_THAT(result.errors,
              ElementsAre(Eq(Refused("first")), Eq(Refused("second")), Eq(Refused("third"))));
}

Task<absl::Status> RunUntilCancelled(FakeRace* race) {
  const RaceResult<std::size_t> result = co_await race->Run(absl::Seconds(1));
  EXPECT_FALSE(result.winner.has_value());
  co_return (co_await GetCancelToken()).status();
}

// Rows: 50
CO_TEST(HappyEyeballsTest, CancellingTheRaceCancelsEveryAttemptAndBeginsNoOther) {
  FakeRace race({{absl::Hours(1)}, {absl::Hours(1)}, {absl::Hours(1)}});
  TaskHandle<absl::Status> running = CreateTask(RunUntilCancelled(&race));
  EXPECT_THAT(co_await Sleep(absl::Milliseconds(1500)), IsOk());
  running.Cancel();
  EXPECT_THAT(co_await running.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(race.elapsed(), absl::Milliseconds(1500));
  EXPECT_EQ(race.began.size(), 2u);
  EXPECT_THAT(race.cancelled, ElementsAre(0, 1));
}

CO_TEST(HappyEyeballsTest, ARaceOfNobodyHasNoWinner) {
  FakeRace race({});
  EXPECT_FALSE((co_await race.Run(std::nullopt)).winner.has_value());
}

Task<absl::StatusOr<int>> Throws(std::size_t i, std::vector<std::size_t>* began) {
  began->push_back(i);
  co_await Yield();
  throw std::runtime_error("a bug");
}

Task<std::string> WhatTheRaceThrows(std::optional<absl::Duration> delay,
                                    std::vector<std::size_t>* began) {
  try {
    co_await StaggeredRace<int>(3, [began](std::size_t i) { return Throws(i, began); }, delay);
  } catch (const std::runtime_error& error) {
    co_return error.what();
  }
  co_return "nothing";
}

// Rows: 37
CO_TEST(HappyEyeballsTest, AnExceptionOfAnAttemptEndsTheRaceAndIsThrownFromIt) {
  std::vector<std::size_t> began;
  EXPECT_EQ(co_await WhatTheRaceThrows(std::nullopt, &began), "a bug");
  EXPECT_THAT(began, ElementsAre(0));
  EXPECT_EQ(co_await WhatTheRaceThrows(absl::Hours(1), &began), "a bug");
}

// --- with sockets

// Rows: 44, 45
CO_TEST_REAL(HappyEyeballsTest, OpenConnectionLeavesAStalledAddressForTheNextOneAfterTheDelay) {
  const StalledListener stalled("127.0.0.1");
  const Descriptor listener = ListeningSocket("127.0.0.1");
  const SocketAddress good = SocketAddress::OfLocal(listener.get());
  UseFakeResolver()->hosts["two.test"] = {stalled.address(), good};
  const std::size_t descriptors = OpenDescriptors();
  const absl::Time start = GetRunningLoop()->Now();
  OpenConnectionOptions options;
  options.happy_eyeballs_delay = absl::Milliseconds(20);
  absl::StatusOr<Connection> connection = co_await OpenConnection("two.test", 1, options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername(), good);
  EXPECT_GE(GetRunningLoop()->Now() - start, absl::Milliseconds(20));
  // The stalled attempt's socket is closed.
  EXPECT_EQ(OpenDescriptors(), descriptors + 1);
}

// Rows: 44
CO_TEST_REAL(HappyEyeballsTest, OpenConnectionGoesOnAtOnceWhenAnAddressRefuses) {
  const Descriptor refusing = BoundSocket("127.0.0.1");
  const Descriptor listener = ListeningSocket("127.0.0.1");
  const SocketAddress good = SocketAddress::OfLocal(listener.get());
  UseFakeResolver()->hosts["two.test"] = {SocketAddress::OfLocal(refusing.get()), good};
  OpenConnectionOptions options;
  options.happy_eyeballs_delay = absl::Hours(1);
  absl::StatusOr<Connection> connection = co_await OpenConnection("two.test", 1, options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername(), good);
}

// Rows: 50
CO_TEST_REAL(HappyEyeballsTest, CancellingOpenConnectionClosesTheSocketsOfEveryAttempt) {
  const StalledListener a("127.0.0.1");
  const StalledListener b("127.0.0.1");
  UseFakeResolver()->hosts["two.test"] = {a.address(), b.address()};
  const std::size_t descriptors = OpenDescriptors();
  OpenConnectionOptions options;
  options.happy_eyeballs_delay = absl::ZeroDuration();
  TaskHandle<absl::StatusOr<Connection>> open = CreateTask(OpenConnection("two.test", 1, options));
  co_await Until([&] { return OpenDescriptors() == descriptors + 2; });
  open.Cancel();
  EXPECT_THAT(co_await open.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

// Rows: 50
CO_TEST_REAL(HappyEyeballsTest, AConnectTimeoutEndsEveryAttemptAndSaysWhichTimeoutItWas) {
  const StalledListener stalled("127.0.0.1");
  const std::size_t descriptors = OpenDescriptors();
  OpenConnectionOptions options;
  options.connect_timeout = absl::Milliseconds(20);
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", stalled.address().port(), options);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(GetTimeoutPhase(connection.status()), Optional(std::string("connect")));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

}  // namespace
}  // namespace sockbroker::streams
