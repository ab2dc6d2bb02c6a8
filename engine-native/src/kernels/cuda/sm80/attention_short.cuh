// Decode attention of short contexts: a small block for every (sequence, tile of up to 8 query heads of a KV head), several on
// a multiprocessor where there are many, or a cluster of blocks (sm_90) where there are fewer pairs than multiprocessors.
// No plan and little code, which the step's other kernels have driven out of the caches when it starts: all that does not
// depend on the step (history, the row's place and turns) is under way before the wait for the kernel before; after it come
// queries, products and one meeting, to which every warp sends what it has at once: through shared memory, or by st.async
// to the block of the cluster that stores those outputs. Blocks end when they end, and the next take their places.
//
// Whatever the contexts are, the result is right; long ones of few sequences attention_decode.cuh shares out better.
// The pieces (queries, products, copies) are that kernel's.
#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/sm80/attention_single.cuh"
#include "kernels/cuda/sm80/decode_program_ring.cuh"

namespace hearth::kernels::cuda {

// Of a block at most, and blocks of so many on a multiprocessor. 96 registers a thread: eight warps stand beside a block of the chain.
constexpr int short_warps = 4, short_resident = 5;

// ---- Blocks of a cluster (sm_90; elsewhere a pair has one block) ------------------------------------------------------------

// 16 or 8 bytes to `address` of a block, counted by the barrier there.
__device__ __forceinline__ void cluster_send(uint32_t address, uint32_t barrier, int rank, float4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%2, %3, %4, %5}, [%1];"
      ::"r"(address_in(address, rank)), "r"(address_in(barrier, rank)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
#endif
}
__device__ __forceinline__ void cluster_send(uint32_t address, uint32_t barrier, int rank, float2 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%2, %3}, [%1];"
      ::"r"(address_in(address, rank)), "r"(address_in(barrier, rank)), "f"(v.x), "f"(v.y) : "memory");
#endif
}

__device__ __forceinline__ uint32_t dynamic_shared_bytes() {
  uint32_t bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  return bytes;
}

// ---- Where the parts of a pair meet ------------------------------------------------------------------------------------------

// A block's inbox: of every writer (warp of the cluster) the share of its sums that this block stores, every ranks-th four of
// [live heads][DP], then best and total of every head.
template <int DP> struct ShortInbox {
  float* const at;
  uint64_t* const arrived;
  const int ranks, rank, live, writers;

  __device__ __forceinline__ int fours() const { return live * DP / 4 / ranks; }  // ranks divides DP / 4
  __device__ __forceinline__ int pitch() const { return fours() * 4 + (live * 2 + 3) / 4 * 4; }
  __device__ __forceinline__ float* of(int writer) const { return at + writer * pitch(); }
  __device__ __forceinline__ int bytes() const { return writers * (fours() * 16 + live * 8); }

  // By a warp: what it left in `partial` (keep_partial), to all blocks.
  __device__ __forceinline__ void send(int writer, const float* partial) const {
    constexpr int pitch_of_head = DP + decode_partial_pad;
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < live * DP / 4; i += 32) {
      const float4 v = *reinterpret_cast<const float4*>(partial + i / (DP / 4) * pitch_of_head + i % (DP / 4) * 4);
      float* to = of(writer) + i / ranks * 4;
      if (ranks == 1) *reinterpret_cast<float4*>(to) = v;
      else cluster_send(shared_address(to), shared_address(arrived), i % ranks, v);
    }
    for (int i = lane; i < live * ranks; i += 32) {
      const float2 v = *reinterpret_cast<const float2*>(partial + i / ranks * pitch_of_head + DP);
      float* to = of(writer) + fours() * 4 + i / ranks * 2;
      if (ranks == 1) *reinterpret_cast<float2*>(to) = v;
      else cluster_send(shared_address(to), shared_address(arrived), i % ranks, v);
    }
  }
  __device__ __forceinline__ void wait() const {
    if (ranks == 1) __syncthreads();
    else barrier_wait(shared_address(arrived), 0);
  }
  // The block's share of the outputs, two a thread at a time.
  template <class T> __device__ __forceinline__ void store(const AttentionArgs& p, int row, int first_head) const {
    for (int i = threadIdx.x; i < fours() * 2; i += blockDim.x) {
      const int four = i / 2 * ranks + rank, head = four / (DP / 4), dim = four % (DP / 4) * 4 + i % 2 * 2;
      float top = -INFINITY, total = 0;
      float2 value = make_float2(0, 0);
      for (int w = 0; w < writers; ++w) top = fmaxf(top, of(w)[fours() * 4 + head * 2]);
#pragma unroll 4
      for (int w = 0; w < writers; ++w) {
        const float2 of_part = *reinterpret_cast<const float2*>(of(w) + fours() * 4 + head * 2), v = *reinterpret_cast<const float2*>(of(w) + i * 2);
        const float weight = exp2_fast(of_part.x - top);
        total += weight * of_part.y;
        value.x += weight * v.x;
        value.y += weight * v.y;
      }
      const float inverse = __fdividef(1.f, total);
      if (dim < p.head_dim)
        *reinterpret_cast<uint32_t*>(static_cast<T*>(p.out) + row * p.out_stride + static_cast<int64_t>(first_head + head) * p.head_dim + dim) = pack2<T>(value.x * inverse, value.y * inverse);
    }
  }
};

