#include "client/pump.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include "client/error_text.h"
#include "tests/client/fake_broker.h"

namespace sockbroker::client {
namespace {

using End = PumpResult::End;

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe2(fds_, O_CLOEXEC), 0); }
  ~Pipe() {
    CloseReader();
    CloseWriter();
  }
  int reader() const { return fds_[0]; }
  int writer() const { return fds_[1]; }
  void CloseReader() { CloseFd(0); }
  void CloseWriter() { CloseFd(1); }

  void Write(const std::string& bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = write(writer(), bytes.data() + done, bytes.size() - done);
      ASSERT_GT(n, 0);
      done += static_cast<std::size_t>(n);
    }
  }
  // Exactly so many; fewer at the end.
  std::string Read(std::size_t size) {
    std::string bytes(size, '\0');
    std::size_t done = 0;
    while (done < size) {
      const ssize_t n = read(reader(), bytes.data() + done, size - done);
      if (n <= 0) break;
      done += static_cast<std::size_t>(n);
    }
    bytes.resize(done);
    return bytes;
  }

 private:
  void CloseFd(int i) {
    if (fds_[i] >= 0) close(fds_[i]);
    fds_[i] = -1;
  }
  int fds_[2] = {-1, -1};
};

std::string RandomText(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(generator());
  return text;
}

class PumpTest : public testing::Test {
 protected:
  void SetUp() override {
    (void)std::signal(SIGPIPE, SIG_IGN);
    link_ = broker_.Link();
  }
  void TearDown() override {
    // A test that failed must not hang on it.
    if (result_.valid()) {
      interrupt_.Raise(SIGTERM);
      input_.CloseWriter();
      result_.wait();
    }
  }

  void Start(PumpOptions options = {}, int input = -1) {
    if (input < 0) input = input_.reader();
    result_ = std::async(std::launch::async, [this, options, input] {
      Pump pump(link_.get(), broker_.connection(), input, output_.writer(), options, &interrupt_);
      return pump.Run();
    });
  }
  PumpResult Result() { return result_.get(); }

  FakeBroker broker_;
  Interrupt interrupt_;
  std::unique_ptr<BrokerLink> link_;
  Pipe input_;
  Pipe output_;
  std::future<PumpResult> result_;
};

TEST_F(PumpTest, BytesGoBothWaysUntilBothDirectionsHaveEnded) {
  Start();
  input_.Write("to the peer");
  broker_.PeerSends("from the peer");
  EXPECT_EQ(output_.Read(13), "from the peer");
  input_.CloseWriter();
  broker_.WaitUntilPeerSawEof();
  broker_.PeerSends(", later");
  broker_.PeerEnds();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kDone);
  EXPECT_EQ(result.sent, 11u);
  EXPECT_EQ(result.received, 20u);
  EXPECT_TRUE(result.peer_eof);
  EXPECT_EQ(broker_.PeerReceived(), "to the peer");
  EXPECT_EQ(output_.Read(7), ", later");
  EXPECT_FALSE(broker_.closed()) << "closing is the caller's";
}

TEST_F(PumpTest, ALostReplyToAWriteDoublesNothing) {
  broker_.LoseReplies("Write", 3);
  Start();
  input_.Write("once");
  input_.CloseWriter();
  broker_.WaitUntilPeerSawEof();
  broker_.PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(broker_.PeerReceived(), "once");
  EXPECT_EQ(broker_.calls("Write"), 4);
}

TEST_F(PumpTest, ALostReplyToAReadLosesNothing) {
  broker_.PeerSends("first");
  broker_.LoseReplies("Read", 3);
  Start();
  EXPECT_EQ(output_.Read(5), "first");
  broker_.PeerSends("second");
  broker_.PeerEnds();
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(output_.Read(6), "second");
}

