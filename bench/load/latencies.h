// Latencies: a histogram of durations with buckets less than 1 % wide, so that recording one costs
// no allocation.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace sockbroker::bench {

class Latencies {
 public:
  void Add(int64_t nanos) {
    counts_[IndexOf(static_cast<uint64_t>(nanos > 0 ? nanos : 0))]++;
    total_++;
  }
  void Clear() { *this = Latencies(); }

  // The duration below which `share` (0 to 1) of all lie, microseconds.
  double Quantile(double share) const {
    const double wanted = share * static_cast<double>(total_);
    double seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += static_cast<double>(counts_[i]);
      if (seen >= wanted && seen > 0) return MiddleOf(i) / 1000;
    }
    return 0;
  }

 private:
  static constexpr unsigned kBits = 7;  // 128 buckets for each doubling

  static std::size_t IndexOf(uint64_t nanos) {
    if (nanos < (1U << kBits)) return nanos;
    const unsigned shift = static_cast<unsigned>(std::bit_width(nanos)) - 1 - kBits;
    return ((shift + 1) << kBits) + ((nanos >> shift) & ((1U << kBits) - 1));
  }
  static double MiddleOf(std::size_t index) {
    if (index < (1U << kBits)) return static_cast<double>(index);
    const unsigned shift = static_cast<unsigned>(index >> kBits) - 1;
    const uint64_t base = (uint64_t{1} << kBits) | (index & ((1U << kBits) - 1));
    return (static_cast<double>(base) + 0.5) * static_cast<double>(uint64_t{1} << shift);
  }

  std::array<uint64_t, (64 - kBits + 1) << kBits> counts_{};
  uint64_t total_ = 0;
};

}  // namespace sockbroker::bench
