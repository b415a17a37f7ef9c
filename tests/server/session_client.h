// SessionClient: a client of the broker's Session RPC, played by hand: the frame logic over a
// stream of its own, with waits that fail the test when they take too long.
//
//   SessionClient client(channel());
//   std::shared_ptr<TestChannel> connection = client.Open(port);
//   connection->Write("hello");
//   EXPECT_EQ(connection->Receive(5), "HELLO");
//   client.Cut();                                     // the link breaks
//   client.Connect();                                 // and comes back: everything goes on
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "session/client_session.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::server {

class SessionClient;

class TestChannel final : public session::ClientListener {
 public:
  explicit TestChannel(SessionClient* client) : client_(client) {}

  void Write(absl::string_view data);
  void WriteEof();
  void StartTls(const v1::TlsOptions& options);
  void Close();
  void Abort();
  void Detach();
  // Exactly so many bytes; they count as consumed.
  std::string Receive(std::size_t size);
  // Everything until the end.
  std::string ReceiveAll();
  // What has come, if anything has.
  std::string TakeSome();
  // What has come and was not received by the test, without consuming it.
  std::string Waiting();

  // Until it is bound (again).
  void WaitBound();
  void WaitEof();
  void WaitTls();
  void WaitFlushed(uint64_t offset);
  void WaitWriteClosed();
  v1::Closed WaitClosed();
  google::rpc::Status WaitFailed();
  void WaitDetached();
  uint64_t WaitFenced();
  v1::Offsets WaitLost();
  bool ended();

  std::string handle();
  uint64_t epoch();
  uint64_t unacked();
  // How far the broker lets it send.
  uint64_t edge();
  v1::Connection connection();

  // ClientListener.
  void OnBound(const v1::Connection& connection, uint64_t epoch) override;
  void OnData(absl::Cord bytes) override { data_.append(std::string(bytes)); }
  void OnEof() override { eof_ = true; }
  void OnTlsStarted(const v1::TlsInfo&) override { tls_ = true; }
  void OnProgress() override {}
  void OnWriteClosed(const google::rpc::Status&) override { write_closed_ = true; }
  void OnClosed(const v1::Closed& closed) override;
  void OnFailed(const google::rpc::Status& status) override;
  void OnDetached() override;
  void OnFenced(uint64_t epoch) override;
  void OnLost(const v1::Offsets& last_known) override;

 private:
  friend class SessionClient;
  void Wait(const char* what, const std::function<bool()>& condition);
  std::string Take(std::size_t size);

  SessionClient* const client_;
  session::ClientChannel* channel_ = nullptr;  // null: it has ended
  v1::Connection connection_;
  int bound_ = 0;
  int bound_seen_ = 0;
  uint64_t epoch_ = 0;
  std::string handle_;
  std::string data_;
  bool eof_ = false;
  bool tls_ = false;
  bool write_closed_ = false;
  std::optional<v1::Closed> closed_;
  std::optional<google::rpc::Status> failed_;
  bool detached_ = false;
  std::optional<uint64_t> fenced_;
  std::optional<v1::Offsets> lost_;
};

class SessionClient final : private session::AcceptListener {
 public:
  // Connects at once, unless told not to. `holder`: 16 bytes; none: its own.
  explicit SessionClient(std::shared_ptr<grpc::Channel> channel, std::string holder = "",
                         uint64_t window = 64 * 1024);
  ~SessionClient() override;
  SessionClient(const SessionClient&) = delete;
  SessionClient& operator=(const SessionClient&) = delete;

  void Connect();
  // The link is gone, as far as both ends can see; returns when the broker has noticed (or never
  // will).
  void Cut();
  // Frames are taken in no more (a client that is stopped), or again.
  void Hold(bool held);

  std::shared_ptr<TestChannel> Open(uint16_t port, const std::string& request_id = "",
                                    const std::string& host = "127.0.0.1");
  std::shared_ptr<TestChannel> Bind(const std::string& handle, bool steal = false,
                                    std::optional<session::Position> read = std::nullopt);
  uint32_t Listen(const std::string& server, uint32_t credits);
  void StopListening(uint32_t id);
  std::shared_ptr<TestChannel> WaitAccepted();
  google::rpc::Status WaitListenFailed();
  bool going_away();
  // A message of the test's own making; the answer's last frame, or the stream's end.
  void SendRaw(const v1::ClientFrames& frames);
  grpc::Status WaitEnd();

 private:
  friend class TestChannel;
  struct Link;

  session::ClientListener* OnAccepted(session::ClientChannel* channel,
                                      const v1::Connection& connection) override;
  void OnFailed(const google::rpc::Status& status) override { listen_failed_ = status; }
  void Wait(const char* what, const std::function<bool()>& condition);
  void Flush();

  const std::shared_ptr<grpc::Channel> channel_;
  std::recursive_mutex mutex_;
  session::ClientSession session_;
  std::shared_ptr<Link> link_;
  bool held_ = false;
  std::optional<grpc::Status> ended_;
  std::vector<std::shared_ptr<TestChannel>> channels_;
  std::vector<std::shared_ptr<TestChannel>> accepted_;
  std::optional<google::rpc::Status> listen_failed_;
};

}  // namespace sockbroker::server
