// JSON for scripts: one object per line, fields named as in the contract.
//
//   JsonLine line;
//   line.Add("event", "listening").Add("port", 8080);
//   line.Text()                     ->  {"event":"listening","port":8080}
//   MessageJson(connection)         -> {"handle":"9f86...","state":"open","peer":{"tcp":{...}},...}
//
// MessageJson differs from Protobuf's own JSON where a script would stumble: a handle is the
// hexadecimal text that every command takes (not base64), a 64-bit number is a number (not a
// string), an enum is its lower-case word without prefix ("open"), a time is RFC 3339 in UTC, a
// duration is in seconds, and every plain field is there, also when it is zero. What is optional
// and absent is left out.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace sockbroker::client {

// With its quotes. Control characters are escaped; bytes that are no UTF-8 become U+FFFD.
std::string JsonString(absl::string_view text);
// One line, without a line's end.
std::string MessageJson(const google::protobuf::Message& message);

class JsonLine {
 public:
  JsonLine& Add(absl::string_view key, absl::string_view value) {
    return AddJson(key, JsonString(value));
  }
  JsonLine& Add(absl::string_view key, const char* value) {
    return Add(key, absl::string_view(value));
  }
  template <typename Number>
    requires std::is_arithmetic_v<Number>
  JsonLine& Add(absl::string_view key, Number value) {
    if constexpr (std::is_same_v<Number, bool>) {
      return AddJson(key, value ? "true" : "false");
    } else {
      return AddJson(key, absl::StrCat(value));
    }
  }
  // `json` as it is.
  JsonLine& AddJson(absl::string_view key, absl::string_view json);

  std::string Text() const { return absl::StrCat("{", fields_, "}"); }

 private:
  std::string fields_;
};

}  // namespace sockbroker::client
