#include "client/note_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

class NoteWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    (void)std::signal(SIGPIPE, SIG_IGN);
    ASSERT_EQ(pipe2(pipe_, O_CLOEXEC), 0);
    capacity_ = static_cast<std::size_t>(fcntl(pipe_[1], F_SETPIPE_SZ, 4096));
  }
  void TearDown() override {
    for (const int fd : {pipe_[0], pipe_[1], stop_}) close(fd);
  }

  std::string Read(std::size_t bytes) {
    std::string text(bytes, '\0');
    std::size_t got = 0;
    while (got < bytes) {
      const ssize_t n = read(pipe_[0], &text[got], bytes - got);
      if (n <= 0) break;
      got += static_cast<std::size_t>(n);
    }
    text.resize(got);
    return text;
  }

  int pipe_[2] = {-1, -1};
  std::size_t capacity_ = 0;
  const int stop_ = eventfd(0, EFD_CLOEXEC);
};

std::string MissingText(uint64_t notes) { return absl::StrCat("<", notes, " missing>"); }

TEST_F(NoteWriterTest, WhatHasRoomIsWrittenAtOnce) {
  NoteWriter notes(pipe_[1], MissingText);
  notes.Write("note\n");
  EXPECT_EQ(Read(5), "note\n");
}

TEST_F(NoteWriterTest, WhatHasNoRoomWaitsInItsOrder) {
  NoteWriter notes(pipe_[1], MissingText);
  std::string all;
  for (int i = 0; all.size() < 5 * capacity_; ++i) {
    const std::string note = absl::StrCat("note ", i, "\n");
    notes.Write(note);
    all += note;
  }
  EXPECT_EQ(Read(all.size()), all);
  notes.Flush(stop_);
}

TEST_F(NoteWriterTest, WhatIsTooMuchIsCountedInItsPlace) {
  NoteWriter notes(pipe_[1], MissingText);
  const std::string note(NoteWriter::kMostWaiting / 2, 'x');
  // The thread may have taken none, or all that may wait, and that again waits.
  for (int i = 0; i < 8; ++i) notes.Write(note);
  std::string all;
  while (all.empty() || !all.ends_with(" missing>")) all += Read(1);
  const std::size_t written = all.find('<') / note.size();
  EXPECT_GE(written, 2u);
  EXPECT_LE(written, 4u);
  EXPECT_EQ(all.substr(written * note.size()), MissingText(8 - written));
  notes.Write("and on");
  EXPECT_EQ(Read(6), "and on");
}

TEST_F(NoteWriterTest, AnInterruptionEndsTheWaitForAReaderThatDoesNotRead) {
  NoteWriter notes(pipe_[1], MissingText);
  notes.Write(std::string(2 * capacity_, 'x'));
  eventfd_write(stop_, 1);
  notes.Flush(stop_);
}

TEST_F(NoteWriterTest, AReaderThatHasGoneIsNotWaitedFor) {
  NoteWriter notes(pipe_[1], MissingText);
  notes.Write(std::string(2 * capacity_, 'x'));
  close(pipe_[0]);
  pipe_[0] = -1;
  notes.Flush(stop_);
  notes.Write("more");
  notes.Flush(stop_);
}

}  // namespace
}  // namespace sockbroker::client
