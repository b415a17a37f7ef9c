#include "server/settings_pool.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"

namespace sockbroker::server {
namespace {

ConnectionSettings WithLimit(uint32_t limit) {
  ConnectionSettings settings;
  settings.limit = limit;
  settings.shown.set_limit(limit);
  return settings;
}

TEST(SettingsPool, ConnectionsWithTheSameSettingsShareThem) {
  SettingsPool pool;
  const auto one = pool.Share(WithLimit(1000));
  EXPECT_EQ(pool.Share(WithLimit(1000)), one);
  const auto other = pool.Share(WithLimit(2000));
  EXPECT_NE(other, one);
  EXPECT_EQ(other->limit, 2000u);
}

TEST(SettingsPool, SettingsWithLabelsOrATraceAreAConnectionsOwn) {
  SettingsPool pool;
  ConnectionSettings labelled = WithLimit(1000);
  (*labelled.shown.mutable_labels())["job"] = "1";
  ConnectionSettings traced = WithLimit(1000);
  traced.shown.set_traceparent("00-1-2-01");
  EXPECT_NE(pool.Share(labelled), pool.Share(labelled));
  EXPECT_NE(pool.Share(traced), pool.Share(traced));
  EXPECT_EQ(pool.size(), 0u);
}

TEST(SettingsPool, WhatNobodyHasAnyMoreIsForgotten) {
  SettingsPool pool;
  const auto kept = pool.Share(WithLimit(1));
  for (uint32_t limit = 2; limit < 5000; ++limit) (void)pool.Share(WithLimit(limit));
  EXPECT_LT(pool.size(), 200u);
  EXPECT_EQ(pool.Share(WithLimit(1)), kept);
}

}  // namespace
}  // namespace sockbroker::server
