#include "client/starttls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/starttls_binary.h"
#include "client/starttls_lines.h"
#include "client/starttls_xmpp.h"

namespace sockbroker::client {

StartTlsDialogue::State StartTlsDialogue::Feed(absl::string_view bytes, std::string* send) {
  if (!begun_) {
    begun_ = true;
    Begin(send);
  }
  unread_.append(bytes.data(), bytes.size());
  while (!unread_.empty()) {
    Step step = Take(unread_, send);
    consumed_ += step.consumed;
    unread_.erase(0, step.consumed);
    refusal_ = std::move(step.refusal);
    if (step.state != State::kTalking) return step.state;
    if (step.consumed > 0) continue;
    if (unread_.size() < kMaxAnswer) break;
    refusal_ = absl::StrCat("the peer's answer has no end within ", kMaxAnswer, " bytes");
    return State::kRefused;
  }
  return State::kTalking;
}

const std::vector<std::string>& StartTlsProtocols() {
  static const auto* const protocols = new std::vector<std::string>{
      "smtp", "imap", "pop3", "ftp", "postgres", "mysql", "ldap", "xmpp"};
  return *protocols;
}

std::unique_ptr<StartTlsDialogue> MakeStartTlsDialogue(absl::string_view protocol,
                                                       const StartTlsNames& names) {
  if (protocol == "smtp")
    return MakeSmtpStartTls(names.client.empty() ? "localhost" : names.client);
  if (protocol == "imap") return MakeImapStartTls();
  if (protocol == "pop3") return MakePop3StartTls();
  if (protocol == "ftp") return MakeFtpStartTls();
  if (protocol == "postgres") return MakePostgresStartTls();
  if (protocol == "mysql") return MakeMysqlStartTls();
  if (protocol == "ldap") return MakeLdapStartTls();
  if (protocol == "xmpp") return MakeXmppStartTls(names.server);
  return nullptr;
}

}  // namespace sockbroker::client
