#include "server/handle.h"

#include <openssl/sha.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace sockbroker::server {
namespace {

// Big-endian, so that the text form reads as the number does.
void StoreUint64(char* out, uint64_t value) {
  for (int i = 0; i < 8; i++) out[i] = static_cast<char>(value >> (56 - 8 * i));
}

uint64_t LoadUint64(const char* in) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) value = value << 8 | static_cast<unsigned char>(in[i]);
  return value;
}

}  // namespace

void FillRandom(char* out, std::size_t size) {
  while (size > 0) {
    const ssize_t got = getrandom(out, size, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      std::abort();  // no kernel we run on is without it; a guessable handle is worse than none
    }
    out += got;
    size -= static_cast<std::size_t>(got);
  }
}

uint64_t RandomNonZero() {
  uint64_t value = 0;
  while (value == 0) FillRandom(reinterpret_cast<char*>(&value), sizeof(value));
  return value;
}

BrokerIdentity BrokerIdentity::Draw(absl::string_view seed) {
  BrokerIdentity identity{.broker_id = RandomNonZero(), .incarnation = RandomNonZero()};
  if (!seed.empty()) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256(reinterpret_cast<const unsigned char*>(seed.data()), seed.size(), digest);
    identity.broker_id = LoadUint64(reinterpret_cast<const char*>(digest)) | 1;
  }
  return identity;
}

Handle Handle::Random(const BrokerIdentity& identity) {
  Handle handle;
  FillRandom(handle.bytes_.data(), kSecretSize);
  StoreUint64(handle.bytes_.data() + kSecretSize, identity.incarnation);
  StoreUint64(handle.bytes_.data() + kSecretSize + 8, identity.broker_id);
  return handle;
}

std::optional<Handle> Handle::FromBytes(absl::string_view bytes) {
  if (bytes.size() != kSize) return std::nullopt;
  Handle handle;
  std::memcpy(handle.bytes_.data(), bytes.data(), kSize);
  return handle;
}

uint64_t Handle::incarnation() const { return LoadUint64(bytes_.data() + kSecretSize); }
uint64_t Handle::broker_id() const { return LoadUint64(bytes_.data() + kSecretSize + 8); }
std::string Handle::ToText() const { return absl::BytesToHexString(bytes()); }

}  // namespace sockbroker::server
