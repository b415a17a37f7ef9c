// StartTlsDialogue: what is said in clear before TLS may begin, in the protocols that begin without
// it. It does no I/O.
//
//   auto dialogue = MakeStartTlsDialogue("smtp", {"mail.example", ""});
//   std::string send;
//   StartTlsDialogue::State state = dialogue->Feed("", &send);  // then with what the peer says
//   if (state == StartTlsDialogue::State::kUpgrade) ... TLS begins dialogue->consumed() bytes in
//
// It ends at an exact byte. What the peer glued behind its answer ("220 ready\r\nEVIL") is not
// consumed: it belongs to the handshake, which it makes fail, and is never taken for something that
// was said under protection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sockbroker::client {

class StartTlsDialogue {
 public:
  enum class State {
    // Write what is to be sent, then feed what comes.
    kTalking,
    // Write what is to be sent; what the peer sends behind consumed() is its handshake.
    kUpgrade,
    // There will be no TLS: refusal() says why.
    kRefused,
  };

  // An answer that goes on for longer than this is refused.
  static constexpr std::size_t kMaxAnswer = 64 << 10;

  virtual ~StartTlsDialogue() = default;

  // `bytes` from the peer, in any pieces; the first call has none. Appends to `send` what the peer
  // is to get next. Not to be called again after an end.
  State Feed(absl::string_view bytes, std::string* send);

  // How many of the peer's bytes were plaintext.
  uint64_t consumed() const { return consumed_; }
  // In words for people, the peer's own among them.
  const std::string& refusal() const { return refusal_; }

 protected:
  // How one answer was taken; nothing consumed and kTalking: more of it is needed.
  struct Step {
    State state = State::kTalking;
    // Of `unread`.
    std::size_t consumed = 0;
    std::string refusal;
  };
  static Step NeedMore() { return {}; }
  static Step Refused(std::string why) { return {State::kRefused, 0, std::move(why)}; }

  // Whoever speaks first when it is us.
  virtual void Begin(std::string* /*send*/) {}
  // `unread`: what came and was not consumed, at least a byte.
  virtual Step Take(absl::string_view unread, std::string* send) = 0;

 private:
  bool begun_ = false;
  std::string unread_;
  uint64_t consumed_ = 0;
  std::string refusal_;
};

struct StartTlsNames {
  // Whom XMPP asks for.
  std::string server;
  // The name we give to SMTP; empty: "localhost".
  std::string client;
};

// "smtp", "imap", "pop3", "ftp", "postgres", "mysql", "ldap", "xmpp".
const std::vector<std::string>& StartTlsProtocols();
// Null for anything else.
std::unique_ptr<StartTlsDialogue> MakeStartTlsDialogue(absl::string_view protocol,
                                                       const StartTlsNames& names);

}  // namespace sockbroker::client
