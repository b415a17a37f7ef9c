#include "simulation.h"

#include <cstdlib>

#include "gtest/gtest.h"

namespace sockbroker::session {
namespace {

// How many seeds each test runs; SOCKBROKER_SEEDS asks for more (or fewer).
int Seeds(int otherwise) {
  const char* seeds = std::getenv("SOCKBROKER_SEEDS");
  return seeds != nullptr ? std::atoi(seeds) : otherwise;
}

SimulationResult RunAll(int seeds, bool broker_may_die) {
  SimulationResult sum;
  for (int seed = 0; seed < seeds; ++seed) {
    SimulationOptions options;
    options.seed = static_cast<uint64_t>(seed);
    options.connections = 1 + seed % 5;
    options.broker_may_die = broker_may_die;
    const SimulationResult result = RunSimulation(options);
    EXPECT_EQ(result.failure, "");
    if (!result.failure.empty()) break;
    sum.cuts += result.cuts;
    sum.replaced += result.replaced;
    sum.steals += result.steals;
    sum.revoked += result.revoked;
    sum.upgrades += result.upgrades;
    sum.accepts += result.accepts;
    sum.lost += result.lost;
    sum.bytes += result.bytes;
  }
  return sum;
}

TEST(SessionSimulation, EveryByteArrivesOnceAndInOrderOverALinkThatBreaksAnywhere) {
  const SimulationResult sum = RunAll(Seeds(10'000), /*broker_may_die=*/false);
  EXPECT_GT(sum.cuts, 0);
  EXPECT_GT(sum.replaced, 0);
  EXPECT_GT(sum.steals, 0);
  EXPECT_GT(sum.revoked, 0);
  EXPECT_GT(sum.upgrades, 0);
  EXPECT_GT(sum.accepts, 0);
  EXPECT_EQ(sum.lost, 0);
  RecordProperty("bytes", std::to_string(sum.bytes));
}

TEST(SessionSimulation, ABrokersDeathIsSaidAsLostAndNothingElseGoesWrong) {
  const SimulationResult sum = RunAll(Seeds(2'000), /*broker_may_die=*/true);
  EXPECT_GT(sum.lost, 0);
}

}  // namespace
}  // namespace sockbroker::session