// ---- A pair --------------------------------------------------------------------------------------------------------------------

// The history of a warp: KV blocks writer, writer + step, ... of the pair's, by a ring. WHOLE: heads are DP wide.
template <bool INT8, int DP, bool WHOLE> struct ShortHistory {
  using L = DecodeLayout<INT8, DP>;
  const AttentionArgs& p;
  const int sequence, kv_head, first_block, blocks, writer, step;  // blocks: of the context, from first_block on
  const uint32_t ring, scales;
  int ids;           // a lane's KV block: this warp's 32 from a multiple of 32 on
  int slot = 0;      // the next to be read, and then loaded

  __device__ __forceinline__ bool has(int i) const { return writer + i * step < blocks; }
  __device__ __forceinline__ bool has_last() const { return writer < blocks && (blocks - 1 - writer) % step == 0; }
  __device__ __forceinline__ int token_of(int i) const { return (first_block + writer + i * step) * kv_tokens; }
  __device__ __forceinline__ uint32_t tile() const { return ring + slot * L::stage_bytes; }
  __device__ __forceinline__ uint32_t tile_scales() const { return scales + slot * L::scale_bytes; }
  // A lane's id in the sequence's table from `at` on. Needs no context: what lies behind its end is not used.
  static __device__ __forceinline__ int id_from(const AttentionArgs& p, int sequence, int at, int step) {
    at += static_cast<int>(threadIdx.x % 32) * step;
    return at < p.block_table_stride ? __ldcg(p.block_table + static_cast<int64_t>(sequence) * p.block_table_stride + at) : 0;
  }
  // The i-th, if there is one, to the slot, and on to the next slot.
  __device__ __forceinline__ void load(int i) {
    if (has(i)) {
      if (i % 32 == 0 && i > 0) ids = id_from(p, sequence, first_block + writer + i * step, step);
      const int id = __shfl_sync(0xffffffffu, ids, i % 32);
      if constexpr (WHOLE) copy_whole_block<INT8, DP>(p, tile(), tile_scales(), static_cast<uint32_t>(id) * p.kv_heads + kv_head);
      else copy_block<INT8, DP>(p, tile(), tile_scales(), (static_cast<int64_t>(id) * p.kv_heads + kv_head) * kv_tokens);
    }
    copy_commit();
    if (++slot == p.stages) slot = 0;
  }
};

