// Where exceptions end: at the wall and at the bottom of each thread of ours. What a library throws (memory that ran out,
// JSON of another type than was thought) becomes a Status there; past it, it would end the process.
#pragma once

#include <exception>
#include <new>
#include <type_traits>

#include "core/status.h"

namespace hearth {

// `body` returns Status or Result<T>.
template <class Body>
std::invoke_result_t<Body> guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return out_of_memory("the host ran out of memory");
  } catch (const std::exception& e) {
    return Status(Code::internal, e.what());
  } catch (...) {
    return Status(Code::internal, "an unknown exception");
  }
}

}  // namespace hearth
