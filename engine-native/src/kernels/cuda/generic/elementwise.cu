// Embedding, norms, gates, adds, gathers: any width and type; memory-bound, one block a row.
#include "kernels/cuda/common.cuh"

using namespace hearth::kernels::cuda;

extern "C" __global__ void __launch_bounds__(256) embed_kernel(const EmbedArgs p) {
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x;
  const int source = p.source ? __ldcg(p.source + row) : 0;
  int id = __ldcg(p.ids + row);
  float* x = p.x + static_cast<int64_t>(row) * p.width;
  if (source == 2) {
    const float* from = p.image_rows + static_cast<int64_t>(id) * p.width;
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) x[i] = __ldcg(from + i);
    return;
  }
  if (source == 1) id = __ldcg(p.sampled + id);
  if (id < 0 || id >= p.vocabulary) id = 0;  // an empty slot of a bucket
  const int64_t at = static_cast<int64_t>(id) * p.width;
  for (int i = threadIdx.x; i < p.width; i += blockDim.x) x[i] = load(p.table, p.table_type, at + i) * p.scale;
}

// f32 rows of at most V * 1024 to 16 bits, kept in registers; the weights are read before the kernel waits for its
// predecessors, because few-row linears wait for this one.
template <int V> __device__ __forceinline__ void norm_narrow(const NormArgs& p) {
  __shared__ float scratch[33];
  float4 w[V], x[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * 256 + threadIdx.x) * 4;
    w[v] = p.kind != norm_none && i < p.width ? __ldg(reinterpret_cast<const float4*>(p.weight + i)) : make_float4(1, 1, 1, 1);
  }
  launch_dependents();
  wait_predecessors();
  const float* from = static_cast<const float*>(p.x) + blockIdx.x * p.x_stride;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * 256 + threadIdx.x) * 4;
    x[v] = i < p.width ? __ldcg(reinterpret_cast<const float4*>(from + i)) : make_float4(0, 0, 0, 0);
  }
  float mean = 0, inverse = 1;
  if (p.kind == norm_layer) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) sum += (x[v].x + x[v].y) + (x[v].z + x[v].w);
    mean = block_sum(sum, scratch) / p.width;
  }
  if (p.kind != norm_none) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if ((v * 256 + threadIdx.x) * 4 >= p.width) continue;
      const float a = x[v].x - mean, b = x[v].y - mean, c = x[v].z - mean, d = x[v].w - mean;
      sum += (a * a + b * b) + (c * c + d * d);
    }
    inverse = rsqrtf(block_sum(sum, scratch) / p.width + p.epsilon);
  }
  uint16_t* to = static_cast<uint16_t*>(p.y) + blockIdx.x * p.y_stride;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int i = (v * 256 + threadIdx.x) * 4;
    if (i >= p.width) continue;
    const float4 b = p.kind != norm_none && p.bias ? __ldg(reinterpret_cast<const float4*>(p.bias + i)) : make_float4(0, 0, 0, 0);
    const float a0 = (x[v].x - mean) * inverse * w[v].x + b.x, a1 = (x[v].y - mean) * inverse * w[v].y + b.y;
    const float a2 = (x[v].z - mean) * inverse * w[v].z + b.z, a3 = (x[v].w - mean) * inverse * w[v].w + b.w;
    *reinterpret_cast<uint2*>(to + i) = p.y_type == type_f16 ? make_uint2(pack2<__half>(a0, a1), pack2<__half>(a2, a3))
                                                             : make_uint2(pack2<__nv_bfloat16>(a0, a1), pack2<__nv_bfloat16>(a2, a3));
  }
}
extern "C" __global__ void __launch_bounds__(256) norm_narrow4_kernel(const NormArgs p) { norm_narrow<4>(p); }
extern "C" __global__ void __launch_bounds__(256) norm_narrow8_kernel(const NormArgs p) { norm_narrow<8>(p); }

