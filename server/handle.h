// Handle: the name of a connection or server in every request. 16 random bytes (nobody can guess
// one), then the broker's incarnation and its id, so that a handle of yesterday or of another
// broker is told apart from a wrong one.
//
//   Handle handle = Handle::Random(identity);
//   std::optional<Handle> same = Handle::FromBytes(handle.bytes());
//   handle.ToText();  // 64 hexadecimal digits, abbreviated like a git hash
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace sockbroker::server {

// Who made a handle.
struct BrokerIdentity {
  uint64_t broker_id = 0;
  uint64_t incarnation = 0;

  // The id is a hash of `seed`, or random when it is empty; the incarnation is always random.
  // Neither is ever 0.
  static BrokerIdentity Draw(absl::string_view seed);
};

class Handle {
 public:
  static constexpr std::size_t kSecretSize = 16;
  static constexpr std::size_t kSize = kSecretSize + 8 + 8;

  // All zeros: nobody's.
  Handle() : bytes_{} {}
  static Handle Random(const BrokerIdentity& identity);
  // None unless `bytes` has exactly the size of a handle.
  static std::optional<Handle> FromBytes(absl::string_view bytes);

  absl::string_view bytes() const { return {bytes_.data(), bytes_.size()}; }
  uint64_t incarnation() const;
  uint64_t broker_id() const;
  std::string ToText() const;

  friend bool operator==(const Handle& a, const Handle& b) { return a.bytes_ == b.bytes_; }
  template <typename H>
  friend H AbslHashValue(H state, const Handle& handle) {
    return H::combine(std::move(state), handle.bytes());
  }

 private:
  std::array<char, kSize> bytes_;
};

// From the kernel's generator.
void FillRandom(char* out, std::size_t size);
uint64_t RandomNonZero();

}  // namespace sockbroker::server
