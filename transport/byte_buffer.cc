#include "transport/byte_buffer.h"

#include <grpcpp/support/slice.h>

#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace sockbroker {
namespace {

// Below this a copy is cheaper than keeping the other side's memory.
constexpr std::size_t kCopyBelow = 2048;

void AppendSlice(grpc::Slice slice, absl::Cord* cord) {
  const absl::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (bytes.size() < kCopyBelow) {
    cord->Append(bytes);
  } else {
    cord->Append(absl::MakeCordFromExternal(bytes, [kept = std::move(slice)] {}));
  }
}

// A Cord that slices of a message refer to; it goes with the last of them.
struct Shared {
  absl::Cord cord;
  std::atomic<int> references{1};

  void Unref() {
    if (references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

}  // namespace

absl::Cord ToCord(const grpc::ByteBuffer& message) {
  absl::Cord cord;
  std::vector<grpc::Slice> slices;
  if (!message.Dump(&slices).ok()) return cord;
  for (grpc::Slice& slice : slices) AppendSlice(std::move(slice), &cord);
  return cord;
}

grpc::ByteBuffer ToByteBuffer(const absl::Cord& message) {
  if (message.size() < kCopyBelow) {
    grpc::Slice slice(message.size());
    auto* to = const_cast<uint8_t*>(slice.begin());
    for (const absl::string_view chunk : message.Chunks()) {
      std::memcpy(to, chunk.data(), chunk.size());
      to += chunk.size();
    }
    return grpc::ByteBuffer(&slice, 1);
  }
  auto* shared = new Shared{.cord = message};
  std::vector<grpc::Slice> slices;
  for (const absl::string_view chunk : shared->cord.Chunks()) {
    if (chunk.size() < 256) {
      slices.emplace_back(chunk.data(), chunk.size());
      continue;
    }
    shared->references.fetch_add(1, std::memory_order_relaxed);
    slices.emplace_back(
        const_cast<char*>(chunk.data()), chunk.size(),
        [](void* user_data) { static_cast<Shared*>(user_data)->Unref(); }, shared);
  }
  grpc::ByteBuffer buffer(slices.data(), slices.size());
  slices.clear();
  shared->Unref();
  return buffer;
}

}  // namespace sockbroker
