#include "client/output.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

namespace sockbroker::client {
namespace {

class OutputTest : public testing::Test {
 protected:
  void SetUp() override { (void)std::signal(SIGPIPE, SIG_IGN); }
};

TEST_F(OutputTest, AStalledPipeOrSocketIsLeftWhenToldTo) {
  const int stop = eventfd(1, EFD_CLOEXEC);
  int fds[2];
  for (const bool socket : {false, true}) {
    ASSERT_EQ(socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, fds) : pipe(fds), 0);
    Output output(fds[1]);
    EXPECT_EQ(output.Write(std::string(8 << 20, 'x'), stop), Output::Result::kStopped);
    EXPECT_EQ(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0)
        << "who shares the descriptor must not notice";
    close(fds[0]);
    close(fds[1]);
  }
  close(stop);
}

TEST_F(OutputTest, AReaderThatHasGoneIsNoticed) {
  int fds[2];
  for (const bool socket : {false, true}) {
    ASSERT_EQ(socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, fds) : pipe(fds), 0);
    Output output(fds[1]);
    EXPECT_EQ(output.Write("x", -1), Output::Result::kOk);
    close(fds[0]);
    EXPECT_EQ(output.Write("x", -1), Output::Result::kClosed);
    close(fds[1]);
  }
}

TEST_F(OutputTest, AFileIsWrittenWhereItsDescriptorStands) {
  char name[] = "/tmp/sb-output-XXXXXX";
  const int file = mkstemp(name);
  ASSERT_EQ(write(file, "one ", 4), 4);
  EXPECT_EQ(Output(file).Write("two", -1), Output::Result::kOk);
  char text[8] = {};
  EXPECT_EQ(pread(file, text, sizeof(text), 0), 7);
  EXPECT_STREQ(text, "one two");
  close(file);
  unlink(name);
}

TEST_F(OutputTest, WhatWasWrittenIsToldThoughTheRestNeverIs) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const auto capacity = static_cast<std::size_t>(fcntl(fds[1], F_GETPIPE_SZ));
  const int stop = eventfd(1, EFD_CLOEXEC);
  std::size_t written = 0;
  Output output(fds[1]);
  EXPECT_EQ(output.Write(std::string(2 * capacity, 'x'), stop,
                         [&](std::size_t bytes) { written += bytes; }),
            Output::Result::kStopped);
  EXPECT_EQ(written, capacity);
  close(stop);
  close(fds[0]);
  close(fds[1]);
}

TEST_F(OutputTest, AFullDiskIsAFailureWithItsErrno) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  Output output(full);
  EXPECT_EQ(output.Write("x", -1), Output::Result::kFailed);
  EXPECT_EQ(output.error(), ENOSPC);
  close(full);
}

}  // namespace
}  // namespace sockbroker::client
