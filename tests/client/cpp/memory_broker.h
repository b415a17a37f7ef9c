// MemoryBroker: a broker without sockets and without gRPC, on the test's loop: the broker's end of
// the frame logic, and connections whose peers are played by hand. In virtual time.
//
//   MemoryBroker memory;
//   Broker broker = *co_await memory.Connect();
//   auto [reader, writer] = *co_await broker.OpenConnection("peer", 1);
//   MemoryPeer& peer = memory.peer(0);
//   peer.Send("hello");
//   memory.Cut();      // every link breaks; the next is made at once
//   memory.Restart();  // another incarnation: all is lost
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "client/cpp/broker.h"
#include "client/cpp/internal/link.h"
#include "client/cpp/internal/session_call.h"
#include "session/broker_session.h"

namespace sockbroker::client {

class MemoryBroker;

// A connection as its peer sees it.
class MemoryPeer final : public session::BrokerConnection {
 public:
  explicit MemoryPeer(std::string handle) : handle_(std::move(handle)) {}

  // --- the peer's side
  void Send(const std::string& bytes);
  void SendEof();
  // The connection ends now; what was sent before is still given.
  void End(google::rpc::Status status = {}, v1::Reason reason = v1::CLOSED_BY_CLIENT);
  void TakeNoMore();
  // What has reached the kernel's other side.
  const std::string& received() const { return received_; }
  bool saw_eof() const { return saw_eof_; }
  bool closed() const { return closed_; }
  bool aborted() const { return aborted_; }
  // The kernel takes nothing while held.
  void Hold(bool held);
  // A StartTls waits for this; what it was given as the begin of the handshake.
  void FinishTls(const std::string& version = "TLSv1.3");
  bool in_handshake() const { return in_handshake_; }
  const std::string& handshake() const { return handshake_; }
  // Sent by the peer, and not read from the socket yet.
  std::size_t unread() const { return incoming_.size(); }

  const std::string& handle() const { return handle_; }
  session::BrokerChannel* channel() const { return channel_; }

  // --- BrokerConnection
  absl::Cord Read(std::size_t max, std::size_t retained) override;
  bool AtEof() const override { return incoming_.empty() && eof_; }
  bool Exhausted() const override { return incoming_.empty(); }
  session::ReadMarkLog& read_marks() override { return marks_; }
  absl::Status Write(absl::Cord bytes) override;
  uint64_t Flushed() const override { return flushed_; }
  void WriteEof() override;
  void StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) override;
  void Close() override;
  void Abort() override;
  void Unbind(session::Position read, absl::Cord unread, session::Position write) override;

 private:
  friend class MemoryBroker;
  void Flush();
  void NotifyReadable();

  const std::string handle_;
  session::ReadMarkLog marks_;
  absl::Cord incoming_;
  bool eof_ = false;
  std::string received_;
  absl::Cord kernel_;  // written, and held
  bool held_ = false;
  uint64_t flushed_ = 0;
  bool write_eof_ = false;
  bool saw_eof_ = false;
  bool close_asked_ = false;
  bool closed_ = false;
  bool aborted_ = false;
  bool in_handshake_ = false;
  std::string handshake_;
  session::Position read_;
  session::Position write_;
  uint64_t epoch_ = 0;
  std::string holder_;
  std::string request_id_;
  session::BrokerChannel* channel_ = nullptr;
};

class MemoryBroker {
 public:
  MemoryBroker();
  ~MemoryBroker();

  // On the running loop.
  streams::Task<absl::StatusOr<Broker>> Connect(BrokerOptions options = {});

  MemoryPeer& peer(std::size_t i) { return *peers_.at(i); }
  std::size_t peers() const { return peers_.size(); }
  // Somebody connects to the server with this handle.
  void ConnectTo(const std::string& server);

  // Who asks for a connection to this port gets a message that is none.
  static constexpr uint16_t kUnreadable = 10;

  // Every link breaks, with what is under way on it.
  void Cut(absl::Status status = absl::UnavailableError("cut"));
  // The next so many attempts to dial fail so.
  void RefuseDials(int times, absl::Status status);
  // Messages from the broker stop, those to it too; the link seems to be there.
  void Freeze(bool frozen) { frozen_ = frozen; }
  // Another broker in its place.
  void Restart();
  void GoAway();
  // The next Opens are answered when this is false again.
  void HoldOpens(bool held);

  int dials() const { return dials_; }
  std::size_t sessions() const { return calls_.size(); }
  std::size_t channels() const;
  std::size_t listeners() const;
  // Messages from clients, and how many bytes they had in all.
  int messages() const { return messages_; }

 private:
  class Call;
  class Host;
  friend class Call;
  friend class Host;

  std::unique_ptr<internal::SessionCall> Dial(internal::SessionCall::Listener* listener);
  void Bind(Call* call, uint32_t channel, const std::shared_ptr<MemoryPeer>& peer,
            const v1::Bind& request);
  void Accept();

  std::vector<std::shared_ptr<MemoryPeer>> peers_;
  std::map<std::string, std::vector<std::shared_ptr<MemoryPeer>>> backlog_;  // by server
  std::vector<Call*> calls_;
  uint64_t incarnation_ = 1;
  int dials_ = 0;
  int messages_ = 0;
  int refuse_ = 0;
  absl::Status refusal_;
  bool frozen_ = false;
  bool hold_opens_ = false;
  std::vector<std::function<void()>> held_opens_;
};

}  // namespace sockbroker::client
