// Norms of many f32 rows to 16 bits, one warp a row kept in registers: no meeting of warps. For vision towers,
// where the next linear waits for it. Weights are read once a block, into shared memory: rows of several images are few
// blocks, each of many rows, and registers for more warps (a read of them a row cost as much as the row).
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

template <int V> __device__ __forceinline__ void norm_row(const NormArgs& p, int row, const float4* w, const float4* b) {
  const int lane = threadIdx.x % 32;
  float4 x[V];
  const float* from = static_cast<const float*>(p.x) + row * p.x_stride;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * 32 + lane) * 4;
    x[v] = i < p.width ? __ldcg(reinterpret_cast<const float4*>(from + i)) : make_float4(0, 0, 0, 0);
  }
  float mean = 0, sum = 0;
  if (p.kind == norm_layer) {
#pragma unroll
    for (int v = 0; v < V; ++v) mean += (x[v].x + x[v].y) + (x[v].z + x[v].w);
    mean = warp_sum(mean) / p.width;
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if ((v * 32 + lane) * 4 >= p.width) continue;
    const float a0 = x[v].x - mean, a1 = x[v].y - mean, a2 = x[v].z - mean, a3 = x[v].w - mean;
    sum += (a0 * a0 + a1 * a1) + (a2 * a2 + a3 * a3);
  }
  const float inverse = rsqrtf(warp_sum(sum) / p.width + p.epsilon);
  uint16_t* to = static_cast<uint16_t*>(p.y) + row * p.y_stride;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * 32 + lane) * 4;
    if (i >= p.width) continue;
    const float4 weight = w[v * 32 + lane], bias = b[v * 32 + lane];
    const float a0 = (x[v].x - mean) * inverse * weight.x + bias.x, a1 = (x[v].y - mean) * inverse * weight.y + bias.y;
    const float a2 = (x[v].z - mean) * inverse * weight.z + bias.z, a3 = (x[v].w - mean) * inverse * weight.w + bias.w;
    *reinterpret_cast<uint2*>(to + i) = p.y_type == type_f16 ? make_uint2(pack2<__half>(a0, a1), pack2<__half>(a2, a3))
                                                             : make_uint2(pack2<__nv_bfloat16>(a0, a1), pack2<__nv_bfloat16>(a2, a3));
  }
}
// Rows of at most V * 128 values.
template <int V> __device__ __forceinline__ void norm_rows(const NormArgs& p) {
  __shared__ float4 w[V * 32], b[V * 32];
  for (int i = threadIdx.x; i < V * 32; i += blockDim.x) {
    const bool there = i * 4 < p.width;
    w[i] = p.weight && there ? __ldg(reinterpret_cast<const float4*>(p.weight) + i) : make_float4(1, 1, 1, 1);
    b[i] = p.bias && there ? __ldg(reinterpret_cast<const float4*>(p.bias) + i) : make_float4(0, 0, 0, 0);
  }
  __syncthreads();
  launch_dependents();
  wait_predecessors();
  const int warps = blockDim.x / 32;
  for (int row = blockIdx.x * warps + threadIdx.x / 32; row < p.rows; row += gridDim.x * warps) norm_row<V>(p, row, w, b);
}
extern "C" __global__ void __launch_bounds__(128, 9) norm_rows_1024_kernel(const NormArgs p) { norm_rows<8>(p); }
extern "C" __global__ void __launch_bounds__(128, 7) norm_rows_1280_kernel(const NormArgs p) { norm_rows<10>(p); }
