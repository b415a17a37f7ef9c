#include "session/frame_codec.h"

#include <algorithm>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {
namespace {

using google::protobuf::io::CodedInputStream;

// Payload below this is copied into the message: a reference would cost more.
constexpr std::size_t kCopyBelow = 1024;

constexpr uint32_t kVarint = 0;
constexpr uint32_t kLengthDelimited = 2;
constexpr uint8_t Tag(uint32_t field, uint32_t type) {
  return static_cast<uint8_t>(field << 3 | type);
}

std::size_t VarintSize(uint64_t value) {
  return google::protobuf::io::CodedOutputStream::VarintSize64(value);
}

void AppendVarint(std::string* out, uint64_t value) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// A numeric field, left out when 0, as Protobuf does.
std::size_t NumberSize(uint64_t value) { return value == 0 ? 0 : 1 + VarintSize(value); }
void AppendNumber(std::string* out, uint32_t field, uint64_t value) {
  if (value == 0) return;
  out->push_back(static_cast<char>(Tag(field, kVarint)));
  AppendVarint(out, value);
}

void AppendHeader(std::string* out, uint32_t field, std::size_t size) {
  out->push_back(static_cast<char>(Tag(field, kLengthDelimited)));
  AppendVarint(out, size);
}

// The frame's own header around a member of its oneof.
void AppendFrameHeader(std::string* out, uint32_t member, std::size_t size) {
  AppendHeader(out, 1, 1 + VarintSize(size) + size);
  AppendHeader(out, member, size);
}

// A Data message of `size` bytes at `in`'s place in `message`; its fields in any order. False:
// something else.
bool ParseData(const absl::Cord& message, CodedInputStream* in, uint64_t size, DataFrame* data) {
  const CodedInputStream::Limit limit = in->PushLimit(static_cast<int>(size));
  bool well_formed = true;
  while (well_formed && in->BytesUntilLimit() > 0) {
    uint64_t number = 0;
    switch (in->ReadTag()) {
      case Tag(1, kVarint):
        well_formed = in->ReadVarint64(&number);
        data->channel = static_cast<uint32_t>(number);
        break;
      case Tag(2, kVarint):
        well_formed = in->ReadVarint64(&data->offset);
        break;
      case Tag(3, kLengthDelimited):
        // A reference into the message, not a copy.
        well_formed =
            in->ReadVarint64(&number) && number <= static_cast<uint64_t>(in->BytesUntilLimit());
        if (!well_formed) break;
        data->bytes = message.Subcord(static_cast<std::size_t>(in->CurrentPosition()), number);
        well_formed = in->Skip(static_cast<int>(number));
        break;
      default:
        well_formed = false;
    }
  }
  in->PopLimit(limit);
  return well_formed;
}

}  // namespace

void FrameWriter::Seal() {
  if (open_.empty()) return;
  done_.Append(std::move(open_));
  open_.clear();
}

void FrameWriter::AddData(uint32_t channel, uint64_t offset, const absl::Cord& bytes) {
  const std::size_t size =
      NumberSize(channel) + NumberSize(offset) + 1 + VarintSize(bytes.size()) + bytes.size();
  AppendFrameHeader(&open_, 1, size);
  AppendNumber(&open_, 1, channel);
  AppendNumber(&open_, 2, offset);
  AppendHeader(&open_, 3, bytes.size());
  if (bytes.size() < kCopyBelow) {
    for (const absl::string_view chunk : bytes.Chunks()) open_.append(chunk.data(), chunk.size());
  } else {
    Seal();
    done_.Append(bytes);
  }
}

