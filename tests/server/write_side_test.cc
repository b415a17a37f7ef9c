// The writing half against a naive account of who wrote which byte, over a stream in memory.
#include "server/write_side.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/memory_connection.h"

namespace sockbroker::server {
namespace {

using streams::MakeMemoryConnections;
using streams::MakeMemoryPeer;

// Every byte with its writer, and the rule of the contract applied to that.
struct Account {
  std::string bytes;
  std::vector<std::string> writers;  // "" for none

  // OK, OUT_OF_RANGE or ABORTED; takes the write if OK.
  grpc::StatusCode Write(const std::string& data, uint64_t offset, const std::string& writer) {
    if (offset > bytes.size()) return grpc::StatusCode::OUT_OF_RANGE;
    for (uint64_t i = offset; i < bytes.size(); i++) {
      if (writers[i] != writer) return grpc::StatusCode::ABORTED;
    }
    for (uint64_t i = bytes.size() - offset; i < data.size(); i++) {
      bytes.push_back(data[i]);
      writers.push_back(writer);
    }
    return grpc::StatusCode::OK;
  }
};

CO_TEST(WriteSideTest, AgreesWithANaiveAccountOfWhoWroteWhat) {
  std::mt19937 random(42);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int run = 0; run < 300; run++) {
    auto pair = MakeMemoryConnections();
    WriteSide side(pair.client.writer, 1 << 20);
    Account account;
    for (int step = 0; step < 20; step++) {
      const std::string writer = pick(2) == 0 ? "writer-1" : "writer-2";
      const std::string data(static_cast<std::size_t>(pick(6)), static_cast<char>('a' + pick(26)));
      WriteSpec spec{.data = absl::Cord(data), .writer = writer};
      if (pick(5) == 0) {
        spec.writer = "";
        EXPECT_TRUE(side.Write(std::move(spec)).ok());
        for (const char c : data) {
          account.bytes.push_back(c);
          account.writers.emplace_back();
        }
        continue;
      }
      const uint64_t back = static_cast<uint64_t>(pick(8));
      const uint64_t offset =
          account.bytes.size() + 1 - std::min<uint64_t>(back, account.bytes.size() + 1);
      spec.offset = offset;
      EXPECT_EQ(side.Write(std::move(spec)).code(), account.Write(data, offset, writer));
      EXPECT_EQ(side.offset(), account.bytes.size());
    }
    EXPECT_TRUE(side.WriteEof().ok());
    const auto received = co_await pair.server.reader.ReadAll();
    CO_ASSERT_OK(received.status());
    EXPECT_EQ(std::string(*received), account.bytes);
  }
}

CO_TEST(WriteSideTest, ABufferThatIsFullTakesNothingOfAWrite) {
  auto memory = MakeMemoryPeer({}, {.kernel_buffer = 10});
  WriteSide side(memory.writer, 100);
  EXPECT_TRUE(side.Write({.data = absl::Cord(std::string(100, 'x'))}).ok());
  const std::size_t waiting = side.buffered();
  EXPECT_GT(waiting, 0u);
  const RpcStatus full = side.Write({.data = absl::Cord(std::string(101 - waiting, 'x'))});
  EXPECT_EQ(full.reason(), v1::WRITE_BUFFER_FULL);
  EXPECT_EQ(side.offset(), 100u);
  EXPECT_TRUE(side.Write({.data = absl::Cord(std::string(100 - waiting, 'x'))}).ok());
  co_return;
}

CO_TEST(WriteSideTest, ARepetitionFitsIntoAFullBuffer) {
  auto memory = MakeMemoryPeer({}, {.kernel_buffer = 1});
  WriteSide side(memory.writer, 10);
  WriteSpec spec{.data = absl::Cord("0123456789"), .offset = 0, .writer = "writer-1"};
  EXPECT_TRUE(side.Write(spec).ok());
  EXPECT_TRUE(side.Write(spec).ok());
  EXPECT_EQ(side.offset(), 10u);
  co_return;
}

}  // namespace
}  // namespace sockbroker::server
