#include "client/starttls_lines.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

// A line without its end, and how many bytes it has with it; none while it is not whole.
struct Line {
  absl::string_view text;
  std::size_t size = 0;
};
std::optional<Line> FirstLine(absl::string_view unread) {
  const std::size_t end = unread.find('\n');
  if (end == absl::string_view::npos) return std::nullopt;
  absl::string_view text = unread.substr(0, end);
  if (absl::EndsWith(text, "\r")) text.remove_suffix(1);
  return Line{text, end + 1};
}

// SMTP's and FTP's: "250-first", "250-second", "250 last".
struct Reply {
  // 0: it was none.
  int code = 0;
  // What stands behind the codes.
  std::vector<absl::string_view> lines;
  absl::string_view last;
  std::size_t size = 0;
};
std::optional<Reply> FirstReply(absl::string_view unread) {
  Reply reply;
  absl::string_view code;
  while (const std::optional<Line> line = FirstLine(unread.substr(reply.size))) {
    const absl::string_view text = line->text;
    reply.size += line->size;
    reply.last = text;
    const bool has_code = text.size() >= 3 && absl::ascii_isdigit(text[0]) &&
                          absl::ascii_isdigit(text[1]) && absl::ascii_isdigit(text[2]) &&
                          (text.size() == 3 || text[3] == ' ' || text[3] == '-');
    if (code.empty()) {
      if (!has_code) return reply;
      code = text.substr(0, 3);
    }
    // FTP lets the lines between be anything.
    const bool same = has_code && text.substr(0, 3) == code;
    reply.lines.push_back(same && text.size() > 4 ? text.substr(4) : same ? "" : text);
    if (same && (text.size() == 3 || text[3] == ' ')) {
      reply.code = (code[0] - '0') * 100 + (code[1] - '0') * 10 + (code[2] - '0');
      return reply;
    }
  }
  return std::nullopt;
}

std::string NotThat(absl::string_view protocol, absl::string_view said) {
  return absl::StrCat("the peer does not speak ", protocol, ": it said `", said.substr(0, 200),
                      "`");
}

std::string SaidNo(absl::string_view said) {
  return absl::StrCat("the server refused: ", said.substr(0, 200));
}

class Smtp final : public StartTlsDialogue {
 public:
  explicit Smtp(std::string name) : name_(std::move(name)) {}

 protected:
  Step Take(absl::string_view unread, std::string* send) override {
    const std::optional<Reply> reply = FirstReply(unread);
    if (!reply.has_value()) return NeedMore();
    if (reply->code == 0) return Refused(NotThat("SMTP", reply->last));
    switch (awaits_) {
      case Awaits::kGreeting:
        if (reply->code != 220) return Refused(SaidNo(reply->last));
        absl::StrAppend(send, "EHLO ", name_, "\r\n");
        awaits_ = Awaits::kExtensions;
        return {State::kTalking, reply->size, ""};
      case Awaits::kExtensions: {
        if (reply->code != 250) return Refused(SaidNo(reply->last));
        bool offered = false;
        for (const absl::string_view line : reply->lines) {
          offered = offered || absl::EqualsIgnoreCase(line, "STARTTLS");
        }
        if (!offered) return Refused("the server does not offer STARTTLS");
        absl::StrAppend(send, "STARTTLS\r\n");
        awaits_ = Awaits::kReady;
        return {State::kTalking, reply->size, ""};
      }
      case Awaits::kReady:
        if (reply->code != 220) return Refused(SaidNo(reply->last));
        return {State::kUpgrade, reply->size, ""};
    }
    return NeedMore();
  }

 private:
  enum class Awaits { kGreeting, kExtensions, kReady };
  const std::string name_;
  Awaits awaits_ = Awaits::kGreeting;
};

class Ftp final : public StartTlsDialogue {
 protected:
  Step Take(absl::string_view unread, std::string* send) override {
    const std::optional<Reply> reply = FirstReply(unread);
    if (!reply.has_value()) return NeedMore();
    if (reply->code == 0) return Refused(NotThat("FTP", reply->last));
    if (greeted_) {
      if (reply->code != 234) return Refused(SaidNo(reply->last));
      return {State::kUpgrade, reply->size, ""};
    }
    // "Service ready in nnn minutes": the greeting comes later.
    if (reply->code == 120) return {State::kTalking, reply->size, ""};
    if (reply->code != 220) return Refused(SaidNo(reply->last));
    greeted_ = true;
    absl::StrAppend(send, "AUTH TLS\r\n");
    return {State::kTalking, reply->size, ""};
  }

 private:
  bool greeted_ = false;
};

class Imap final : public StartTlsDialogue {
 protected:
  Step Take(absl::string_view unread, std::string* send) override {
    const std::optional<Line> line = FirstLine(unread);
    if (!line.has_value()) return NeedMore();
    const absl::string_view text = line->text;
    if (!greeted_) {
      if (absl::StartsWithIgnoreCase(text, "* PREAUTH")) {
        return Refused(
            "the server has us logged in already (PREAUTH): it is too late for STARTTLS");
      }
      if (absl::StartsWithIgnoreCase(text, "* BYE")) return Refused(SaidNo(text));
      if (!absl::StartsWithIgnoreCase(text, "* OK")) return Refused(NotThat("IMAP", text));
      greeted_ = true;
      absl::StrAppend(send, "s1 STARTTLS\r\n");
      return {State::kTalking, line->size, ""};
    }
    if (absl::StartsWithIgnoreCase(text, "* BYE")) return Refused(SaidNo(text));
    // Untagged: news, which may come at any time.
    if (absl::StartsWith(text, "*")) return {State::kTalking, line->size, ""};
    if (absl::StartsWithIgnoreCase(text, "s1 OK")) return {State::kUpgrade, line->size, ""};
    return Refused(SaidNo(text));
  }

 private:
  bool greeted_ = false;
};

class Pop3 final : public StartTlsDialogue {
 protected:
  Step Take(absl::string_view unread, std::string* send) override {
    const std::optional<Line> line = FirstLine(unread);
    if (!line.has_value()) return NeedMore();
    if (!absl::StartsWith(line->text, "+OK")) {
      return Refused(absl::StartsWith(line->text, "-ERR") ? SaidNo(line->text)
                                                          : NotThat("POP3", line->text));
    }
    if (greeted_) return {State::kUpgrade, line->size, ""};
    greeted_ = true;
    absl::StrAppend(send, "STLS\r\n");
    return {State::kTalking, line->size, ""};
  }

 private:
  bool greeted_ = false;
};

}  // namespace

std::unique_ptr<StartTlsDialogue> MakeSmtpStartTls(std::string name) {
  return std::make_unique<Smtp>(std::move(name));
}
std::unique_ptr<StartTlsDialogue> MakeFtpStartTls() { return std::make_unique<Ftp>(); }
std::unique_ptr<StartTlsDialogue> MakeImapStartTls() { return std::make_unique<Imap>(); }
std::unique_ptr<StartTlsDialogue> MakePop3StartTls() { return std::make_unique<Pop3>(); }

}  // namespace sockbroker::client
