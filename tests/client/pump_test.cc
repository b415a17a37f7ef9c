#include "client/pump.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>

#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "streams/loop_thread.h"
#include "streams/run_coroutine_threadsafe.h"
#include "tests/client/cpp/memory_broker.h"

namespace sockbroker::client {
namespace {

using streams::RunCoroutineThreadsafe;

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
  PumpTest() : thread_("pump") {}

  void SetUp() override {
    (void)std::signal(SIGPIPE, SIG_IGN);
    ASSERT_TRUE(*RunCoroutineThreadsafe(Connect(), thread_.loop()).Result());
  }
  void TearDown() override {
    // A test that failed must not hang on it.
    if (result_.valid()) {
      interrupt_.Raise(SIGTERM);
      input_.CloseWriter();
      result_.wait();
    }
    OnLoop([this] {
      connection_ = Connection();
      broker_.Close();
    });
    OnLoop([this] { broker_ = Broker(); });
    OnLoop([this] { memory_.reset(); });
  }

  void Start(PumpOptions options = {}, int input = -1) {
    if (input < 0) input = input_.reader();
    result_ = std::async(std::launch::async, [this, options, input] {
      return *RunCoroutineThreadsafe(Run(options, input), thread_.loop()).Result();
    });
  }
  PumpResult Result() { return result_.get(); }

  // --- the peer's side
  void PeerSends(const std::string& bytes) {
    OnLoop([&] { peer().Send(bytes); });
  }
  void PeerEnds() {
    OnLoop([&] { peer().SendEof(); });
  }
  // As TLS without half-close: with the peer's direction the whole connection has ended, in good
  // order.
  void PeerEndsBoth() {
    OnLoop([&] {
      peer().SendEof();
      peer().End({}, v1::ENDED_BY_PEER);
    });
  }
  void PeerResets() {
    OnLoop([&] {
      google::rpc::Status status;
      status.set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
      v1::ErrorDetail detail;
      detail.set_reason(v1::CONNECTION_RESET);
      status.add_details()->PackFrom(detail);
      peer().End(status, v1::CONNECTION_RESET);
    });
  }
  std::string PeerReceived() {
    return OnLoop([&] { return peer().received(); });
  }
  bool PeerSawEof() {
    return OnLoop([&] { return peer().saw_eof(); });
  }
  void WaitUntilPeerReceived(std::size_t size) {
    WaitUntil([&] { return peer().received().size() >= size; });
  }
  void WaitUntilPeerSawEof() {
    WaitUntil([&] { return peer().saw_eof(); });
  }
  // What the broker need not keep any more.
  uint64_t Acknowledged() {
    return OnLoop([&] { return peer().channel()->out.taken().offset; });
  }
  MemoryPeer& peer() { return memory_->peer(0); }

  // Asks again and again, on the loop.
  template <typename Condition>
  void WaitUntil(Condition condition) {
    const absl::Time until = absl::Now() + absl::Seconds(30);
    while (!OnLoop(condition)) {
      ASSERT_LT(absl::Now(), until);
      std::this_thread::yield();
    }
  }
  template <typename Function>
  auto OnLoop(Function function) -> decltype(function()) {
    std::promise<decltype(function())> promise;
    thread_.loop()->Post([&] {
      if constexpr (std::is_void_v<decltype(function())>) {
        function();
        promise.set_value();
      } else {
        promise.set_value(function());
      }
    });
    return promise.get_future().get();
  }

  streams::Task<bool> Connect() {
    memory_ = std::make_unique<MemoryBroker>();
    BrokerOptions options;
    options.backoff_max = absl::Milliseconds(20);
    absl::StatusOr<Broker> broker = co_await memory_->Connect(options);
    if (!broker.ok()) co_return false;
    broker_ = *std::move(broker);
    OpenConnectionOptions how;
    TuneForPump(&how);
    auto connection = co_await broker_.OpenConnection("peer", 1, std::move(how));
    if (!connection.ok()) co_return false;
    connection_ = *std::move(connection);
    co_return true;
  }
  streams::Task<PumpResult> Run(PumpOptions options, int input) {
    Pump pump(connection_, input, output_.writer(), std::move(options), &interrupt_);
    co_return co_await pump.Run();
  }

  Interrupt interrupt_;
  Pipe input_;
  Pipe output_;
  streams::LoopThread thread_;
  // The loop's.
  std::unique_ptr<MemoryBroker> memory_;
  Broker broker_;
  Connection connection_;
  std::future<PumpResult> result_;
};

TEST_F(PumpTest, BytesGoBothWaysUntilBothDirectionsHaveEnded) {
  Start();
  input_.Write("to the peer");
  PeerSends("from the peer");
  EXPECT_EQ(output_.Read(13), "from the peer");
  input_.CloseWriter();
  WaitUntilPeerSawEof();
  PeerSends(", later");
  PeerEnds();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kDone);
  EXPECT_EQ(result.sent, 11u);
  EXPECT_EQ(result.received, 20u);
  EXPECT_TRUE(result.peer_eof);
  EXPECT_EQ(PeerReceived(), "to the peer");
  EXPECT_EQ(output_.Read(7), ", later");
  EXPECT_FALSE(OnLoop([&] { return peer().closed(); })) << "closing is the caller's";
}

