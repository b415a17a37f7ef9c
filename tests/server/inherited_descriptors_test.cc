#include "server/inherited_descriptors.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "streams/testing/status_matchers.h"

namespace sockbroker::server {
namespace {

using streams::Descriptor;
using streams::IsOk;
using streams::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Kind = InheritedDescriptors::Kind;

// High enough to be free in a test program.
constexpr int kFirst = 700;
constexpr pid_t kSelf = 4711;

// What whoever starts the broker does: sockets at consecutive numbers, without close-on-exec.
class Inherited : public ::testing::Test {
 protected:
  ~Inherited() override {
    for (int fd = kFirst; fd < next_; fd++) close(fd);  // those not taken over
  }
  void GiveListener() {
    Descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;  // autobind: a free abstract name
    ASSERT_EQ(bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
    ASSERT_EQ(listen(socket.get(), 1), 0);
    Give(socket.get());
  }
  void GiveConnection() {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    Give(pair[0]);
    close(pair[0]);
    close(pair[1]);
  }
  void Give(int fd) {
    ASSERT_EQ(dup2(fd, next_), next_);
    next_++;
  }

  static absl::StatusOr<std::unique_ptr<InheritedDescriptors>> From(const std::string& count,
                                                                    const std::string& names) {
    return InheritedDescriptors::From({std::to_string(kSelf), count, names}, kSelf, kFirst);
  }

  int next_ = kFirst;
};

TEST_F(Inherited, NothingInTheEnvironmentIsNothingInherited) {
  auto inherited = InheritedDescriptors::From({}, kSelf, kFirst);
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->names(), IsEmpty());
  EXPECT_THAT((*inherited)->Take("web"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("started without any")));
}

TEST_F(Inherited, WhatIsMeantForAnotherProcessIsLeftAlone) {
  // why: variables leak into grandchildren, whose descriptor 3 is something else
  GiveConnection();
  auto inherited = InheritedDescriptors::From({"1", "1", "web"}, kSelf, kFirst);
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->names(), IsEmpty());
  EXPECT_EQ(fcntl(kFirst, F_GETFD), 0);
}

TEST_F(Inherited, EachNameCanBeTakenOnce) {
  GiveListener();
  GiveConnection();
  auto inherited = From("2", "web:link");
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->names(), ElementsAre("link", "web"));
  auto web = (*inherited)->Take("web");
  ASSERT_THAT(web, IsOk());
  ASSERT_THAT(*web, SizeIs(1));
  EXPECT_EQ((*web)[0].get(), kFirst);
  EXPECT_THAT((*inherited)->Take("web"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("taken already")));
  EXPECT_THAT((*inherited)->Take("link"), IsOk());
  // Taken names are still names.
  EXPECT_THAT((*inherited)->names(), ElementsAre("link", "web"));
}

TEST_F(Inherited, AnUnknownNameIsAnsweredWithThoseThereAre) {
  GiveListener();
  auto inherited = From("1", "web");
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->Take("wbe"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("there are: web")));
}

TEST_F(Inherited, SocketsOfOneNameComeTogetherInOrder) {
  // why: systemd gives all ListenStream= lines of a unit the unit's one name
  GiveListener();
  GiveConnection();
  GiveListener();
  auto inherited = From("3", "web:link:web");
  ASSERT_THAT(inherited, IsOk());
  auto web = (*inherited)->Take("web");
  ASSERT_THAT(web, IsOk());
  ASSERT_THAT(*web, SizeIs(2));
  EXPECT_EQ((*web)[0].get(), kFirst);
  EXPECT_EQ((*web)[1].get(), kFirst + 2);
}

TEST_F(Inherited, WithoutNamesTheyAreAllUnknown) {
  // why: sd_listen_fds_with_names(3) says so
  GiveListener();
  auto inherited =
      InheritedDescriptors::From({std::to_string(kSelf), "1", std::nullopt}, kSelf, kFirst);
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->names(), ElementsAre("unknown"));
}

TEST_F(Inherited, TheyDoNotReachChildrenOfTheBroker) {
  GiveListener();
  auto inherited = From("1", "web");
  ASSERT_THAT(inherited, IsOk());
  EXPECT_EQ(fcntl(kFirst, F_GETFD), FD_CLOEXEC);
}

TEST_F(Inherited, TheWrongKindIsRefusedAndNotUsedUp) {
  GiveListener();
  GiveConnection();
  auto inherited = From("2", "web:link");
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->Take("web", Kind::kConnection),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is a listening socket")));
  EXPECT_THAT((*inherited)->Take("link", Kind::kListening),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a listening socket")));
  EXPECT_THAT((*inherited)->Take("web", Kind::kListening), IsOk());
  EXPECT_THAT((*inherited)->Take("link", Kind::kConnection), IsOk());
}

TEST_F(Inherited, WhatIsNotASocketIsNeitherListenerNorConnection) {
  Give(STDERR_FILENO);
  auto inherited = From("1", "log");
  ASSERT_THAT(inherited, IsOk());
  EXPECT_THAT((*inherited)->Take("log", Kind::kConnection),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a stream socket")));
}

TEST_F(Inherited, ContradictionsAreErrors) {
  GiveListener();
  using absl::StatusCode;
  EXPECT_THAT(From("0", ""), StatusIs(StatusCode::kInvalidArgument, HasSubstr("LISTEN_FDS")));
  EXPECT_THAT(From("-1", ""), StatusIs(StatusCode::kInvalidArgument, HasSubstr("LISTEN_FDS")));
  EXPECT_THAT(From("many", ""), StatusIs(StatusCode::kInvalidArgument, HasSubstr("LISTEN_FDS")));
  EXPECT_THAT(From("1", "a:b"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("2 names for 1 descriptors")));
  EXPECT_THAT(InheritedDescriptors::From({"me", "1", "a"}, kSelf, kFirst),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("LISTEN_PID")));
}

TEST_F(Inherited, ADescriptorThatIsNotOpenIsAnErrorAndTheOthersStayOpen) {
  // why: owning a closed number would close whatever gets it later
  GiveListener();
  EXPECT_THAT(From("2", "a:b"), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("\"b\": Bad file descriptor")));
  EXPECT_GE(fcntl(kFirst, F_GETFD), 0);
}

TEST_F(Inherited, FromEnvironmentUnsetsTheVariables) {
  // why: a child of the broker must not believe that they are its own
  setenv("LISTEN_PID", "1", 1);
  setenv("LISTEN_FDS", "1", 1);
  setenv("LISTEN_FDNAMES", "web", 1);
  ASSERT_THAT(InheritedDescriptors::FromEnvironment(), IsOk());
  EXPECT_EQ(getenv("LISTEN_PID"), nullptr);
  EXPECT_EQ(getenv("LISTEN_FDS"), nullptr);
  EXPECT_EQ(getenv("LISTEN_FDNAMES"), nullptr);
}

}  // namespace
}  // namespace sockbroker::server
