// MakeMemoryConnections: both ends of a connection in memory, with their readers and writers.
//
//   auto [client, server] = MakeMemoryConnections();
//   client.writer.Write("ping\n");
//   EXPECT_THAT(co_await server.reader.ReadLine(), IsOkAndHolds("ping\n"));
#pragma once

#include <memory>
#include <utility>

#include "streams/connection.h"
#include "streams/event_loop.h"
#include "streams/testing/memory_stream.h"

namespace sockbroker::streams {

struct MemoryConnections {
  Connection client;
  Connection server;
};

// On the running loop. `options` are both ends'.
inline MemoryConnections MakeMemoryConnections(StreamOptions options = {},
                                               MemoryStreamOptions memory = {}) {
  EventLoop* loop = GetRunningLoop();
  auto [client, server] = MakeMemoryStreams(loop, memory);
  return {MakeConnection(loop, std::move(client), options).value(),
          MakeConnection(loop, std::move(server), options).value()};
}

// One end with a reader and writer; the other is played by hand (Write, Receive, Abort, ...).
struct MemoryPeer {
  StreamReader reader;
  StreamWriter writer;
  std::shared_ptr<MemoryStream> stream;  // below reader and writer
  std::shared_ptr<MemoryStream> peer;
};

inline MemoryPeer MakeMemoryPeer(StreamOptions options = {}, MemoryStreamOptions memory = {}) {
  EventLoop* loop = GetRunningLoop();
  auto [stream, peer] = MakeMemoryStreams(loop, memory);
  Connection connection = MakeConnection(loop, stream, options).value();
  return {std::move(connection.reader), std::move(connection.writer), std::move(stream),
          std::move(peer)};
}

}  // namespace sockbroker::streams
