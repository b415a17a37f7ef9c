// FakeBroker: a broker in memory with one connection, on a real Unix socket, that loses replies and
// links on demand.
//
//   FakeBroker broker;
//   broker.PeerSends("hello");
//   broker.LoseReplies("Write", 2);          // done, but the caller hears UNAVAILABLE
//   broker.BreakLink();                      // every call ends, every connection to it too; it is
//   back at once
//
// It judges as the contract says: offsets of reads and writes, kept bytes, writers, superseded
// reads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/broker_address.h"
#include "client/broker_link.h"
#include "grpcpp/server.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"

namespace sockbroker::client {

class FakeBroker final : public v1::SocketBroker::Service {
 public:
  FakeBroker();
  ~FakeBroker() override;

  BrokerAddress address() const { return *BrokerAddress::Parse("unix:" + path_); }
  std::unique_ptr<BrokerLink> Link() const { return *BrokerLink::Connect(address()); }
  // The one connection, as OpenConnection would have answered.
  v1::Connection connection() const;

  // --- the peer's side
  void PeerSends(const std::string& bytes);
  void PeerEnds();
  // As TLS without half-close: with the peer's direction the whole connection has ended, in good
  // order.
  void PeerEndsBoth();
  // What it sent before can still be read.
  void PeerResets();
  // Writes are refused as by a peer that will take no more; reads go on.
  void PeerTakesNoMore();
  std::string PeerReceived() const;
  void WaitUntilPeerReceived(std::size_t size) const;
  void WaitUntilPeerSawEof() const;
  bool PeerSawEof() const;

  // --- what the broker knows
  // The lowest byte kept for a repeated read.
  uint64_t kept() const;
  bool closed() const;
  // Calls that were begun.
  int calls(const std::string& method) const;
  void WaitUntilCalled(const std::string& method, int times) const;

  // --- faults
  void LoseReplies(const std::string& method, int times);
  void RefuseCalls(const std::string& method, int times);
  void BreakLink();
  // Gone for good.
  void Stop();

  // --- lists
  std::vector<v1::Connection> listed_connections;
  std::vector<v1::Server> listed_servers;

  // --- the contract
  grpc::Status Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                    v1::ReadResponse* response) override;
  grpc::Status Write(grpc::ServerContext* context, const v1::WriteRequest* request,
                     v1::WriteResponse* response) override;
  grpc::Status WriteEof(grpc::ServerContext* context, const v1::WriteEofRequest* request,
                        v1::WriteEofResponse* response) override;
  grpc::Status Close(grpc::ServerContext* context, const v1::CloseRequest* request,
                     v1::CloseResponse* response) override;
  grpc::Status WaitClosed(grpc::ServerContext* context, const v1::WaitClosedRequest* request,
                          v1::WaitClosedResponse* response) override;
  grpc::Status ListConnections(grpc::ServerContext* context,
                               const v1::ListConnectionsRequest* request,
                               v1::ListConnectionsResponse* response) override;
  grpc::Status ListServers(grpc::ServerContext* context, const v1::ListServersRequest* request,
                           v1::ListServersResponse* response) override;

 private:
  struct Faults {
    int lose = 0;
    int refuse = 0;
    int calls = 0;
  };

  void Start();
  // UNAVAILABLE when this call is one to be refused.
  grpc::Status Begin(const std::string& method);
  // UNAVAILABLE in place of OK when its reply is one to be lost.
  grpc::Status End(const std::string& method);
  // Until the condition holds or the caller has gone; says whether it holds.
  bool Await(grpc::ServerContext* context, const absl::Condition& condition)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::string directory_;
  std::string path_;
  std::unique_ptr<grpc::Server> server_;

  mutable absl::Mutex mutex_;
  mutable std::map<std::string, Faults> faults_ ABSL_GUARDED_BY(mutex_);
  // All the peer ever sent; `kept_` to `read_` are held for a repeated read.
  std::string incoming_ ABSL_GUARDED_BY(mutex_);
  uint64_t kept_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t read_ ABSL_GUARDED_BY(mutex_) = 0;
  bool peer_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_both_ ABSL_GUARDED_BY(mutex_) = false;
  bool reset_ ABSL_GUARDED_BY(mutex_) = false;
  bool takes_no_more_ ABSL_GUARDED_BY(mutex_) = false;
  // Rises with every read: who waits and is not the last one was superseded.
  int read_turn_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string read_request_id_ ABSL_GUARDED_BY(mutex_);
  std::string outgoing_ ABSL_GUARDED_BY(mutex_);
  std::string writer_ ABSL_GUARDED_BY(mutex_);
  bool eof_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sockbroker::client