// The row sits in shared memory as f32 between the passes.
extern "C" __global__ void __launch_bounds__(256) norm_kernel(const NormArgs p) {
  extern __shared__ float values[];
  __shared__ float scratch[33];
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x;
  const int64_t from = row * p.x_stride, to = row * p.y_stride;
  float sum = 0;
  const bool wide = p.x_type == type_f32 && p.width % 4 == 0 && p.x_stride % 4 == 0 && (reinterpret_cast<uint64_t>(p.x) & 15) == 0;
  if (wide) {
    for (int i = threadIdx.x * 4; i < p.width; i += blockDim.x * 4) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + from + i));
      *reinterpret_cast<float4*>(values + i) = v;
      sum += p.kind == norm_layer ? v.x + v.y + v.z + v.w : v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
  } else {
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
      const float v = load(p.x, p.x_type, from + i);
      values[i] = v;
      sum += p.kind == norm_layer ? v : v * v;
    }
  }
  float mean = 0, inverse = 1;
  if (p.kind != norm_none) {
    sum = block_sum(sum, scratch);
    if (p.kind == norm_layer) {
      mean = sum / p.width;
      sum = 0;
      for (int i = threadIdx.x; i < p.width; i += blockDim.x) { const float d = values[i] - mean; sum += d * d; }
      sum = block_sum(sum, scratch);
    }
    inverse = rsqrtf(sum / p.width + p.epsilon);
  } else {
    __syncthreads();
  }
  if (wide && !p.accumulate && p.y_type != type_f32 && p.y_stride % 4 == 0 && (reinterpret_cast<uint64_t>(p.y) & 7) == 0) {
    for (int i = threadIdx.x * 4; i < p.width; i += blockDim.x * 4) {
      const float4 v = *reinterpret_cast<float4*>(values + i);
      const float4 w = p.kind == norm_none ? make_float4(1, 1, 1, 1) : __ldg(reinterpret_cast<const float4*>(p.weight + i));
      const float4 b = p.bias ? __ldg(reinterpret_cast<const float4*>(p.bias + i)) : make_float4(0, 0, 0, 0);
      const float a0 = (v.x - mean) * inverse * w.x + b.x, a1 = (v.y - mean) * inverse * w.y + b.y;
      const float a2 = (v.z - mean) * inverse * w.z + b.z, a3 = (v.w - mean) * inverse * w.w + b.w;
      const uint2 packed = p.y_type == type_f16 ? make_uint2(pack2<__half>(a0, a1), pack2<__half>(a2, a3))
                                                : make_uint2(pack2<__nv_bfloat16>(a0, a1), pack2<__nv_bfloat16>(a2, a3));
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.y) + to + i) = packed;
    }
    return;
  }
  for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
    float v = (values[i] - mean) * inverse;
    if (p.kind != norm_none) v *= p.weight[i];
    if (p.bias) v += p.bias[i];
    if (p.accumulate) static_cast<float*>(p.y)[to + i] = __ldcg(static_cast<float*>(p.y) + to + i) + v;
    else store(p.y, p.y_type, to + i, v);
  }
}

extern "C" __global__ void __launch_bounds__(256) gate_kernel(const GateArgs p) {
  launch_dependents();
  wait_predecessors();
  const int64_t x = blockIdx.y * p.x_stride, y = blockIdx.y * p.y_stride;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.width; i += gridDim.x * blockDim.x)
    store(p.y, p.type, y + i, activate(load(p.x, p.type, x + i), p.activation) * load(p.x, p.type, x + p.width + i));
}

extern "C" __global__ void __launch_bounds__(256) add_kernel(const AddArgs p) {
  launch_dependents();
  wait_predecessors();
  const int64_t x = blockIdx.y * p.x_stride, y = blockIdx.y * p.y_stride;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.width; i += gridDim.x * blockDim.x)
    p.y[y + i] = __ldcg(p.y + y + i) + load(p.x, p.x_type, x + i);
}

extern "C" __global__ void __launch_bounds__(256) gather_kernel(const GatherArgs p) {
  launch_dependents();
  wait_predecessors();
  const int from = __ldcg(p.index + blockIdx.y);
  const int64_t x = from * p.x_stride, y = blockIdx.y * p.y_stride;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.width; i += gridDim.x * blockDim.x)
    store(p.y, p.y_type, y + i, from < 0 ? 0.f : load(p.x, p.x_type, x + i));
}

// Rows to int8 with one scale each, after an optional norm; columns from width to width_padded are zero.
extern "C" __global__ void __launch_bounds__(256) quantize_rows_kernel(const QuantizeArgs p) {
  extern __shared__ float values[];
  __shared__ float scratch[33];
  launch_dependents();
  wait_predecessors();
  const int row = blockIdx.x;
  const int64_t from = row * p.x_stride;
  float sum = 0;
  for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
    const float v = load(p.x, p.x_type, from + i);
    values[i] = v;
    sum += p.norm == norm_layer ? v : v * v;
  }
  if (p.norm != norm_none) {
    float mean = 0;
    sum = block_sum(sum, scratch);
    if (p.norm == norm_layer) {
      mean = sum / p.width;
      sum = 0;
      for (int i = threadIdx.x; i < p.width; i += blockDim.x) { const float d = values[i] - mean; sum += d * d; }
      sum = block_sum(sum, scratch);
    }
    const float inverse = rsqrtf(sum / p.width + p.epsilon);
    for (int i = threadIdx.x; i < p.width; i += blockDim.x)
      values[i] = (values[i] - mean) * inverse * p.norm_weight[i] + (p.norm_bias ? p.norm_bias[i] : 0.f);
  }
  // The rule of kernels/cpu/scalar.h: scale = amax / 127, q = round to even of x * (127 / amax).
  float inverse = p.static_scale > 0 ? __fdiv_rn(1.f, p.static_scale) : 0.f;
  if (p.static_scale <= 0) {
    float largest = 0;
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) largest = fmaxf(largest, fabsf(values[i]));
    largest = block_max(largest, scratch);
    inverse = largest > 1e-36f ? __fdiv_rn(127.f, largest) : 0.f;
    if (threadIdx.x == 0) p.scale[row] = largest > 1e-36f ? __fdiv_rn(largest, 127.f) : 0.f;
  }
  for (int i = threadIdx.x; i < p.width_padded; i += blockDim.x) {
    const float v = i < p.width ? values[i] * inverse : 0.f;
    p.q[static_cast<int64_t>(row) * p.width_padded + i] = static_cast<int8_t>(fminf(fmaxf(rintf(v), -127.f), 127.f));
  }
}
