// The two clocks of a measurement: what time it is, and what a server has used of its processor.
#pragma once

#include <time.h>
#include <unistd.h>

#include <cstdint>

namespace sockbroker::bench {

inline int64_t NanosOf(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

inline int64_t NowNanos() { return NanosOf(CLOCK_MONOTONIC); }

// Processor time that the process has used, all of its threads together. On a machine with other
// work this says more of a server's cost than the clock on the wall does.
inline int64_t CpuNanosOf(pid_t pid) {
  clockid_t clock;
  return pid > 0 && clock_getcpuclockid(pid, &clock) == 0 ? NanosOf(clock) : 0;
}

}  // namespace sockbroker::bench