TEST_F(PumpTest, ALinkThatBreaksAgainAndAgainCostsNoByte) {
  const std::string to_peer = RandomText(3 << 20, 1);
  const std::string from_peer = RandomText(3 << 20, 2);
  Start();
  std::thread writer([&] {
    input_.Write(to_peer);
    input_.CloseWriter();
  });
  std::thread breaker([&] {
    for (std::size_t part = 0; part < 6; ++part) {
      PeerSends(from_peer.substr(part << 19, 1 << 19));
      WaitUntilPeerReceived(part << 18);
      OnLoop([this] { memory_->Cut(); });
    }
    PeerEnds();
  });
  EXPECT_EQ(output_.Read(from_peer.size()), from_peer);
  const PumpResult result = Result();
  writer.join();
  breaker.join();
  EXPECT_EQ(result.end, End::kDone) << result.status;
  EXPECT_EQ(PeerReceived(), to_peer);
  EXPECT_EQ(result.received, from_peer.size());
  EXPECT_EQ(result.sent, to_peer.size());
}

TEST_F(PumpTest, ABrokerThatIsGoneForGoodEndsIt) {
  Start();
  input_.Write("x");
  WaitUntilPeerReceived(1);
  OnLoop([this] { broker_.Close(); });
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(GetStreamEnd(result.status), StreamEnd::kGivenUp);
}

TEST_F(PumpTest, ABrokerThatWasRestartedEndsItWithTheLastOffsets) {
  Start();
  PeerSends("four");
  EXPECT_EQ(output_.Read(4), "four");
  OnLoop([this] { memory_->Restart(); });
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(GetStreamEnd(result.status), StreamEnd::kLost);
  EXPECT_EQ(GetOffsets(result.status)->read_kept(), 4u);
}

TEST_F(PumpTest, AByteIsAcknowledgedOnlyAfterItWasWrittenOut) {
  // More than a pipe takes.
  const std::string bytes = RandomText(1 << 20, 3);
  const auto capacity = static_cast<uint64_t>(fcntl(output_.writer(), F_GETPIPE_SZ));
  PeerSends(bytes);
  Start();
  WaitUntil([&] { return peer().channel()->out.taken().offset > 0; });
  EXPECT_LE(Acknowledged(), capacity);
  std::string out = output_.Read(1 << 19);
  EXPECT_LE(Acknowledged(), (1 << 19) + capacity) << "half of it is not written out yet";
  out += output_.Read(1 << 19);
  EXPECT_EQ(out, bytes);
  WaitUntil([&] { return peer().channel()->out.taken().offset == bytes.size(); });
  PeerEnds();
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, WhatWasNotWrittenOutIsThereForTheNextClient) {
  const std::string bytes = RandomText(1 << 20, 5);
  PeerSends(bytes);
  Start();
  std::string out = output_.Read(1000);
  interrupt_.Raise(SIGINT);
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kInterrupted);
  EXPECT_LT(result.received, bytes.size());
  const uint64_t left_at = *RunCoroutineThreadsafe(
                                [](StreamWriter writer) -> streams::Task<uint64_t> {
                                  co_return (co_await writer.Detach())->read_offset;
                                }(connection_.writer),
                                thread_.loop())
                                .Result();
  EXPECT_EQ(left_at, result.received);
  out += output_.Read(result.received - 1000);
  EXPECT_EQ(out, bytes.substr(0, result.received)) << "no byte less, and none more";
}

TEST_F(PumpTest, TheInputIsReadNoFurtherThanTheWindowAndALittleMore) {
  OnLoop([&] { peer().Hold(true); });
  Start();
  const std::string bytes = RandomText(4 << 20, 6);
  std::atomic<std::size_t> taken{0};
  std::thread writer([&] {
    for (; taken < bytes.size(); taken += 4096) {
      if (write(input_.writer(), bytes.data() + taken, 4096) != 4096) return;
    }
    input_.CloseWriter();
  });
  WaitUntil([&] { return connection_.writer.GetWriteBufferSize() > 0; });
  EXPECT_LT(taken, 3u << 20);
  OnLoop([&] { peer().Hold(false); });
  WaitUntilPeerSawEof();
  writer.join();
  PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(PeerReceived(), bytes);
}

TEST_F(PumpTest, WithoutHalfCloseThePeerSeesNoEnd) {
  Start({.half_close = false});
  input_.Write("question");
  input_.CloseWriter();
  WaitUntilPeerReceived(8);
  PeerSends("answer");
  EXPECT_EQ(output_.Read(6), "answer");
  PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_FALSE(PeerSawEof());
}