TEST_F(PumpTest, ALostReplyToTheEndDoesNotEndTwice) {
  broker_.LoseReplies("WriteEof", 2);
  broker_.RefuseCalls("WriteEof", 1);
  Start();
  input_.CloseWriter();
  broker_.WaitUntilPeerSawEof();
  broker_.PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, ALinkThatBreaksAgainAndAgainCostsNoByte) {
  const std::string to_peer = RandomText(3 << 20, 1);
  const std::string from_peer = RandomText(3 << 20, 2);
  broker_.LoseReplies("Read", 1);
  Start();
  std::thread writer([&] {
    input_.Write(to_peer);
    input_.CloseWriter();
  });
  std::thread breaker([&] {
    for (std::size_t part = 0; part < 6; ++part) {
      broker_.PeerSends(from_peer.substr(part << 19, 1 << 19));
      broker_.WaitUntilPeerReceived(part << 18);
      broker_.BreakLink();
    }
    broker_.PeerEnds();
  });
  EXPECT_EQ(output_.Read(from_peer.size()), from_peer);
  const PumpResult result = Result();
  writer.join();
  breaker.join();
  EXPECT_EQ(result.end, End::kDone) << result.status.error_message();
  EXPECT_EQ(broker_.PeerReceived(), to_peer);
  EXPECT_EQ(result.received, from_peer.size());
}

TEST_F(PumpTest, ABrokerThatIsGoneForGoodEndsIt) {
  Start();
  input_.Write("x");
  broker_.WaitUntilPeerReceived(1);
  broker_.Stop();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_TRUE(IsBrokenLink(result.status));
}

TEST_F(PumpTest, AByteIsAcknowledgedOnlyAfterItWasWrittenOut) {
  // More than a pipe takes.
  const std::string bytes = RandomText(1 << 20, 3);
  broker_.PeerSends(bytes);
  Start();
  std::string out = output_.Read(1 << 19);
  EXPECT_EQ(broker_.kept(), 0u) << "half of it is not written out yet";
  out += output_.Read(1 << 19);
  broker_.WaitUntilCalled("Read", 2);
  EXPECT_EQ(out, bytes);
  broker_.PeerEnds();
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(broker_.kept(), bytes.size());
}

TEST_F(PumpTest, WithoutHalfCloseThePeerSeesNoEnd) {
  Start({.half_close = false});
  input_.Write("question");
  input_.CloseWriter();
  broker_.WaitUntilPeerReceived(8);
  broker_.PeerSends("answer");
  EXPECT_EQ(output_.Read(6), "answer");
  broker_.PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_FALSE(broker_.PeerSawEof());
}

TEST_F(PumpTest, TheRestOfTheInputIsSentAfterThePeersEnd) {
  broker_.PeerEnds();
  Start();
  broker_.WaitUntilCalled("Read", 1);
  input_.Write("still");
  broker_.WaitUntilPeerReceived(5);
  input_.Write(" sent");
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(broker_.PeerReceived(), "still sent");
}

TEST_F(PumpTest, ThePeersEndIsTheEndWhenSoAsked) {
  broker_.PeerSends("bye");
  broker_.PeerEnds();
  Start({.at_peer_eof = PumpOptions::PeerEof::kEnd});
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(output_.Read(3), "bye");
}

TEST_F(PumpTest, AServerForManyWaitsForNoSilentInput) {
  input_.Write("what is there");
  broker_.PeerEnds();
  Start({.at_peer_eof = PumpOptions::PeerEof::kSendWhatIsThere});
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(broker_.PeerReceived(), "what is there");
}

TEST_F(PumpTest, WhatCameBeforeAResetIsWrittenOut) {
  broker_.PeerSends("last words");
  broker_.PeerResets();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(ReasonOf(result.status), v1::CONNECTION_RESET);
  EXPECT_EQ(output_.Read(10), "last words");
}

TEST_F(PumpTest, AReplyIsReadThoughThePeerTakesNoMore) {
  broker_.PeerTakesNoMore();
  Start();
  input_.Write("too much");
  broker_.WaitUntilCalled("Write", 1);
  broker_.PeerSends("413");
  EXPECT_EQ(output_.Read(3), "413");
  broker_.PeerEnds();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(ReasonOf(result.status), v1::CLOSED);
}

