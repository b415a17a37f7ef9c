#include "client/starttls_xmpp.h"

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sockbroker::client {
namespace {

constexpr absl::string_view kNamespace = "urn:ietf:params:xml:ns:xmpp-tls";

// The next tag with what stands before it; none while it is not whole.
struct Tag {
  // Without a prefix; "/proceed" for an end.
  std::string name;
  // Between the angle brackets.
  absl::string_view inside;
  bool is_whole_element = false;
  // What stands before it is only white space.
  bool follows_directly = false;
  std::size_t size = 0;
};

std::optional<Tag> FirstTag(absl::string_view text) {
  const std::size_t begin = text.find('<');
  if (begin == absl::string_view::npos) return std::nullopt;
  char quote = 0;
  std::size_t end = begin + 1;
  for (; end < text.size(); ++end) {
    const char c = text[end];
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '>') {
      break;
    }
  }
  if (end >= text.size()) return std::nullopt;
  Tag tag;
  tag.size = end + 1;
  tag.inside = text.substr(begin + 1, end - begin - 1);
  tag.is_whole_element = absl::EndsWith(tag.inside, "/");
  tag.follows_directly =
      text.substr(0, begin).find_first_not_of(" \t\r\n") == absl::string_view::npos;
  absl::string_view name = tag.inside.substr(0, tag.inside.find_first_of(" \t\r\n/", 1));
  const bool is_end = absl::StartsWith(name, "/");
  if (is_end) name.remove_prefix(1);
  // Prefixes are the server's choice.
  if (const std::size_t colon = name.find(':'); colon != absl::string_view::npos) {
    name.remove_prefix(colon + 1);
  }
  tag.name = absl::StrCat(is_end ? "/" : "", name);
  return tag;
}

class Xmpp final : public StartTlsDialogue {
 public:
  explicit Xmpp(std::string server) : server_(std::move(server)) {}

 protected:
  void Begin(std::string* send) override {
    const std::string to = absl::StrReplaceAll(
        server_, {{"&", "&amp;"}, {"<", "&lt;"}, {"'", "&apos;"}, {"\"", "&quot;"}});
    absl::StrAppend(send,
                    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
                    "xmlns:stream='http://etherx.jabber.org/streams' to='",
                    to, "' version='1.0'>");
  }

  Step Take(absl::string_view unread, std::string* send) override {
    if (awaits_ == Awaits::kStream &&
        unread.find_first_not_of(" \t\r\n") != absl::string_view::npos &&
        unread[unread.find_first_not_of(" \t\r\n")] != '<') {
      return NotThat();
    }
    const std::optional<Tag> tag = FirstTag(unread);
    if (!tag.has_value()) return NeedMore();
    Step next = {State::kTalking, tag->size, ""};
    if (tag->name == "error" || tag->name == "/stream") {
      return Refused(absl::StrCat("the server ended the stream: ", unread.substr(0, 200)));
    }
    switch (awaits_) {
      case Awaits::kStream:
        // The XML declaration stands before it.
        if (absl::StartsWith(tag->name, "?")) return next;
        if (tag->name != "stream") return NotThat();
        awaits_ = Awaits::kFeatures;
        return next;
      case Awaits::kFeatures:
        if (tag->name == "starttls" && absl::StrContains(tag->inside, kNamespace)) offered_ = true;
        if (tag->name != "/features" && !(tag->name == "features" && tag->is_whole_element)) {
          return next;
        }
        if (!offered_) return Refused("the server does not offer STARTTLS");
        absl::StrAppend(send, "<starttls xmlns='", kNamespace, "'/>");
        awaits_ = Awaits::kProceed;
        return next;
      case Awaits::kProceed:
        if (tag->name == "failure") return Refused("the server refused: STARTTLS failed");
        if (tag->name != "proceed" || !tag->follows_directly) return NotThat();
        if (tag->is_whole_element) return {State::kUpgrade, tag->size, ""};
        awaits_ = Awaits::kEndOfProceed;
        return next;
      case Awaits::kEndOfProceed:
        if (tag->name != "/proceed" || !tag->follows_directly) return NotThat();
        return {State::kUpgrade, tag->size, ""};
    }
    return NeedMore();
  }

 private:
  enum class Awaits { kStream, kFeatures, kProceed, kEndOfProceed };
  static Step NotThat() {
    return Refused("the peer does not speak XMPP as one that offers STARTTLS");
  }

  const std::string server_;
  Awaits awaits_ = Awaits::kStream;
  bool offered_ = false;
};

}  // namespace

std::unique_ptr<StartTlsDialogue> MakeXmppStartTls(std::string server) {
  return std::make_unique<Xmpp>(std::move(server));
}

}  // namespace sockbroker::client
