#include "client/json_output.h"

#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/endpoint_text.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace sockbroker::client {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// How many bytes the UTF-8 sequence at the start of `text` has; 0 when it is none (RFC 3629: no
// overlong forms, no surrogates, nothing above U+10FFFF).
std::size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) ||
      (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return length;
}

// CONNECTION_STATE_OPEN of enum ConnectionState -> "open"; CONNECTION_REFUSED of enum Reason stays
// whole.
std::string EnumWord(const EnumValueDescriptor* value) {
  std::string prefix;
  for (const char c : value->type()->name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  prefix += '_';
  absl::string_view name = value->name();
  if (absl::StartsWith(name, prefix)) name.remove_prefix(prefix.size());
  return absl::AsciiStrToLower(name);
}

// Bytes of this contract are handles and other opaque ids, but for the paths of Unix sockets.
std::string BytesJson(const FieldDescriptor* field, const std::string& bytes) {
  if (field->name() == "unix" || field->name() == "path") return JsonString(UnixPathText(bytes));
  return JsonString(absl::BytesToHexString(bytes));
}

std::string TimeJson(const google::protobuf::Timestamp& time) {
  const absl::Time at = absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  return JsonString(absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", at, absl::UTCTimeZone()));
}

std::string DurationJson(const google::protobuf::Duration& duration) {
  return absl::StrCat(static_cast<double>(duration.seconds()) + duration.nanos() / 1e9);
}

// A field's value; with an index, that element's.
std::string ValueJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* reflection = message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(repeated ? reflection->GetRepeatedInt32(message, field, index)
                                   : reflection->GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(repeated ? reflection->GetRepeatedInt64(message, field, index)
                                   : reflection->GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(repeated ? reflection->GetRepeatedUInt32(message, field, index)
                                   : reflection->GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(repeated ? reflection->GetRepeatedUInt64(message, field, index)
                                   : reflection->GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat(repeated ? reflection->GetRepeatedDouble(message, field, index)
                                   : reflection->GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return absl::StrCat(repeated ? reflection->GetRepeatedFloat(message, field, index)
                                   : reflection->GetFloat(message, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return (repeated ? reflection->GetRepeatedBool(message, field, index)
                       : reflection->GetBool(message, field))
                 ? "true"
                 : "false";
    case FieldDescriptor::CPPTYPE_ENUM: {
      // An enum is open in proto3: a newer broker's value is a number here.
      const int number = repeated ? reflection->GetRepeatedEnumValue(message, field, index)
                                  : reflection->GetEnumValue(message, field);
      const EnumValueDescriptor* value = field->enum_type()->FindValueByNumber(number);
      return value == nullptr ? absl::StrCat(number) : JsonString(EnumWord(value));
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string value = repeated ? reflection->GetRepeatedString(message, field, index)
                                         : reflection->GetString(message, field);
      return field->type() == FieldDescriptor::TYPE_BYTES ? BytesJson(field, value)
                                                          : JsonString(value);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& value = repeated ? reflection->GetRepeatedMessage(message, field, index)
                                      : reflection->GetMessage(message, field);
      if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&value))
        return TimeJson(*time);
      if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&value)) {
        return DurationJson(*duration);
      }
      return MessageJson(value);
    }
  }
  return "null";
}

std::string FieldJson(const Message& message, const FieldDescriptor* field) {
  if (!field->is_repeated()) return ValueJson(message, field, -1);
  const int size = message.GetReflection()->FieldSize(message, field);
  if (!field->is_map()) {
    std::vector<std::string> values;
    values.reserve(static_cast<std::size_t>(size));
    for (int i = 0; i < size; ++i) values.push_back(ValueJson(message, field, i));
    return absl::StrCat("[", absl::StrJoin(values, ","), "]");
  }
  // The contract's maps have text for keys. Sorted, so that two lines can be compared.
  std::map<std::string, std::string> entries;
  for (int i = 0; i < size; ++i) {
    const Message& entry = message.GetReflection()->GetRepeatedMessage(message, field, i);
    const Descriptor* type = entry.GetDescriptor();
    const std::string key = entry.GetReflection()->GetString(entry, type->map_key());
    entries[JsonString(key)] = ValueJson(entry, type->map_value(), -1);
  }
  return absl::StrCat("{", absl::StrJoin(entries, ",", absl::PairFormatter(":")), "}");
}

}  // namespace

std::string JsonString(absl::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = SequenceLength(text);
    const auto c = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += text[0];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      out += absl::StrFormat("\\u%04x", c);
    } else {
      out.append(text.data(), length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out + "\"";
}

std::string MessageJson(const Message& message) {
  const Descriptor* type = message.GetDescriptor();
  JsonLine line;
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->has_presence() && !message.GetReflection()->HasField(message, field)) continue;
    line.AddJson(field->name(), FieldJson(message, field));
  }
  return line.Text();
}

JsonLine& JsonLine::AddJson(absl::string_view key, absl::string_view json) {
  absl::StrAppend(&fields_, fields_.empty() ? "" : ",", JsonString(key), ":", json);
  return *this;
}

}  // namespace sockbroker::client