TEST_F(PumpTest, AConnectionThatIsLostWhileTheInputIsSilentEndsIt) {
  broker_.PeerEnds();
  Start();
  broker_.WaitUntilCalled("WaitClosed", 1);
  broker_.PeerResets();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(ReasonOf(result.status), v1::CONNECTION_RESET);
}

TEST_F(PumpTest, APeerThatEndsBothDirectionsEndsItThoughTheInputIsSilent) {
  broker_.PeerSends("bye");
  broker_.PeerEndsBoth();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kDone);
  EXPECT_TRUE(result.peer_eof);
  EXPECT_EQ(output_.Read(3), "bye");
}

TEST_F(PumpTest, WhatAPeerThatHasEndedBothDirectionsDoesNotGetIsAFailure) {
  input_.Write("too late");
  input_.CloseWriter();
  broker_.PeerEndsBoth();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(result.sent, 0u);
}

TEST_F(PumpTest, TheEndOfTheInputNeedNotBeSaidToAPeerThatHasEndedBothDirections) {
  input_.CloseWriter();
  broker_.PeerEndsBoth();
  Start();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, ItIsOverAtOnceWhenNobodyReadsTheOutputThoughThePeerIsSilent) {
  Start();
  broker_.WaitUntilCalled("Read", 1);
  output_.CloseReader();
  EXPECT_EQ(Result().end, End::kOutputClosed);
}

TEST_F(PumpTest, AnOutputThatNobodyReadsNeedNotEndTheInput) {
  Start({.end_when_output_closes = false});
  output_.CloseReader();
  input_.Write("still said");
  broker_.WaitUntilPeerReceived(10);
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, TheOutputCanBeClosedAtThePeersEnd) {
  Start({.on_output_end = [this] { output_.CloseWriter(); }});
  broker_.PeerSends("all");
  broker_.PeerEnds();
  // More than there is: reads until the end.
  EXPECT_EQ(output_.Read(100), "all");
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, AnInterruptionIsHeardThoughTheOutputIsStalled) {
  broker_.PeerSends(RandomText(1 << 20, 4));
  Start();
  // Something is there, so the rest of the megabyte is being written to a pipe that is full.
  EXPECT_EQ(output_.Read(1).size(), 1u);
  interrupt_.Raise(SIGINT);
  EXPECT_EQ(Result().end, End::kInterrupted);
}

TEST_F(PumpTest, ItQuitsSoLongAfterTheInputsEndAsItWasTold) {
  Start({.quit_after_input = absl::ZeroDuration()});
  input_.Write("all of this");
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kQuitTimer);
  EXPECT_EQ(broker_.PeerReceived(), "all of this");
  EXPECT_TRUE(broker_.PeerSawEof());
}

TEST_F(PumpTest, ItEndsWhenNothingComesOrGoes) {
  Start({.idle = absl::Milliseconds(30)});
  EXPECT_EQ(Result().end, End::kIdle);
}

TEST_F(PumpTest, ACarriageReturnIsPutBeforeEachLineFeed) {
  Start({.crlf = true});
  input_.Write("one\ntwo\r");
  broker_.WaitUntilPeerReceived(9);
  input_.Write("\nthree\n");
  input_.CloseWriter();
  broker_.WaitUntilPeerSawEof();
  broker_.PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(broker_.PeerReceived(), "one\r\ntwo\r\nthree\r\n");
}

TEST_F(PumpTest, AnInputThatCannotBeReadIsAFailureOfItsOwn) {
  const int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Start({}, directory);
  const PumpResult result = Result();
  close(directory);
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(result.failed_part, "reading the input");
  EXPECT_EQ(result.status.error_message(), "Is a directory");
  EXPECT_FALSE(broker_.PeerSawEof()) << "it was not the end of what there was to say";
}

}  // namespace
}  // namespace sockbroker::client
