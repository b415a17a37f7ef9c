// The library from plain threads, against the real broker.
#include "client/cpp/blocking.h"

#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/cpp/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/testing/status_matchers.h"
#include "tests/client/cpp/real_broker.h"

namespace sockbroker::client {
namespace {

using streams::IsOk;
using streams::IsOkAndHolds;
using streams::StatusIs;

// An echo server in the broker, served by a thread.
class Blocking : public ::testing::Test {
 protected:
  void SetUp() override {
    auto connected = blocking::Broker::Connect(real_.address());
    ASSERT_THAT(connected, IsOk());
    broker_ = *connected;
    auto server = broker_.StartServer("127.0.0.1", 0);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    port_ = server_.sockets()[0].port();
    thread_ = std::thread([this] {
      while (true) {
        auto connection = server_.Accept();
        if (!connection.ok()) return;
        while (true) {
          auto data = connection->reader.Read(65536);
          if (!data.ok() || data->empty()) break;
          if (!connection->writer.Write(*data).ok() || !connection->writer.Drain().ok()) break;
        }
        connection->writer.Close();
      }
    });
  }
  void TearDown() override {
    server_.Close();
    if (thread_.joinable()) thread_.join();
  }

  RealBroker real_;
  blocking::Broker broker_;
  blocking::Server server_;
  int port_ = 0;
  std::thread thread_;
};

TEST_F(Blocking, AThreadTalksAndWaits) {
  auto connection = broker_.OpenConnection("127.0.0.1", port_);
  ASSERT_THAT(connection, IsOk());
  auto& [reader, writer] = *connection;
  ASSERT_THAT(writer.Write("one\ntwo"), IsOk());
  EXPECT_THAT(reader.ReadLine(), IsOkAndHolds("one\n"));
  EXPECT_THAT(reader.ReadExactly(3), IsOkAndHolds("two"));
  ASSERT_THAT(writer.Write("a|b"), IsOk());
  EXPECT_THAT(reader.ReadUntil("|"), IsOkAndHolds("a|"));
  ASSERT_THAT(writer.WriteEof(), IsOk());
  EXPECT_THAT(reader.ReadAll(), IsOkAndHolds("b"));
  EXPECT_TRUE(reader.AtEof());
  EXPECT_EQ(writer.read_offset(), 10u);
  EXPECT_EQ(writer.peername().port(), port_);
  writer.Close();
  EXPECT_THAT(writer.WaitClosed(), IsOk());
}

TEST_F(Blocking, ATimeoutLosesNothing) {
  auto connection = broker_.OpenConnection("127.0.0.1", port_);
  ASSERT_THAT(connection, IsOk());
  auto& [reader, writer] = *connection;
  ASSERT_THAT(writer.Write("half a "), IsOk());
  EXPECT_THAT(reader.ReadLine(absl::Milliseconds(50)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  ASSERT_THAT(writer.Write("line\n"), IsOk());
  EXPECT_THAT(reader.ReadLine(), IsOkAndHolds("half a line\n"));
}

TEST_F(Blocking, AConnectionIsLeftAndTakenUpByAnotherBrokerObject) {
  std::string handle;
  uint64_t offset = 0;
  {
    auto other = blocking::Broker::Connect(real_.address());
    ASSERT_THAT(other, IsOk());
    auto connection = other->OpenConnection("127.0.0.1", port_);
    ASSERT_THAT(connection, IsOk());
    ASSERT_THAT(connection->writer.Write("1\n2\n"), IsOk());
    EXPECT_THAT(connection->reader.ReadLine(), IsOkAndHolds("1\n"));
    auto left = connection->writer.Detach();
    ASSERT_THAT(left, IsOk());
    handle = left->handle;
    offset = left->read_offset;
  }
  AttachOptions options;
  options.read_offset = offset;
  auto again = broker_.Attach(handle, options);
  ASSERT_THAT(again, IsOk());
  EXPECT_THAT(again->reader.ReadLine(), IsOkAndHolds("2\n"));
}

TEST_F(Blocking, ManyThreadsShareOneBroker) {
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      auto server = broker_.StartServer("127.0.0.1", 0);
      ASSERT_THAT(server, IsOk());
      auto connection = broker_.OpenConnection("127.0.0.1", server->sockets()[0].port());
      ASSERT_THAT(connection, IsOk());
      auto accepted = server->Accept();
      ASSERT_THAT(accepted, IsOk());
      const std::string text = std::string(10'000, static_cast<char>('a' + i));
      ASSERT_THAT(connection->writer.Write(text), IsOk());
      EXPECT_THAT(accepted->reader.ReadExactly(text.size()), IsOkAndHolds(text));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(Blocking, HandlesMayGoInAnyOrder) {
  std::optional<blocking::Connection> connection;
  {
    auto other = blocking::Broker::Connect(real_.address());
    ASSERT_THAT(other, IsOk());
    auto opened = other->OpenConnection("127.0.0.1", port_);
    ASSERT_THAT(opened, IsOk());
    connection = *opened;
  }
  ASSERT_THAT(connection->writer.Write("still\n"), IsOk());
  EXPECT_THAT(connection->reader.ReadLine(), IsOkAndHolds("still\n"));
  connection->reader = blocking::StreamReader();
  connection.reset();
}

}  // namespace
}  // namespace sockbroker::client
