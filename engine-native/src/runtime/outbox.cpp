#include "runtime/outbox.h"

namespace hearth::runtime {

void Outbox::send(const Record& record) {
  if (waiting_.empty() && record_size(record) <= ring_.free_bytes()) {
    ring_.write(record);
    return;
  }
  Waiting one{record, std::string(record.bytes), std::string(record.text)};
  if (record_size(record) > ring_.capacity() / 2) {
    one.text.clear();
    one.bytes = R"({"error":{"status":11,"message":"the result is larger than the ring"}})";
  }
  waiting_.push_back(std::move(one));
}

bool Outbox::flush() {
  while (!waiting_.empty()) {
    Waiting& first = waiting_.front();
    first.record.bytes = first.bytes;
    first.record.text = first.text;
    if (record_size(first.record) > ring_.free_bytes()) return false;
    ring_.write(first.record);
    waiting_.pop_front();
  }
  return true;
}

}  // namespace hearth::runtime
