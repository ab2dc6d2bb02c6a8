// The step thread's way into the ring for records no step has reserved room for: ACCEPTED, NOTICE, the end of cancelled
// or refused requests. What does not fit waits here, in order; while anything waits, no step is started.
#pragma once

#include <deque>
#include <string>

#include "runtime/ring.h"

namespace hearth::runtime {

class Outbox {
 public:
  explicit Outbox(Ring& ring) : ring_(ring) {}

  Ring& ring() { return ring_; }
  // Writes now, or keeps a copy until there is room. Records larger than the ring lose their payload's text (jobs only).
  void send(const Record& record);
  // Writes what waits. True when nothing is left.
  bool flush();
  bool empty() const { return waiting_.empty(); }
  // For hearth_close: nobody will read any more.
  void drop() { waiting_.clear(); }

 private:
  struct Waiting {
    Record record;
    std::string bytes, text;
  };
  Ring& ring_;
  std::deque<Waiting> waiting_;
};

}  // namespace hearth::runtime
