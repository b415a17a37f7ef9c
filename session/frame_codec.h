// Frames to bytes and back. A message is a ClientFrames or BrokerFrames of session.proto; the
// frames that carry payload are coded by hand, so that it is never copied, and the rest by
// Protobuf. The bytes are plain Protobuf: any client with the generated code reads and writes them.
//
//   FrameWriter writer;
//   writer.AddData(channel, offset, bytes);
//   writer.Add(frame);                               // a v1::BrokerFrame or v1::ClientFrame
//   absl::Cord message = writer.Take();
//
//   FrameReader<v1::ClientFrame> reader(message);
//   while (reader.Next()) {
//     if (DataFrame* data = reader.data()) ...
//     else Handle(reader.frame());
//   }
//   if (!reader.status().ok()) ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream.h"
#include "google/protobuf/message_lite.h"
#include "session/position.h"

namespace sockbroker::session {

struct DataFrame {
  uint32_t channel = 0;
  uint64_t offset = 0;
  absl::Cord bytes;
};

class FrameWriter {
 public:
  // Field 1 of a frame, in either direction.
  void AddData(uint32_t channel, uint64_t offset, const absl::Cord& bytes);
  // Field 2 of a frame. `flushed` 0 is left out.
  void AddAck(uint32_t channel, Position taken, uint64_t edge, uint64_t flushed);
  void Add(const google::protobuf::MessageLite& frame);

  // Of the message so far, bytes.
  std::size_t size() const { return done_.size() + open_.size(); }
  bool empty() const { return size() == 0; }
  // The message; the writer is empty again.
  absl::Cord Take();

 private:
  void Seal();

  absl::Cord done_;
  std::string open_;  // the end of it, still being written to
};

namespace internal {

// A Cord's chunks for Protobuf's stream reader.
class CordChunks final : public google::protobuf::io::ZeroCopyInputStream {
 public:
  explicit CordChunks(const absl::Cord* cord);
  bool Next(const void** data, int* size) override;
  void BackUp(int count) override;
  bool Skip(int count) override;
  int64_t ByteCount() const override { return read_; }

 private:
  const absl::Cord* const cord_;
  absl::Cord::ChunkIterator chunk_;
  bool started_ = false;
  std::size_t backed_up_ = 0;  // of the current chunk, to be given again
  int64_t read_ = 0;
};

}  // namespace internal

// Steps through the frames of one message. `Frame`: v1::ClientFrame or v1::BrokerFrame.
template <typename Frame>
class FrameReader {
 public:
  explicit FrameReader(absl::Cord message);
  FrameReader(const FrameReader&) = delete;
  FrameReader& operator=(const FrameReader&) = delete;

  // The next frame; false at the end or at a fault, see status().
  bool Next();
  // Set if the frame is a Data. Its bytes refer to the message's memory.
  DataFrame* data() { return is_data_ ? &data_ : nullptr; }
  // The frame, if it isn't.
  Frame& frame() { return frame_; }
  // kInvalidArgument: the message is malformed.
  const absl::Status& status() const { return status_; }

 private:
  bool Fail(absl::string_view why);

  const absl::Cord message_;
  internal::CordChunks chunks_;
  google::protobuf::io::CodedInputStream in_;
  bool is_data_ = false;
  DataFrame data_;
  Frame frame_;
  absl::Status status_;
};

}  // namespace sockbroker::session
