// Attention pieces that take any shape: the preparation of a prefill's rows, and the attention of last resort.
#include "kernels/cuda/generic/attention_prepare.cuh"

using namespace hearth::kernels::cuda;

// One block a row, one warp a head at a time: q in place, k and v to the pool. With `prepared` set, sequences of a
// single row are left to the decode kernel, which does this itself.
extern "C" __global__ void __launch_bounds__(256) attention_prepare_kernel(const AttentionArgs p) {
  extern __shared__ float values[];
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x, warp = threadIdx.x / 32;
  float* x = values + warp * ((p.head_dim + 1) / 2 * 2);
  if (p.prepared) {
    const int sequence = __ldcg(p.row_sequence + row);
    if (__ldcg(p.row_begin + sequence + 1) - __ldcg(p.row_begin + sequence) == 1) return;
  }
  const int slot = __ldcg(p.kv_slot + row);
  float2* turns = reinterpret_cast<float2*>(values + 8 * ((p.head_dim + 1) / 2 * 2));
  for (int i = threadIdx.x; i < p.rope_dims / 2; i += blockDim.x) turns[i] = rope_turn(p, row, i);
  __syncthreads();
  for (int head = blockIdx.y * 8 + warp; head < p.heads + 2 * p.kv_heads; head += gridDim.y * 8) {
    const bool is_q = head < p.heads, is_k = !is_q && head < p.heads + p.kv_heads;
    if (!is_q && slot < 0) continue;
    head_load(p, row, head, x);
    if (is_q || is_k) head_prepare(p, row, is_q ? p.q_norm : p.k_norm, x, turns);
    if (is_q) {
      const int64_t at = row * p.qkv_stride + static_cast<int64_t>(head) * p.head_dim;
      for (int i = threadIdx.x % 32; i < p.head_dim; i += 32) store(p.qkv, p.type, at + i, x[i]);
    } else if (is_k) {
      head_write(p, slot, head - p.heads, p.k, p.k_scale, x);
    } else {
      head_write(p, slot, head - p.heads - p.kv_heads, p.v, p.v_scale, x);
    }
    __syncwarp();
  }
}

__device__ __forceinline__ float kv_value(const AttentionArgs& p, const void* pool, const float* scales, int64_t token, int i) {
  if (p.kv_type == kv_int8) return static_cast<const int8_t*>(pool)[token * p.head_dim + i] * scales[token];
  return load(pool, p.kv_type, token * p.head_dim + i);
}

// One warp a (row, head), the context walked token by token with a running maximum (Milakov and Gimelshein 2018).
extern "C" __global__ void __launch_bounds__(128) attention_generic_kernel(const AttentionArgs p) {
  extern __shared__ float values[];
  launch_dependents();
  wait_predecessors();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x, head = blockIdx.y * 4 + warp;
  if (head >= p.heads) return;
  float *q = values + warp * 2 * p.head_dim, *sum = q + p.head_dim;
  const int sequence = __ldcg(p.row_sequence + row), kv_head = head / (p.heads / p.kv_heads);
  const int last = __ldcg(p.context + sequence) - (__ldcg(p.row_begin + sequence + 1) - row);
  const int first = p.window > 0 ? max(0, last - p.window + 1) : 0;
  for (int i = lane; i < p.head_dim; i += 32) {
    q[i] = load(p.qkv, p.type, row * p.qkv_stride + static_cast<int64_t>(head) * p.head_dim + i);
    sum[i] = 0;
  }
  float best = -INFINITY, total = 0;
  for (int token = first; token <= last; ++token) {
    const int64_t block = p.block_table[static_cast<int64_t>(sequence) * p.block_table_stride + token / kv_tokens];
    const int64_t at = (block * p.kv_heads + kv_head) * kv_tokens + token % kv_tokens;
    float dot = 0;
    for (int i = lane; i < p.head_dim; i += 32) dot += q[i] * kv_value(p, p.k, p.k_scale, at, i);
    dot = warp_sum(dot) * p.scale;
    const float next = fmaxf(best, dot), shrink = __expf(best - next), weight = __expf(dot - next);
    best = next;
    total = total * shrink + weight;
    for (int i = lane; i < p.head_dim; i += 32) sum[i] = sum[i] * shrink + weight * kv_value(p, p.v, p.v_scale, at, i);
  }
  const float factor = total > 0 ? 1.f / total : 0.f;
  for (int i = lane; i < p.head_dim; i += 32) store(p.out, p.type, row * p.out_stride + static_cast<int64_t>(head) * p.head_dim + i, sum[i] * factor);
}

// Rope of a vision tower's q and k, in place. One block a row.
extern "C" __global__ void __launch_bounds__(256) vision_rope_kernel(const VisionArgs p) {
  launch_dependents();
  wait_predecessors();
  const int64_t row = blockIdx.x;
  const int half = p.head_dim / 2;
  for (int i = threadIdx.x; i < 2 * p.heads * half; i += blockDim.x) {
    const int head = i / half, at = i % half;
    const int64_t first = row * p.qkv_stride + static_cast<int64_t>(head) * p.head_dim + at, second = first + half;
    const float a = load(p.qkv, p.type, first), b = load(p.qkv, p.type, second);
    const float *c = p.rope_cos + row * p.head_dim + at, *s = p.rope_sin + row * p.head_dim + at;
    store(p.qkv, p.type, first, a * c[0] - b * s[0]);
    store(p.qkv, p.type, second, b * c[half] + a * s[half]);
  }
}

// Vision attention of last resort: one warp a (row, head).
extern "C" __global__ void __launch_bounds__(128) vision_generic_kernel(const VisionArgs p) {
  extern __shared__ float values[];
  launch_dependents();
  wait_predecessors();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x, head = blockIdx.y * 4 + warp;
  if (head >= p.heads) return;
  int segment = 0;
  while (p.segment[segment + 1] <= row) ++segment;
  float *q = values + warp * 2 * p.head_dim, *sum = q + p.head_dim;
  const int64_t at = static_cast<int64_t>(head) * p.head_dim, width = static_cast<int64_t>(p.heads) * p.head_dim;
  for (int i = lane; i < p.head_dim; i += 32) { q[i] = load(p.qkv, p.type, row * p.qkv_stride + at + i); sum[i] = 0; }
  float best = -INFINITY, total = 0;
  for (int64_t token = p.segment[segment]; token < p.segment[segment + 1]; ++token) {
    float dot = 0;
    for (int i = lane; i < p.head_dim; i += 32) dot += q[i] * load(p.qkv, p.type, token * p.qkv_stride + width + at + i);
    dot = warp_sum(dot) * p.scale;
    const float next = fmaxf(best, dot), shrink = __expf(best - next), weight = __expf(dot - next);
    best = next;
    total = total * shrink + weight;
    for (int i = lane; i < p.head_dim; i += 32) sum[i] = sum[i] * shrink + weight * load(p.qkv, p.type, token * p.qkv_stride + 2 * width + at + i);
  }
  for (int i = lane; i < p.head_dim; i += 32) store(p.out, p.type, row * p.out_stride + at + i, sum[i] / total);
}
