#include "core/utf8.h"

#include <cstring>

namespace hearth::utf8 {
namespace {

struct Lead {
  uint32_t length;            // 0: not a lead byte
  unsigned char low, high;    // what the second byte may be
};

// Table 3-7 of the Unicode standard.
Lead lead_of(unsigned char b) {
  if (b < 0xC2 || b > 0xF4) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b < 0xF0) return {3, static_cast<unsigned char>(b == 0xE0 ? 0xA0 : 0x80), static_cast<unsigned char>(b == 0xED ? 0x9F : 0xBF)};
  return {4, static_cast<unsigned char>(b == 0xF0 ? 0x90 : 0x80), static_cast<unsigned char>(b == 0xF4 ? 0x8F : 0xBF)};
}

// Length of the run of ASCII bytes at p, eight at a time.
size_t ascii_run(const char* p, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, p + i, 8);
    if (word & 0x8080808080808080ull) break;
  }
  while (i < n && static_cast<unsigned char>(p[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Decoded decode(std::string_view text, size_t at) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
  size_t left = text.size() - at;
  if (p[0] < 0x80) return {p[0], 1, true, false};
  Lead lead = lead_of(p[0]);
  if (lead.length == 0) return {replacement, 1, false, false};
  char32_t code = p[0] & (0x7Fu >> lead.length);
  for (uint32_t i = 1; i < lead.length; ++i) {
    if (i == left) return {replacement, i, false, true};
    unsigned char low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (p[i] < low || p[i] > high) return {replacement, i, false, false};
    code = code << 6 | (p[i] & 0x3F);
  }
  return {code, lead.length, true, false};
}

bool is_valid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    at += ascii_run(text.data() + at, text.size() - at);
    if (at == text.size()) break;
    Decoded d = decode(text, at);
    if (!d.valid) return false;
    at += d.length;
  }
  return true;
}

size_t complete_length(std::string_view text) {
  // A cut-off sequence is at most three bytes long, so only the last three places can begin one.
  size_t from = text.size() > 3 ? text.size() - 3 : 0;
  for (size_t at = from; at < text.size(); ++at) {
    if (static_cast<unsigned char>(text[at]) >= 0xC0 && decode(text, at).incomplete) return at;
  }
  return text.size();
}

void append(std::string& out, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) code = replacement;
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

void append_lossy(std::string& out, std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    size_t run = ascii_run(text.data() + at, text.size() - at);
    out.append(text, at, run);
    at += run;
    if (at == text.size()) break;
    Decoded d = decode(text, at);
    if (d.valid) out.append(text, at, d.length);
    else out.append(replacement_bytes);
    at += d.length;
  }
}

std::string lossy(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  append_lossy(out, text);
  return out;
}

}  // namespace hearth::utf8
