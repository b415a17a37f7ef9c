#include "server/handle_table.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "streams/testing/manual_clock.h"

namespace sockbroker::server {
namespace {

struct Thing {
  int number;
};
struct Remains {
  int number;
};
using Table = HandleTable<Thing, Remains>;

class HandleTableTest : public testing::Test {
 protected:
  Handle Add(int number, HandleAttributes attributes = {.principal = "me"}, bool listed = true) {
    const Handle handle = Handle::Random(identity_);
    table_.Insert(handle, std::move(attributes), std::make_shared<Thing>(Thing{number}), listed);
    return handle;
  }
  void Bury(const Handle& handle, int number, std::size_t bytes = 10) {
    table_.Bury(handle, std::make_shared<Remains>(Remains{number}), bytes);
  }
  std::vector<int> Numbers(const Table::Query& query, uint64_t after = 0, std::size_t most = 100) {
    std::vector<int> numbers;
    for (const auto& item : table_.Scan(query, after, most)) {
      numbers.push_back(item.record != nullptr ? item.record->number : -item.tombstone->number);
    }
    return numbers;
  }

  const BrokerIdentity identity_ = BrokerIdentity::Draw("test");
  streams::ManualClock clock_;
  std::vector<std::string> forgotten_;
  Table table_{identity_,
               &clock_,
               {.tombstone_lifetime = absl::Minutes(10), .tombstones = 3, .tombstone_bytes = 100},
               [this](const std::string& key) { forgotten_.push_back(key); }};
};

TEST_F(HandleTableTest, AHandleLeadsToItsRecordForItsPrincipalAlone) {
  const Handle handle = Add(1);
  EXPECT_EQ(table_.Find("me", handle.bytes()).record->number, 1);
  const auto foreign = table_.Find("other", handle.bytes());
  const auto unknown = table_.Find("me", Handle::Random(identity_).bytes());
  EXPECT_EQ(foreign.record, nullptr);
  EXPECT_EQ(foreign.status.ToGrpc().error_details(), unknown.status.ToGrpc().error_details());
  EXPECT_EQ(foreign.status.message(), unknown.status.message());
}

TEST_F(HandleTableTest, HandlesOfOthersAreToldApart) {
  const auto reason = [&](const BrokerIdentity& identity) {
    return table_.Find("me", Handle::Random(identity).bytes()).status.reason();
  };
  EXPECT_EQ(reason(identity_), v1::NO_SUCH_HANDLE);
  EXPECT_EQ(reason({identity_.broker_id, identity_.incarnation + 1}), v1::LOST);
  EXPECT_EQ(reason({identity_.broker_id + 1, identity_.incarnation}), v1::WRONG_BROKER);
  EXPECT_EQ(table_.Find("me", "short").status.reason(), v1::INVALID_FIELD);
}

TEST_F(HandleTableTest, ATombstoneIsRememberedAndThenForgotten) {
  const Handle handle = Add(1, {.principal = "me", .request_key = "key"});
  Bury(handle, 1);
  EXPECT_EQ(table_.open(), 0u);
  EXPECT_EQ(table_.Find("me", handle.bytes()).tombstone->number, 1);
  clock_.Advance(absl::Minutes(9));
  table_.PurgeExpired();
  EXPECT_NE(table_.Find("me", handle.bytes()).tombstone, nullptr);
  EXPECT_TRUE(forgotten_.empty());
  clock_.Advance(absl::Minutes(1));
  table_.PurgeExpired();
  EXPECT_EQ(table_.Find("me", handle.bytes()).status.reason(), v1::NO_SUCH_HANDLE);
  EXPECT_EQ(forgotten_, std::vector<std::string>{"key"});
  EXPECT_EQ(table_.tombstones(), 0u);
}

TEST_F(HandleTableTest, TombstonesAreBoundedInNumberAndBytes) {
  std::vector<Handle> handles;
  for (int i = 0; i < 5; i++) {
    handles.push_back(Add(i));
    Bury(handles.back(), i);
  }
  EXPECT_EQ(table_.tombstones(), 3u);
  EXPECT_EQ(table_.Find("me", handles[1].bytes()).tombstone, nullptr);
  EXPECT_NE(table_.Find("me", handles[2].bytes()).tombstone, nullptr);
  const Handle big = Add(9);
  Bury(big, 9, 95);
  EXPECT_EQ(table_.tombstones(), 1u);
}

TEST_F(HandleTableTest, ScansGoInOrderAndResume) {
  for (int i = 1; i <= 5; i++) Add(i);
  Add(99, {.principal = "other"});
  Table::Query query;
  query.principal = "me";
  EXPECT_EQ(Numbers(query), (std::vector<int>{1, 2, 3, 4, 5}));
  const auto page = table_.Scan(query, 0, 2);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(Numbers(query, page.back().order, 2), (std::vector<int>{3, 4}));
  query.principal = "nobody";
  EXPECT_TRUE(Numbers(query).empty());
}

TEST_F(HandleTableTest, ScansOfManyEntriesFindTheLast) {
  for (int i = 0; i < 5000; i++) Add(i);
  Add(5000, {.principal = "me", .labels = {{"app", "x"}}});
  Table::Query query;
  query.principal = "me";
  query.labels["app"] = "x";
  EXPECT_EQ(Numbers(query), std::vector<int>{5000});
}

TEST_F(HandleTableTest, FiltersSelect) {
  const Handle a = Add(1, {.principal = "me", .labels = {{"app", "x"}}, .server = "s"});
  Add(2, {.principal = "me", .name = "web"});
  Table::Query query;
  query.principal = "me";
  query.server = "s";
  EXPECT_EQ(Numbers(query), std::vector<int>{1});
  query.server = "";
  query.name = "web";
  EXPECT_EQ(Numbers(query), std::vector<int>{2});
  query.name = "";
  query.handle_prefix = std::string(a.bytes().substr(0, 6));
  EXPECT_EQ(Numbers(query), std::vector<int>{1});
  query.handle_prefix = "";
  query.labels["app"] = "";
  EXPECT_EQ(Numbers(query), std::vector<int>{1});
  table_.SetLabels(a, {});
  EXPECT_TRUE(Numbers(query).empty());
  query.labels.clear();
  Bury(a, 1);
  EXPECT_EQ(Numbers(query), std::vector<int>{2});
  query.include_closed = true;
  EXPECT_EQ(Numbers(query), (std::vector<int>{-1, 2}));
}

TEST_F(HandleTableTest, UnlistedOnesAreFoundButNotScannedUntilPublished) {
  const Handle handle = Add(1, {.principal = "me"}, /*listed=*/false);
  Table::Query query;
  query.principal = "me";
  EXPECT_TRUE(Numbers(query).empty());
  EXPECT_NE(table_.Find("me", handle.bytes()).record, nullptr);
  table_.Publish(handle);
  EXPECT_EQ(Numbers(query), std::vector<int>{1});
}

TEST_F(HandleTableTest, ErasedIsAsIfItHadNeverBeen) {
  const Handle handle = Add(1, {.principal = "me", .request_key = "key"});
  table_.Erase(handle);
  EXPECT_EQ(table_.Find("me", handle.bytes()).status.reason(), v1::NO_SUCH_HANDLE);
  EXPECT_EQ(table_.open(), 0u);
  EXPECT_EQ(forgotten_, std::vector<std::string>{"key"});
}

TEST_F(HandleTableTest, NamesBelongToOpenEntries) {
  const Handle handle = Add(1, {.principal = "me", .name = "web"});
  EXPECT_TRUE(table_.HasName("me", "web"));
  EXPECT_FALSE(table_.HasName("other", "web"));
  Bury(handle, 1);
  EXPECT_FALSE(table_.HasName("me", "web"));
}

}  // namespace
}  // namespace sockbroker::server
