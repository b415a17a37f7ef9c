#include "session/frame_codec.h"

#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {
namespace {

// `text` in chunks of `size` bytes.
absl::Cord InChunks(const std::string& text, std::size_t size) {
  absl::Cord cord;
  for (std::size_t at = 0; at < text.size(); at += size) {
    auto* piece = new std::string(text.substr(at, size));
    cord.Append(absl::MakeCordFromExternal(*piece, [piece] { delete piece; }));
  }
  return cord;
}

v1::ClientFrame Hello(const std::string& holder) {
  v1::ClientFrame frame;
  frame.mutable_hello()->set_holder(holder);
  return frame;
}

TEST(FrameCodec, WritesWhatGeneratedCodeReads) {
  FrameWriter writer;
  writer.Add(Hello("me"));
  writer.AddData(7, 1'000'000'000'000, absl::Cord("payload"));
  writer.AddData(9, 0, absl::Cord(std::string(5000, 'x')));
  writer.AddAck(7, {300, 2}, 70'000, 250);
  v1::ClientFrames frames;
  ASSERT_TRUE(frames.ParseFromString(std::string(writer.Take())));
  ASSERT_EQ(frames.frames_size(), 4);
  EXPECT_EQ(frames.frames(0).hello().holder(), "me");
  EXPECT_EQ(frames.frames(1).data().channel(), 7u);
  EXPECT_EQ(frames.frames(1).data().offset(), 1'000'000'000'000u);
  EXPECT_EQ(frames.frames(1).data().data(), "payload");
  EXPECT_EQ(frames.frames(2).data().data().size(), 5000u);
  EXPECT_EQ(frames.frames(3).ack().taken().offset(), 300u);
  EXPECT_EQ(frames.frames(3).ack().taken().marks(), 2u);
  EXPECT_EQ(frames.frames(3).ack().edge(), 70'000u);
  EXPECT_EQ(frames.frames(3).ack().flushed(), 250u);
  EXPECT_TRUE(writer.empty());
}

TEST(FrameCodec, ReadsWhatGeneratedCodeWritesHoweverItIsChunked) {
  v1::ClientFrames frames;
  *frames.add_frames() = Hello("holder");
  v1::Data* data = frames.add_frames()->mutable_data();
  data->set_channel(3);
  data->set_offset(77);
  data->set_data(std::string(300, 'd'));
  frames.add_frames()->mutable_data()->set_channel(5);
  const std::string message = frames.SerializeAsString();
  for (std::size_t size = 1; size <= message.size(); ++size) {
    FrameReader<v1::ClientFrame> reader(InChunks(message, size));
    ASSERT_TRUE(reader.Next());
    ASSERT_EQ(reader.data(), nullptr);
    EXPECT_EQ(reader.frame().hello().holder(), "holder");
    ASSERT_TRUE(reader.Next());
    ASSERT_NE(reader.data(), nullptr);
    EXPECT_EQ(reader.data()->channel, 3u);
    EXPECT_EQ(reader.data()->offset, 77u);
    EXPECT_EQ(reader.data()->bytes, std::string(300, 'd'));
    ASSERT_TRUE(reader.Next());
    ASSERT_NE(reader.data(), nullptr);
    EXPECT_EQ(reader.data()->channel, 5u);
    EXPECT_TRUE(reader.data()->bytes.empty());
    EXPECT_FALSE(reader.Next());
    EXPECT_TRUE(reader.status().ok()) << reader.status();
  }
}

TEST(FrameCodec, AMessageCutAnywhereIsMalformedOrShorterButNeverMisread) {
  FrameWriter writer;
  writer.Add(Hello("holder"));
  const std::size_t whole = writer.size();
  writer.AddData(3, 77, absl::Cord(std::string(200, 'd')));
  const std::string message(writer.Take());
  for (std::size_t size = 0; size < message.size(); ++size) {
    FrameReader<v1::ClientFrame> reader((absl::Cord(message.substr(0, size))));
    int frames = 0;
    while (reader.Next()) frames++;
    EXPECT_EQ(frames, size < whole ? 0 : 1) << size;
    EXPECT_EQ(reader.status().ok(), size == 0 || size == whole) << size;
  }
}

TEST(FrameCodec, NoiseNeverCrashesItAndIsAMessageOnlyWhereProtobufAgrees) {
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string noise(random() % 60, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    if (!noise.empty() && random() % 2 == 0) noise[0] = 0x0a;
    FrameReader<v1::ClientFrame> reader(InChunks(noise, 1 + random() % 7));
    int count = 0;
    while (reader.Next()) count++;
    if (!reader.status().ok()) continue;
    v1::ClientFrames frames;
    EXPECT_TRUE(frames.ParseFromString(noise)) << absl::CHexEscape(noise);
    EXPECT_EQ(frames.frames_size(), count) << absl::CHexEscape(noise);
  }
}

}  // namespace
}  // namespace sockbroker::session
