// The stories of proto/sockbroker/v1/vectors/, which clients in other languages run too, at both
// ends.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "story.h"

namespace sockbroker::session {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(SOCKBROKER_VECTORS)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Struct> Read(const std::string& name) {
  return ReadStory(SOCKBROKER_VECTORS "/" + name + ".json");
}

absl::Status RunEnd(const Struct& story, const std::string& end) {
  return end == "client" ? RunClient(story) : RunBroker(story);
}

// Changes the next leaf in `value`, of which the first `*skip` are left alone. False: there is
// none.
bool ChangeLeaf(Value* value, int* skip) {
  switch (value->kind_case()) {
    case Value::kStructValue: {
      // In an order that does not depend on the map's.
      std::vector<std::string> keys;
      for (const auto& [key, member] : value->struct_value().fields()) keys.push_back(key);
      std::sort(keys.begin(), keys.end());
      for (const std::string& key : keys) {
        if (ChangeLeaf(&(*value->mutable_struct_value()->mutable_fields())[key], skip)) return true;
      }
      return false;
    }
    case Value::kListValue:
      for (Value& member : *value->mutable_list_value()->mutable_values()) {
        if (ChangeLeaf(&member, skip)) return true;
      }
      return false;
    default:
      if ((*skip)-- > 0) return false;
      if (value->kind_case() == Value::kNumberValue) {
        value->set_number_value(value->number_value() + 1);
      } else if (value->kind_case() == Value::kBoolValue) {
        value->set_bool_value(!value->bool_value());
      } else {
        std::string text = value->string_value();
        if (text.empty()) text = "A";
        text[0] = text[0] == 'B' ? 'C' : 'B';
        value->set_string_value(text);
      }
      return true;
  }
}

// What the step says must come about.
Value* Expectation(Struct* step, const std::string& end) {
  for (const std::string& key :
       {end, std::string("told"), std::string("asked"), std::string("code")}) {
    if (step->fields().contains(key)) return &(*step->mutable_fields())[key];
  }
  return nullptr;
}

class Vectors : public testing::TestWithParam<std::string> {};

TEST_P(Vectors, ComeOutAtBothEndsAsTheyAreWritten) {
  const auto story = Read(GetParam());
  ASSERT_TRUE(story.ok()) << story.status();
  for (const std::string end : {"client", "broker"}) {
    if (!IsFor(*story, end)) continue;
    const absl::Status status = RunEnd(*story, end);
    EXPECT_TRUE(status.ok()) << status.message();
  }
}

TEST_P(Vectors, FailWhenAnyValueOrFrameThatMustComeOutIsAnother) {
  const auto story = Read(GetParam());
  ASSERT_TRUE(story.ok()) << story.status();
  int changes = 0;
  for (const std::string end : {"client", "broker"}) {
    if (!IsFor(*story, end)) continue;
    const auto& steps = story->fields().at("steps").list_value();
    for (int i = 0; i < steps.values_size(); ++i) {
      if (!IsExpected(steps.values(i).struct_value(), end)) continue;
      const auto changed = [&](auto change) {
        Struct other = *story;
        Struct* step = (*other.mutable_fields())["steps"]
                           .mutable_list_value()
                           ->mutable_values(i)
                           ->mutable_struct_value();
        if (!change(Expectation(step, end))) return false;
        ++changes;
        EXPECT_FALSE(RunEnd(other, end).ok()) << end << " does not notice this change of step "
                                              << i + 1 << ": " << step->ShortDebugString();
        return true;
      };
      for (int leaf = 0; changed([&](Value* expected) {
             int skip = leaf;
             return ChangeLeaf(expected, &skip);
           });
           ++leaf) {
      }
      changed([](Value* expected) {
        if (expected->list_value().values().empty()) return false;
        expected->mutable_list_value()->mutable_values()->RemoveLast();
        return true;
      });
    }
  }
  EXPECT_GT(changes, 0);
}

INSTANTIATE_TEST_SUITE_P(Story, Vectors, testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sockbroker::session