TEST_F(PumpTest, TheRestOfTheInputIsSentAfterThePeersEnd) {
  PeerEnds();
  Start();
  input_.Write("still");
  WaitUntilPeerReceived(5);
  input_.Write(" sent");
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(PeerReceived(), "still sent");
}

TEST_F(PumpTest, ThePeersEndIsTheEndWhenSoAsked) {
  PeerSends("bye");
  PeerEnds();
  Start({.at_peer_eof = PumpOptions::PeerEof::kEnd});
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(output_.Read(3), "bye");
}

TEST_F(PumpTest, AServerForManyWaitsForNoSilentInput) {
  input_.Write("what is there");
  PeerEnds();
  Start({.at_peer_eof = PumpOptions::PeerEof::kSendWhatIsThere});
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(PeerReceived(), "what is there");
}

TEST_F(PumpTest, WhatCameBeforeAResetIsWrittenOut) {
  PeerSends("last words");
  PeerResets();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(GetReason(result.status), v1::CONNECTION_RESET);
  EXPECT_EQ(output_.Read(10), "last words");
}

TEST_F(PumpTest, AReplyIsReadThoughThePeerTakesNoMore) {
  Start();
  OnLoop([&] { peer().TakeNoMore(); });
  input_.Write("too much");
  PeerSends("413");
  EXPECT_EQ(output_.Read(3), "413");
  PeerEnds();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(result.status.message(), "Broken pipe");
}

TEST_F(PumpTest, AConnectionThatIsLostWhileTheInputIsSilentEndsIt) {
  PeerEnds();
  Start({.on_output_end = [this] { output_.CloseWriter(); }});
  EXPECT_EQ(output_.Read(1), "") << "the end was seen";
  PeerResets();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(GetReason(result.status), v1::CONNECTION_RESET);
}

TEST_F(PumpTest, APeerThatEndsBothDirectionsEndsItThoughTheInputIsSilent) {
  PeerSends("bye");
  PeerEndsBoth();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kDone);
  EXPECT_TRUE(result.peer_eof);
  EXPECT_EQ(output_.Read(3), "bye");
}

TEST_F(PumpTest, WhatAPeerThatHasEndedBothDirectionsDoesNotGetIsAFailure) {
  input_.Write("too late");
  input_.CloseWriter();
  PeerEndsBoth();
  Start();
  const PumpResult result = Result();
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(result.sent, 0u);
}

TEST_F(PumpTest, TheEndOfTheInputNeedNotBeSaidToAPeerThatHasEndedBothDirections) {
  input_.CloseWriter();
  PeerEndsBoth();
  Start();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, ItIsOverAtOnceWhenNobodyReadsTheOutputThoughThePeerIsSilent) {
  Start();
  PeerSends("x");
  EXPECT_EQ(output_.Read(1), "x");
  output_.CloseReader();
  EXPECT_EQ(Result().end, End::kOutputClosed);
}

TEST_F(PumpTest, AnOutputThatNobodyReadsNeedNotEndTheInput) {
  Start({.end_when_output_closes = false});
  output_.CloseReader();
  input_.Write("still said");
  WaitUntilPeerReceived(10);
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, TheOutputCanBeClosedAtThePeersEnd) {
  Start({.on_output_end = [this] { output_.CloseWriter(); }});
  PeerSends("all");
  PeerEnds();
  // More than there is: reads until the end.
  EXPECT_EQ(output_.Read(100), "all");
  input_.CloseWriter();
  EXPECT_EQ(Result().end, End::kDone);
}

TEST_F(PumpTest, AnInterruptionIsHeardThoughTheOutputIsStalled) {
  PeerSends(RandomText(1 << 20, 4));
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
  EXPECT_EQ(PeerReceived(), "all of this");
  EXPECT_TRUE(PeerSawEof());
}

TEST_F(PumpTest, ItEndsWhenNothingComesOrGoes) {
  Start({.idle = absl::Milliseconds(30)});
  EXPECT_EQ(Result().end, End::kIdle);
}

TEST_F(PumpTest, ACarriageReturnIsPutBeforeEachLineFeed) {
  Start({.crlf = true});
  input_.Write("one\ntwo\r");
  WaitUntilPeerReceived(9);
  input_.Write("\nthree\n");
  input_.CloseWriter();
  WaitUntilPeerSawEof();
  PeerEnds();
  EXPECT_EQ(Result().end, End::kDone);
  EXPECT_EQ(PeerReceived(), "one\r\ntwo\r\nthree\r\n");
}

TEST_F(PumpTest, AnInputThatCannotBeReadIsAFailureOfItsOwn) {
  const int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Start({}, directory);
  const PumpResult result = Result();
  close(directory);
  EXPECT_EQ(result.end, End::kFailed);
  EXPECT_EQ(result.failed_part, "reading the input");
  EXPECT_EQ(result.status.message(), "Is a directory");
  EXPECT_FALSE(PeerSawEof()) << "it was not the end of what there was to say";
}

}  // namespace
}  // namespace sockbroker::client
