// Connection: the pair that asyncio.open_connection returns, and what every way to get one shares.
//
//   auto [reader, writer] = *std::move(connection);
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "streams/byte_stream.h"
#include "streams/stream_reader.h"
#include "streams/stream_writer.h"

namespace sockbroker::streams {

struct Connection {
  StreamReader reader;
  StreamWriter writer;
};

struct StreamOptions {
  // asyncio's `limit`: how far ReadUntil looks; the socket isn't read while more than twice as much
  // is buffered.
  std::size_t limit = kDefaultLimit;
  // How long Close may flush before the connection is reset. asyncio: InfiniteDuration.
  absl::Duration close_timeout = absl::Seconds(30);
};

// Puts a reader and writer on any byte stream, and starts it. kInvalidArgument for a limit of 0.
absl::StatusOr<Connection> MakeConnection(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                                          StreamOptions options = {});

}  // namespace sockbroker::streams