// Grid: p.splits blocks for every head tile of every sequence; what is more than that only keeps its place (see the host).
template <class T, bool INT8, int DP, class Products = DecodeProducts<T, INT8, DP>, bool WHOLE = false>
__device__ __forceinline__ void attention_short(const AttentionArgs& p) {
  using L = DecodeLayout<INT8, DP>;
  extern __shared__ __align__(1024) char memory[];
  if (p.releases_early) launch_dependents();
  const DecodeHeads heads(p);
  const int ranks = p.splits, rank = blockIdx.x % ranks, pair = blockIdx.x / ranks, sequence = pair / heads.tiles, tile = pair % heads.tiles, row = sequence;
  if (sequence >= p.sequences) return wait_predecessors();
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, writer = warp * ranks + rank;
  const int ring_bytes = p.stages * L::stage_bytes, scale_bytes = p.stages * L::scale_bytes, scratch_bytes = DecodeScratch<INT8, DP>::bytes_without_parts(heads.most());
  char* own = memory + warps * (ring_bytes + scale_bytes);
  const DecodeScratch<INT8, DP> scratch{own + warp * scratch_bytes, reinterpret_cast<float*>(memory + warp * ring_bytes), heads.most()};

  // The context, the table and the row's own, all asked for at once. Only with a window does the table wait for the context.
  const int context = __ldcg(p.context + sequence);
  int first = 0, ids;
  if (p.window > 0) {
    first = max(0, context - p.window);
    ids = ShortHistory<INT8, DP, WHOLE>::id_from(p, sequence, first / kv_tokens + writer, warps * ranks);
  } else {
    ids = ShortHistory<INT8, DP, WHOLE>::id_from(p, sequence, writer, warps * ranks);
  }
  DecodeQueries<T, INT8, DP> queries{p, heads, scratch, (WHOLE || p.head_dim == DP) && (p.rope_dims == 0 || p.rope_dims == DP)};
  queries.ask_row(row);
  const int first_block = first / kv_tokens;
  ShortHistory<INT8, DP, WHOLE> history{p, sequence, heads.kv(tile), first_block, (context + kv_tokens - 1) / kv_tokens - first_block, writer, warps * ranks,
                                 shared_address(memory) + warp * ring_bytes, shared_address(memory) + warps * ring_bytes + warp * scale_bytes, ids};
  uint64_t& arrived = *reinterpret_cast<uint64_t*>(memory + dynamic_shared_bytes() - 16);  // behind the inbox
  const ShortInbox<DP> inbox{reinterpret_cast<float*>(own + warps * scratch_bytes), &arrived, ranks, rank, heads.live(tile), min(warps * ranks, history.blocks)};
  if (ranks > 1) {
    if (threadIdx.x == 0) {
      barrier_init(shared_address(&arrived), 1);
      barrier_expect(shared_address(&arrived), inbox.bytes());
    }
    barriers_initialised();
    cluster_arrive_relaxed();
  }
#pragma unroll 1
  for (int i = 0; i < p.stages; ++i) history.load(i);
  queries.make_row();
  if (ranks > 1) cluster_wait();
  wait_predecessors();
  if (context == 0) {  // an empty slot of a bucket
    for (int i = threadIdx.x; rank == 0 && i < heads.live(tile) * p.head_dim; i += blockDim.x) static_cast<T*>(p.out)[row * p.out_stride + heads.first(tile) * p.head_dim + i] = from_float<T>(0.f);
    return;
  }
  // Whole heads are prepared once for all warps, a head a warp at a time.
  const char* prepared = scratch.q();
  if (queries.whole_heads) {
    const int last = (history.blocks - 1) % (warps * ranks);  // who has the last token
    const DecodeScratch<INT8, DP> common{own, nullptr, heads.most()}, its{own + last / ranks * scratch_bytes, nullptr, heads.most()};
    queries.prepare_share(row, tile, last % ranks == rank && queries.slot_of_row >= 0, warp, warps, common.q(), its.fresh());
    queries.fresh = history.has_last() && queries.slot_of_row >= 0;
    prepared = common.q();
    __syncthreads();
  }
  if (history.has(0)) {
    Products products;
    if (!queries.whole_heads) queries.prepare_alone(row, tile, history.has_last());
    products.begin(prepared, heads.live(tile), p.scale, scratch.x());
#pragma unroll 1
    for (int i = 0; history.has(i); ++i) {
      copy_wait_for(p.stages - 1);
      __syncwarp();
      attend_block(queries, products, history.tile(), history.tile_scales(), history.token_of(i), first, context - 1);
      __syncwarp();
      history.load(i + p.stages);
    }
    keep_partial(products, heads.live(tile), scratch.last);
    __syncwarp();
    inbox.send(writer, scratch.last);
  }
  inbox.wait();
  inbox.template store<T>(p, row, heads.first(tile));
}

}  // namespace hearth::kernels::cuda
