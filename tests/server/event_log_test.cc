#include "server/event_log.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sockbroker::server {
namespace {

v1::Connection Labelled(const std::string& key, const std::string& value) {
  v1::Connection connection;
  (*connection.mutable_options()->mutable_labels())[key] = value;
  return connection;
}

std::vector<uint64_t> Sequences(const std::vector<EventLog::Event>& events) {
  std::vector<uint64_t> sequences;
  for (const auto& event : events) sequences.push_back(event->sequence());
  return sequences;
}

TEST(EventLogTest, EachSeesItsOwnInOrder) {
  EventLog log(7, 100, 1 << 20);
  EXPECT_EQ(log.Publish(v1::ConnectionEvent::OPENED, "a", {}), 1u);
  EXPECT_EQ(log.Publish(v1::ConnectionEvent::OPENED, "b", {}), 2u);
  EXPECT_EQ(log.Publish(v1::ConnectionEvent::CLOSED, "a", {}), 3u);
  std::vector<EventLog::Event> events;
  uint64_t cursor = 0;
  EXPECT_TRUE(log.Read(&cursor, {.principal = "a"}, 100, &events));
  EXPECT_EQ(Sequences(events), (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(events[0]->incarnation(), 7u);
  EXPECT_EQ(cursor, 3u);
  events.clear();
  EXPECT_TRUE(log.Read(&cursor, {.principal = "a"}, 100, &events));
  EXPECT_TRUE(events.empty());
}

TEST(EventLogTest, ReadsStopAtTheNumberAskedFor) {
  EventLog log(7, 100, 1 << 20);
  for (int i = 0; i < 5; i++) log.Publish(v1::ConnectionEvent::OPENED, "a", {});
  std::vector<EventLog::Event> events;
  uint64_t cursor = 1;
  EXPECT_TRUE(log.Read(&cursor, {.principal = "a"}, 2, &events));
  EXPECT_EQ(Sequences(events), (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(cursor, 3u);
}

TEST(EventLogTest, LabelsSelectByKeyAndByValue) {
  EventLog log(7, 100, 1 << 20);
  log.Publish(v1::ConnectionEvent::OPENED, "a", Labelled("app", "x"));
  log.Publish(v1::ConnectionEvent::OPENED, "a", Labelled("app", "y"));
  log.Publish(v1::ConnectionEvent::OPENED, "a", Labelled("other", "x"));
  EventLog::Filter filter{.principal = "a"};
  filter.labels["app"] = "y";
  std::vector<EventLog::Event> events;
  uint64_t cursor = 0;
  log.Read(&cursor, filter, 100, &events);
  EXPECT_EQ(Sequences(events), (std::vector<uint64_t>{2}));
  filter.labels["app"] = "";
  cursor = 0;
  events.clear();
  log.Read(&cursor, filter, 100, &events);
  EXPECT_EQ(Sequences(events), (std::vector<uint64_t>{1, 2}));
}

TEST(EventLogTest, WhatFellOutIsAGapAndReadingGoesOnBehindIt) {
  EventLog log(7, 3, 1 << 20);
  for (int i = 0; i < 10; i++) log.Publish(v1::ConnectionEvent::OPENED, "a", {});
  EXPECT_EQ(log.oldest(), 8u);
  std::vector<EventLog::Event> events;
  uint64_t cursor = 7;  // the next is 8, which is there
  EXPECT_TRUE(log.Read(&cursor, {.principal = "a"}, 100, &events));
  EXPECT_EQ(events.size(), 3u);
  cursor = 6;
  events.clear();
  EXPECT_FALSE(log.Read(&cursor, {.principal = "a"}, 100, &events));
  EXPECT_EQ(cursor, 7u);
  EXPECT_TRUE(log.Read(&cursor, {.principal = "a"}, 100, &events));
  EXPECT_EQ(events.size(), 3u);
  // A number that was never given is no place to resume from either.
  cursor = 11;
  EXPECT_FALSE(log.Read(&cursor, {.principal = "a"}, 100, &events));
}

TEST(EventLogTest, BigEventsLeaveSooner) {
  EventLog log(7, 1000, 10'000);
  for (int i = 0; i < 100; i++) {
    log.Publish(v1::ConnectionEvent::OPENED, "a", Labelled("k", std::string(1000, 'x')));
  }
  EXPECT_GT(log.oldest(), 90u);
}

TEST(EventLogTest, SubscribersAreWokenUntilTheyLeave) {
  EventLog log(7, 10, 1 << 20);
  int woken = 0;
  const uint64_t id = log.Subscribe([&] { woken++; });
  log.Publish(v1::ConnectionEvent::OPENED, "a", {});
  log.Publish(v1::ConnectionEvent::OPENED, "b", {});
  EXPECT_EQ(woken, 2);
  log.Unsubscribe(id);
  log.Publish(v1::ConnectionEvent::OPENED, "a", {});
  EXPECT_EQ(woken, 2);
}

}  // namespace
}  // namespace sockbroker::server
