// Block: memory for bytes in bulk (received, decrypted, encrypted) that becomes a Cord without
// being copied, and serves again when that Cord is gone.
//
//   Block block;
//   const ssize_t received = recv(fd, block.data(), Block::kSize, 0);
//   data.Append(std::move(block).ToCord(static_cast<std::size_t>(received)));
//
// Each thread keeps a few. malloc would give memory of this size back to the kernel all the time,
// and every use would begin with page faults: they took a third of a bulk transfer's time.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/strings/cord.h"

namespace sockbroker::streams::internal {

class Block {
 public:
  // 64 KiB, and room for what TLS adds to as much.
  static constexpr std::size_t kSize = 64 * 1024 + 512;

  Block() : data_(Allocate()) {}
  ~Block() {
    if (data_ != nullptr) Free(data_);
  }
  Block(Block&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }

  char* data() { return data_; }
  // Its first `size` bytes. Little in a block is copied instead: what waits for its reader shall
  // not hold memory for nothing.
  absl::Cord ToCord(std::size_t size) &&;

 private:
  static char* Allocate();
  static void Free(char* data);

  char* data_;
};

}  // namespace sockbroker::streams::internal
