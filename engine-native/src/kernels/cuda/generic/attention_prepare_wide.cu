// The preparation of a prefill's rows in the common case, 16 bytes at a time: rope of halves on one axis, no norm, a pool of
// the activations' type. One block a row; a task is eight pairs of a q or k head, or 16 bytes to copy.
#include "kernels/cuda/generic/attention_prepare.cuh"

using namespace hearth::kernels::cuda;

template <class T> __device__ __forceinline__ void rotate8(uint4& low, uint4& high, const float2* turns) {
  uint32_t* a = reinterpret_cast<uint32_t*>(&low);
  uint32_t* b = reinterpret_cast<uint32_t*>(&high);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4 turn = *reinterpret_cast<const float4*>(turns + 2 * i);  // cosine, sine of two pairs
    const float2 x = unpack2<T>(a[i]), y = unpack2<T>(b[i]);
    a[i] = pack2<T>(x.x * turn.x - y.x * turn.y, x.y * turn.z - y.y * turn.w);
    b[i] = pack2<T>(y.x * turn.x + x.x * turn.y, y.y * turn.z + x.y * turn.w);
  }
}
template <class T> __device__ __forceinline__ void attention_prepare_wide(const AttentionArgs& p) {
  extern __shared__ __align__(16) float turns_shared[];
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x;
  if (p.prepared) {
    const int sequence = __ldcg(p.row_sequence + row);
    if (__ldcg(p.row_begin + sequence + 1) - __ldcg(p.row_begin + sequence) == 1) return;
  }
  float2* turns = reinterpret_cast<float2*>(turns_shared);
  for (int i = threadIdx.x; i < p.rope_dims / 2; i += blockDim.x) turns[i] = rope_turn(p, row, i);
  __syncthreads();
  const int slot = __ldcg(p.kv_slot + row), half = p.rope_dims / 2;
  const int turned = half / 8, rest = (p.head_dim - p.rope_dims) / 8, whole = p.head_dim / 8;
  const int q_tasks = p.heads * turned, k_tasks = slot < 0 ? 0 : p.kv_heads * turned, copies = slot < 0 ? 0 : p.kv_heads * (rest + whole);
  uint16_t* from = static_cast<uint16_t*>(p.qkv) + row * p.qkv_stride;
  auto place = [&](void* pool, int head) {
    return static_cast<uint16_t*>(pool) + ((static_cast<int64_t>(slot / kv_tokens) * p.kv_heads + head) * kv_tokens + slot % kv_tokens) * p.head_dim;
  };
  for (int task = threadIdx.x; task < q_tasks + k_tasks; task += blockDim.x) {
    const int head = task / turned, at = (task - head * turned) * 8;
    const uint16_t* x = from + static_cast<int64_t>(head) * p.head_dim + at;
    uint4 low = __ldcg(reinterpret_cast<const uint4*>(x)), high = __ldcg(reinterpret_cast<const uint4*>(x + half));
    rotate8<T>(low, high, turns + at);
    uint16_t* to = head < p.heads ? from + static_cast<int64_t>(head) * p.head_dim + at : place(p.k, head - p.heads) + at;
    *reinterpret_cast<uint4*>(to) = low;
    *reinterpret_cast<uint4*>(to + half) = high;
  }
  for (int task = threadIdx.x; task < copies; task += blockDim.x) {  // keys beyond the rope, then values
    const bool is_key = task < p.kv_heads * rest;
    const int item = is_key ? task : task - p.kv_heads * rest, each = is_key ? rest : whole, head = item / each;
    const int at = (item - head * each) * 8 + (is_key ? p.rope_dims : 0);
    const uint16_t* x = from + static_cast<int64_t>(p.heads + (is_key ? 0 : p.kv_heads) + head) * p.head_dim + at;
    *reinterpret_cast<uint4*>(place(is_key ? p.k : p.v, head) + at) = __ldcg(reinterpret_cast<const uint4*>(x));
  }
}
extern "C" __global__ void __launch_bounds__(256) attention_prepare_wide_f16(const AttentionArgs p) { attention_prepare_wide<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) attention_prepare_wide_bf16(const AttentionArgs p) { attention_prepare_wide<__nv_bfloat16>(p); }
