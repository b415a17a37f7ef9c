// A simulation of the Session protocol: real ClientSession and BrokerSession objects over a link
// that is slow, batches at random and breaks anywhere, with peers, flushes, upgrades, accepts,
// steals and broker deaths in between. An oracle, which shares no code with the logic, knows what
// every stream must carry.
//
//   SimulationResult result = RunSimulation({.seed = 7});
//   EXPECT_EQ(result.failure, "");
#pragma once

#include <cstdint>
#include <string>

namespace sockbroker::session {

struct SimulationOptions {
  uint64_t seed = 0;
  int connections = 3;
  // Upper bounds, so that every seed ends.
  int faults = 12;  // link cuts, replaced clients, steals
  bool broker_may_die = false;
};

struct SimulationResult {
  std::string failure;  // empty: every byte exactly once and in order, or an explicit LOST
  int cuts = 0;
  int replaced = 0;
  int steals = 0;
  int revoked = 0;
  int upgrades = 0;
  int accepts = 0;
  int lost = 0;
  int64_t bytes = 0;
};

SimulationResult RunSimulation(const SimulationOptions& options);

}  // namespace sockbroker::session
