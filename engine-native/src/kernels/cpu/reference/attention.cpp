// Attention over the paged KV pool, and vision attention: the reference.
#include "device/cpu_stream.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/scalar.h"

namespace hearth::kernels::cpu::reference {
namespace {

using device::DeviceInfo;
using device::Stream;
using namespace ops;

const char* attention_declines(const AttentionSpec& s, const DeviceInfo&) {
  if (!is_float(s.type)) return "types are f32, f16 or bf16";
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0) return "kv_heads must divide heads";
  if (s.rope_dims % 2 != 0 || s.rope_dims > s.head_dim) return "rope_dims must be even and at most head_dim";
  if (s.int8_products && s.kv != KvFormat::int8) return "int8 products need int8 K and V";
  return nullptr;
}

// Workspace: queries [rows, heads, head_dim], sums of the same shape, and a key for each row, all f32.
size_t query_bytes(const AttentionSpec& s, int rows) {
  return aligned(4 * static_cast<size_t>(rows) * s.heads * s.head_dim);
}
size_t attention_workspace(const AttentionSpec& s, int max_rows, const DeviceInfo&) {
  return 2 * query_bytes(s, max_rows) + aligned(4 * static_cast<size_t>(max_rows) * s.head_dim);
}

void norm_head(float* x, int head_dim, const float* weight, float epsilon) {
  double square = 0;
  for (int i = 0; i < head_dim; ++i) square += static_cast<double>(x[i]) * x[i];
  const double factor = 1.0 / std::sqrt(square / head_dim + epsilon);
  for (int i = 0; i < head_dim; ++i) x[i] = static_cast<float>(x[i] * factor) * weight[i];
}

void rope_head(const AttentionSpec& s, const AttentionParams& p, int row, float* x) {
  const int pairs = s.rope_dims / 2;
  for (int i = 0; i < pairs; ++i) {
    const int axis = rope_axis(s, i);
    const auto position = static_cast<float>(p.batch.positions[static_cast<int64_t>(axis) * p.batch.rows + row]);
    const float angle = position * p.inverse_frequency[i];
    const float c = std::cos(angle) * p.rope_amplitude, n = std::sin(angle) * p.rope_amplitude;
    float& a = x[s.rope_interleaved ? 2 * i : i];
    float& b = x[s.rope_interleaved ? 2 * i + 1 : i + pairs];
    const float u = a * c - b * n, v = b * c + a * n;
    a = u;
    b = v;
  }
}

// Where token `slot` of KV head `head` lies, in tokens; times head_dim gives its values, as is gives its scale.
int64_t kv_row(const AttentionSpec& s, int64_t slot, int head) {
  const int64_t block = slot / kv_block_tokens, offset = slot % kv_block_tokens;
  return (block * s.kv_heads + head) * kv_block_tokens + offset;
}

DType kv_type(KvFormat format) {
  return format == KvFormat::f16 ? DType::f16 : format == KvFormat::bf16 ? DType::bf16 : DType::f32;
}

void write_kv(const AttentionSpec& s, void* to, float* scales, int64_t row, const float* x) {
  const int64_t base = row * s.head_dim;
  if (s.kv != KvFormat::int8) {
    for (int i = 0; i < s.head_dim; ++i) store(to, kv_type(s.kv), base + i, x[i]);
    return;
  }
  float amax = 0;
  for (int i = 0; i < s.head_dim; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  const Int8Scale by = int8_scale(amax);
  scales[row] = by.scale;
  for (int i = 0; i < s.head_dim; ++i) static_cast<int8_t*>(to)[base + i] = to_int8(x[i], by.inverse);
}

float read_kv(const AttentionSpec& s, const void* from, const float* scales, int64_t row, int i) {
  if (s.kv == KvFormat::int8) return scales[row] * static_cast<const int8_t*>(from)[row * s.head_dim + i];
  return load(from, kv_type(s.kv), row * s.head_dim + i);
}

// q/k norm, rope, rotation of one row; its K and V go to the pool, its queries to the workspace.
void prepare_row(const AttentionSpec& s, const AttentionParams& p, int row, float* queries, float* key) {
  const void* qkv = row_of(p.qkv, s.type, p.qkv_stride, row);
  const int dim = s.head_dim;
  auto prepare = [&](float* x, const float* weight) {
    if (s.qk_norm) norm_head(x, dim, weight, s.qk_norm_epsilon);
    rope_head(s, p, row, x);
    if (s.kv == KvFormat::int8) hadamard(x, dim);
  };
  for (int h = 0; h < s.heads; ++h) {
    float* q = queries + static_cast<int64_t>(h) * dim;
    for (int i = 0; i < dim; ++i) q[i] = load(qkv, s.type, static_cast<int64_t>(h) * dim + i);
    prepare(q, p.q_norm);
  }
  const int32_t slot = p.batch.kv_slot[row];
  if (slot < 0) return;
  for (int h = 0; h < s.kv_heads; ++h) {
    const int64_t at = kv_row(s, slot, h);
    for (int i = 0; i < dim; ++i) key[i] = load(qkv, s.type, static_cast<int64_t>(s.heads + h) * dim + i);
    prepare(key, p.k_norm);
    write_kv(s, p.kv.k, p.kv.k_scale, at, key);
    for (int i = 0; i < dim; ++i) key[i] = load(qkv, s.type, static_cast<int64_t>(s.heads + s.kv_heads + h) * dim + i);
    write_kv(s, p.kv.v, p.kv.v_scale, at, key);
  }
}

// One query over its context with a running maximum (online softmax, Milakov and Gimelshein 2018).
void attend(const AttentionSpec& s, const AttentionParams& p, int row, int head, const float* q, float* sum) {
  const Batch& b = p.batch;
  const int sequence = b.row_sequence[row], kv_head = head / (s.heads / s.kv_heads);
  const int last = b.context[sequence] - (b.row_begin[sequence + 1] - row);
  const int first = s.window > 0 && last - s.window + 1 > 0 ? last - s.window + 1 : 0;
  double best = -INFINITY, total = 0;
  for (int i = 0; i < s.head_dim; ++i) sum[i] = 0;
  for (int t = first; t <= last; ++t) {
    const int64_t block = b.block_table[static_cast<int64_t>(sequence) * b.block_table_stride + t / kv_block_tokens];
    const int64_t at = kv_row(s, block * kv_block_tokens + t % kv_block_tokens, kv_head);
    double dot = 0;
    for (int i = 0; i < s.head_dim; ++i) dot += static_cast<double>(q[i]) * read_kv(s, p.kv.k, p.kv.k_scale, at, i);
    dot *= s.scale;
    if (dot > best) {
      const auto shrink = static_cast<float>(std::exp(best - dot));
      total *= shrink;
      for (int i = 0; i < s.head_dim; ++i) sum[i] *= shrink;
      best = dot;
    }
    const auto weight = static_cast<float>(std::exp(dot - best));
    total += weight;
    for (int i = 0; i < s.head_dim; ++i) sum[i] += weight * read_kv(s, p.kv.v, p.kv.v_scale, at, i);
  }
  void* out = row_of(p.out, s.type, p.out_stride, row);
  const auto factor = static_cast<float>(total > 0 ? 1.0 / total : 0.0);  // an empty slot attends to nothing
  for (int i = 0; i < s.head_dim; ++i) store(out, s.type, static_cast<int64_t>(head) * s.head_dim + i, sum[i] * factor);
}

// x rounded to int8 values (still floats); returns their scale.
float round_to_int8(float* x, int count) {
  float amax = 0;
  for (int i = 0; i < count; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  const Int8Scale by = int8_scale(amax);
  for (int i = 0; i < count; ++i) x[i] = to_int8(x[i], by.inverse);
  return by.scale;
}

// The same with both products in int8 (AttentionSpec::int8_products), a chunk of tokens at a time. `q` is overwritten.
void attend_int8(const AttentionSpec& s, const AttentionParams& p, int row, int head, float* q, float* sum) {
  const Batch& b = p.batch;
  const int sequence = b.row_sequence[row], kv_head = head / (s.heads / s.kv_heads), dim = s.head_dim;
  const int last = b.context[sequence] - (b.row_begin[sequence + 1] - row);
  const int first = s.window > 0 && last - s.window + 1 > 0 ? last - s.window + 1 : 0;
  const auto* keys = static_cast<const int8_t*>(p.kv.k);
  const auto* values = static_cast<const int8_t*>(p.kv.v);
  for (int i = 0; i < dim; ++i) q[i] *= s.scale;
  const float q_scale = round_to_int8(q, dim);
  float best = -INFINITY, total = 0;
  for (int i = 0; i < dim; ++i) sum[i] = 0;
  for (int begin = first / int8_chunk_tokens * int8_chunk_tokens; begin <= last; begin += int8_chunk_tokens) {
    int64_t at[int8_chunk_tokens];
    float weight[int8_chunk_tokens] = {};
    const int from = begin < first ? first - begin : 0, to = last - begin + 1 < int8_chunk_tokens ? last - begin + 1 : int8_chunk_tokens;
    float high = best;
    for (int t = from; t < to; ++t) {
      const int64_t block = b.block_table[static_cast<int64_t>(sequence) * b.block_table_stride + (begin + t) / kv_block_tokens];
      at[t] = kv_row(s, block * kv_block_tokens + (begin + t) % kv_block_tokens, kv_head);
      int32_t dot = 0;
      for (int i = 0; i < dim; ++i) dot += static_cast<int32_t>(q[i]) * keys[at[t] * dim + i];
      weight[t] = static_cast<float>(dot) * (q_scale * p.kv.k_scale[at[t]]);
      high = std::fmax(high, weight[t]);
    }
    const float shrink = std::exp(best - high);
    best = high;
    total *= shrink;
    for (int t = from; t < to; ++t) {
      weight[t] = std::exp(weight[t] - best);
      total += weight[t];
      weight[t] *= p.kv.v_scale[at[t]];
    }
    const float scale = round_to_int8(weight, int8_chunk_tokens);
    for (int i = 0; i < dim; ++i) {
      int32_t dot = 0;
      for (int t = from; t < to; ++t) dot += static_cast<int32_t>(weight[t]) * values[at[t] * dim + i];
      sum[i] = sum[i] * shrink + static_cast<float>(dot) * scale;
    }
  }
  void* out = row_of(p.out, s.type, p.out_stride, row);
  const float factor = total > 0 ? 1.0f / total : 0.0f;
  for (int i = 0; i < dim; ++i) store(out, s.type, static_cast<int64_t>(head) * dim + i, sum[i] * factor);
}

void attention_run(const AttentionSpec& s, const AttentionParams& p, Stream& stream) {
  auto* queries = static_cast<float*>(p.workspace);
  auto* sums = reinterpret_cast<float*>(static_cast<uint8_t*>(p.workspace) + query_bytes(s, p.batch.rows));
  auto* keys = reinterpret_cast<float*>(static_cast<uint8_t*>(p.workspace) + 2 * query_bytes(s, p.batch.rows));
  const int64_t row_size = static_cast<int64_t>(s.heads) * s.head_dim;
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    const Range rows = share(p.batch.rows, worker, size);
    for (int row = rows.begin; row < rows.end; ++row) {
      prepare_row(s, p, row, queries + row * row_size, keys + static_cast<int64_t>(row) * s.head_dim);
    }
    pool.barrier();
    const Range items = share(p.batch.rows * s.heads, worker, size);
    for (int item = items.begin; item < items.end; ++item) {
      const int64_t at = static_cast<int64_t>(item) * s.head_dim;
      if (s.int8_products) attend_int8(s, p, item / s.heads, item % s.heads, queries + at, sums + at);
      else attend(s, p, item / s.heads, item % s.heads, queries + at, sums + at);
    }
  });
}

const char* vision_declines(const VisionAttentionSpec& s, const DeviceInfo&) {
  if (s.rope && s.head_dim % 2 != 0) return "rope needs an even head_dim";
  return is_float(s.type) ? nullptr : "types are f32, f16 or bf16";
}

size_t vision_workspace(const VisionAttentionSpec& s, int max_rows, const DeviceInfo&) {
  return aligned(4 * 4 * static_cast<size_t>(max_rows) * s.heads * s.head_dim);
}

// Row `row` of part 0 (q), 1 (k) or 2 (v) as f32 [heads, head_dim], turned.
void prepare_vision(const VisionAttentionSpec& s, const VisionAttentionParams& p, int row, int part, float* to) {
  const int width = s.heads * s.head_dim, half = s.head_dim / 2;
  const void* from = row_of(p.qkv, s.type, p.qkv_stride, row);
  for (int i = 0; i < width; ++i) to[i] = load(from, s.type, static_cast<int64_t>(part) * width + i);
  if (!s.rope || part == 2) return;
  const float* c = p.rope_cos + static_cast<int64_t>(row) * s.head_dim;
  const float* n = p.rope_sin + static_cast<int64_t>(row) * s.head_dim;
  for (float* x = to; x < to + width; x += s.head_dim) {
    for (int i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a * c[i] - b * n[i];
      x[i + half] = b * c[i + half] + a * n[i + half];
    }
  }
}

void attend_vision(const VisionAttentionSpec& s, const VisionAttentionParams& p, const float* const parts[3], float* sum,
                   int row, int head, int begin, int end) {
  const int64_t width = static_cast<int64_t>(s.heads) * s.head_dim, at = static_cast<int64_t>(head) * s.head_dim;
  const float* q = parts[0] + row * width + at;
  double best = -INFINITY, total = 0;
  for (int i = 0; i < s.head_dim; ++i) sum[i] = 0;
  for (int t = begin; t < end; ++t) {
    const float* k = parts[1] + t * width + at;
    const float* v = parts[2] + t * width + at;
    double dot = 0;
    for (int i = 0; i < s.head_dim; ++i) dot += static_cast<double>(q[i]) * k[i];
    dot *= s.scale;
    const double next = dot > best ? dot : best;
    const auto shrink = static_cast<float>(std::exp(best - next)), weight = static_cast<float>(std::exp(dot - next));
    best = next;
    total = total * shrink + weight;
    for (int i = 0; i < s.head_dim; ++i) sum[i] = sum[i] * shrink + weight * v[i];
  }
  void* out = row_of(p.out, s.type, p.out_stride, row);
  for (int i = 0; i < s.head_dim; ++i) store(out, s.type, at + i, static_cast<float>(sum[i] / total));
}

void vision_run(const VisionAttentionSpec& s, const VisionAttentionParams& p, Stream& stream) {
  const int64_t width = static_cast<int64_t>(s.heads) * s.head_dim;
  auto* base = static_cast<float*>(p.workspace);
  const float* const parts[3] = {base, base + p.rows * width, base + 2 * p.rows * width};
  float* sums = base + 3 * p.rows * width;
  ThreadPool& pool = device::pool_of(stream);
  pool.parallel([&](int worker, int size) {
    const Range rows = share(p.rows, worker, size);
    for (int row = rows.begin; row < rows.end; ++row) {
      for (int part = 0; part < 3; ++part) prepare_vision(s, p, row, part, base + (part * static_cast<int64_t>(p.rows) + row) * width);
    }
    pool.barrier();
    int segment = 0;
    for (int row = rows.begin; row < rows.end; ++row) {
      while (p.segment[segment + 1] <= row) ++segment;
      for (int h = 0; h < s.heads; ++h) {
        attend_vision(s, p, parts, sums + row * width + static_cast<int64_t>(h) * s.head_dim, row, h, p.segment[segment],
                      p.segment[segment + 1]);
      }
    }
  });
}

}  // namespace

const Kernel<AttentionSpec, AttentionParams> attention{"cpu/reference", attention_declines, attention_run,
                                                       attention_workspace};
const Kernel<VisionAttentionSpec, VisionAttentionParams> vision_attention{"cpu/reference", vision_declines, vision_run,
                                                                          vision_workspace};

}  // namespace hearth::kernels::cpu::reference
