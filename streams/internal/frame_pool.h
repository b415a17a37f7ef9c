// Coroutine frames come and go with every read and write, so each thread keeps the freed ones by
// size class. Off under the sanitizers, which must see every allocation.
#pragma once

#include <cstddef>

namespace sockbroker::streams::internal {

void* AllocateFrame(std::size_t size);
void FreeFrame(void* frame, std::size_t size);

}  // namespace sockbroker::streams::internal
