#include "runtime/ring.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>

using namespace hearth::runtime;

namespace {

uint32_t u32(const uint8_t* at) {
  uint32_t v;
  std::memcpy(&v, at, 4);
  return v;
}

}  // namespace

TEST(Ring, LaysRecordsOutAsTheHeaderSays) {
  Ring ring(4096);
  float values[] = {1.5f, -2};
  Record record;
  record.type = RecordType::embedding;
  record.flags = special_flag;
  record.request = 7;
  record.token = -5;
  record.index = 9;
  record.bytes = "abc";
  record.text = "de";
  record.values = values;
  ring.write(record);
  EXPECT_TRUE(ring.publish());
  EXPECT_FALSE(ring.publish());
  std::vector<uint8_t> out(4096);
  uint32_t written = 0;
  ASSERT_TRUE(ring.drain(out, written));
  ASSERT_EQ(written, 64u);
  EXPECT_EQ(u32(&out[0]), 64u);
  EXPECT_EQ(out[4], 3);
  EXPECT_EQ(out[6], 1);
  EXPECT_EQ(u32(&out[8]), 7u);
  EXPECT_EQ(static_cast<int32_t>(u32(&out[12])), -5);
  EXPECT_EQ(u32(&out[24]), 9u);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(&out[48]), 5), "abcde");
  float back;
  std::memcpy(&back, &out[56], 4);  // three bytes of padding before the values
  EXPECT_EQ(back, 1.5f);
}

TEST(Ring, ReservationsCountAndReadingFreesRoom) {
  Ring ring(1024);
  EXPECT_TRUE(ring.reserve(1000));
  EXPECT_FALSE(ring.reserve(100));
  EXPECT_EQ(ring.free_bytes(), 24u);
  ring.unreserve(1000);
  Record record;
  for (int i = 0; i < 21; ++i) ring.write(record);
  EXPECT_EQ(ring.free_bytes(), 16u);
  ring.publish();
  std::vector<uint8_t> out(100);
  uint32_t written = 0;
  ASSERT_TRUE(ring.drain(out, written));
  EXPECT_EQ(written, 96u);  // whole records only
  EXPECT_EQ(ring.free_bytes(), 112u);
  std::vector<uint8_t> tiny(8);
  EXPECT_FALSE(ring.drain(tiny, written));
  EXPECT_EQ(written, 48u);
}

// One writer and one reader at full speed over a small ring: every byte arrives once, in order, and no wake-up is lost.
TEST(Ring, NothingIsLostBetweenThreads) {
  Ring ring(1 << 14);
  Doorbell bell;
  ASSERT_TRUE(bell.open());
  int fd = bell.take_reader();
  EXPECT_EQ(bell.take_reader(), -1);
  constexpr uint32_t count = 60000;
  std::thread writer([&] {
    std::mt19937 random(1);
    for (uint32_t i = 0; i < count;) {
      std::string text(random() % 60, static_cast<char>('a' + i % 26));
      Record record;
      record.request = i;
      record.text = text;
      if (record_size(record) > ring.free_bytes()) {
        std::this_thread::yield();
        continue;
      }
      ring.write(record);
      ++i;
      if (random() % 4 == 0 && ring.publish()) bell.ring();
    }
    if (ring.publish()) bell.ring();
    bell.hang_up();
  });
  std::vector<uint8_t> out(3000);
  uint32_t next = 0;
  for (bool open = true; open || next < count;) {
    pollfd p{fd, POLLIN, 0};
    ASSERT_GT(poll(&p, 1, 10000), 0) << "a wake-up was lost at " << next;
    char bytes[16];
    open = ::read(fd, bytes, sizeof bytes) != 0;
    for (uint32_t written = 1; written > 0;) {
      ASSERT_TRUE(ring.drain(out, written));
      for (uint32_t at = 0; at < written; at += u32(&out[at])) {
        ASSERT_EQ(u32(&out[at + 8]), next);
        if (u32(&out[at + 32]) > 0) {
          ASSERT_EQ(out[at + 48], 'a' + next % 26);
        }
        ++next;
      }
    }
  }
  writer.join();
  EXPECT_EQ(next, count);
  ::close(fd);
}