void FrameWriter::AddAck(uint32_t channel, Position taken, uint64_t edge, uint64_t flushed) {
  const std::size_t position = NumberSize(taken.offset) + NumberSize(taken.marks);
  const std::size_t size = NumberSize(channel) + 1 + VarintSize(position) + position +
                           NumberSize(edge) + NumberSize(flushed);
  AppendFrameHeader(&open_, 2, size);
  AppendNumber(&open_, 1, channel);
  AppendHeader(&open_, 2, position);
  AppendNumber(&open_, 1, taken.offset);
  AppendNumber(&open_, 2, taken.marks);
  AppendNumber(&open_, 3, edge);
  AppendNumber(&open_, 4, flushed);
}

void FrameWriter::Add(const google::protobuf::MessageLite& frame) {
  AppendHeader(&open_, 1, frame.ByteSizeLong());
  frame.AppendToString(&open_);
}

absl::Cord FrameWriter::Take() {
  Seal();
  return std::exchange(done_, absl::Cord());
}

template <typename Frame>
FrameReader<Frame>::FrameReader(absl::Cord message)
    : message_(std::move(message)), chunks_(&message_), in_(&chunks_) {}

template <typename Frame>
bool FrameReader<Frame>::Next() {
  is_data_ = false;
  uint64_t size = 0;
  if (!status_.ok()) return false;
  const uint32_t tag = in_.ReadTag();
  if (tag == 0 && in_.ConsumedEntireMessage()) return false;
  if (tag != Tag(1, kLengthDelimited) || !in_.ReadVarint64(&size) ||
      size > message_.size() - static_cast<std::size_t>(in_.CurrentPosition())) {
    return Fail("malformed message of frames");
  }
  const int start = in_.CurrentPosition();
  const int end = start + static_cast<int>(size);
  // The common case by hand: a frame that is one Data and nothing else.
  uint64_t body = 0;
  data_ = {};
  if (size > 0 && in_.ReadTag() == Tag(1, kLengthDelimited) && in_.ReadVarint64(&body) &&
      in_.CurrentPosition() + body == static_cast<uint64_t>(end) &&
      ParseData(message_, &in_, body, &data_)) {
    is_data_ = true;
    return true;
  }
  // Everything else, and Data in any other form that Protobuf allows.
  if (!frame_.ParseFromString(
          std::string(message_.Subcord(static_cast<std::size_t>(start), size)))) {
    return Fail("malformed frame, or text in it is not UTF-8");
  }
  if (!in_.Skip(end - in_.CurrentPosition())) return Fail("malformed frame");
  if (frame_.has_data()) {
    data_ = {frame_.data().channel(), frame_.data().offset(), absl::Cord(frame_.data().data())};
    is_data_ = true;
  }
  return true;
}

template <typename Frame>
bool FrameReader<Frame>::Fail(absl::string_view why) {
  status_ = absl::InvalidArgumentError(why);
  return false;
}

template class FrameReader<v1::ClientFrame>;
template class FrameReader<v1::BrokerFrame>;

namespace internal {

CordChunks::CordChunks(const absl::Cord* cord) : cord_(cord), chunk_(cord->chunk_begin()) {}

bool CordChunks::Next(const void** data, int* size) {
  if (backed_up_ > 0) {
    *data = chunk_->data() + (chunk_->size() - backed_up_);
    *size = static_cast<int>(backed_up_);
    read_ += static_cast<int64_t>(backed_up_);
    backed_up_ = 0;
    return true;
  }
  if (started_ && chunk_ != cord_->chunk_end()) ++chunk_;
  started_ = true;
  if (chunk_ == cord_->chunk_end()) return false;
  *data = chunk_->data();
  *size = static_cast<int>(chunk_->size());
  read_ += static_cast<int64_t>(chunk_->size());
  return true;
}

void CordChunks::BackUp(int count) {
  backed_up_ = static_cast<std::size_t>(count);
  read_ -= count;
}

bool CordChunks::Skip(int count) {
  const void* data;
  int size;
  while (count > 0) {
    if (!Next(&data, &size)) return false;
    if (size > count) BackUp(size - count);
    count -= std::min(size, count);
  }
  return true;
}

}  // namespace internal
}  // namespace sockbroker::session
