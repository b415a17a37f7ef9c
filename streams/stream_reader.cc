#include "streams/stream_reader.h"

#include <functional>
#include <string>
#include <utility>

#include "streams/internal/stream_core.h"

namespace sockbroker::streams {

using internal::StreamCore;

Task<absl::StatusOr<absl::Cord>> StreamReader::Read(std::size_t n) {
  return StreamCore::Read(core_, n);
}
Task<absl::StatusOr<absl::Cord>> StreamReader::ReadAll() { return StreamCore::ReadAll(core_); }
Task<absl::StatusOr<absl::Cord>> StreamReader::ReadLine() { return StreamCore::ReadLine(core_); }
Task<absl::StatusOr<absl::Cord>> StreamReader::ReadUntil(absl::string_view separator) {
  return StreamCore::ReadUntil(core_, {std::string(separator)});
}
Task<absl::StatusOr<absl::Cord>> StreamReader::ReadUntil(std::vector<std::string> separators) {
  return StreamCore::ReadUntil(core_, std::move(separators));
}
Task<absl::StatusOr<absl::Cord>> StreamReader::ReadExactly(std::size_t n) {
  return StreamCore::ReadExactly(core_, n);
}

bool StreamReader::AtEof() const { return core_->eof() && core_->buffered() == 0; }
absl::Status StreamReader::Exception() const { return core_->error(); }
std::size_t StreamReader::buffered() const { return core_->buffered(); }
uint64_t StreamReader::bytes_received() const { return core_->bytes_received(); }
bool StreamReader::has_waiter() const { return core_->has_waiter(); }
bool StreamReader::eof_received() const { return core_->eof(); }
void StreamReader::NotifyEof(std::function<void()> callback) {
  core_->NotifyEof(std::move(callback));
}
void StreamReader::Unread(absl::Cord data) { core_->Unread(std::move(data)); }
void StreamReader::BeginPull(PullListener* listener) { core_->BeginPull(listener); }
absl::Cord StreamReader::Pull(std::size_t max) { return core_->Pull(max); }
void StreamReader::EndPull() { core_->EndPull(); }
absl::Cord StreamReader::TakeBack() { return core_->TakeBack(); }
std::size_t StreamReader::limit() const { return core_->limit(); }
void StreamReader::set_limit(std::size_t limit) { core_->set_limit(limit); }

}  // namespace sockbroker::streams
