// The parts of hearth-gpu-bench about many rows: vision towers, and dense linears alone at each tile width. Included by
// gpu_bench.cpp inside its namespace, after its helpers.
//   --what vit     SigLIP-400M/14 at 384 and CLIP ViT-L/14 at 336, one image and eight
//   --what cuts    forms of linear_stream on the towers' linears (hopper_forced_stream), each alone, 24 in a graph
//   --what dense   FP16 and W8A8 linears of the 7B shape at 512 and 2,048 rows, and of the towers

// ---- Vision towers ----

struct TowerShape { const char* name; int tokens, width, heads, dim, ffn, layers; Activation activation; };
const TowerShape towers[] = {{"clip-vit-l/14-336", 577, 1024, 16, 64, 4096, 24, Activation::quick_gelu}, {"siglip-400m/14-384", 729, 1152, 16, 72, 4304, 27, Activation::gelu_tanh}};

struct Tower {
  TowerShape s;
  int images;
  Linear qkv, o, up, down;
  VisionAttentionSpec attention;
  const Implementation<VisionAttentionSpec, VisionAttentionParams>* attend;
  float *x, *norm, *bias;
  void *a, *b, *workspace;
  int32_t* segment;
  std::vector<int32_t> host_segment;

  LinearSpec linear(int in, int out, bool normed, Activation activation) {
    LinearSpec l;
    l.in = in; l.out = out; l.weight = WeightFormat::f16; l.bias = true; l.activation = activation;
    l.x_type = normed ? DType::f32 : DType::f16; l.residual = !normed; l.y_type = normed ? DType::f16 : DType::f32;
    l.norm = normed ? NormKind::layer : NormKind::none; l.norm_epsilon = 1e-6f;
    return l;
  }
  Tower(const TowerShape& shape, int images_at_once) : s(shape), images(images_at_once) {
    qkv.make(linear(s.width, 3 * s.heads * s.dim, true, Activation::none), s.layers);
    o.make(linear(s.heads * s.dim, s.width, false, Activation::none), s.layers);
    up.make(linear(s.width, s.ffn, true, s.activation), s.layers);
    down.make(linear(s.ffn, s.width, false, Activation::none), s.layers);
    attention = {s.heads, s.dim, 1 / std::sqrt(static_cast<float>(s.dim)), DType::f16, false};
    attend = pick(kernels::cuda::vision_attention_implementations(), attention);
    const int rows = s.tokens * images;
    const size_t widest = static_cast<size_t>(std::max(3 * s.heads * s.dim, s.ffn));
    x = static_cast<float*>(take(static_cast<size_t>(rows) * s.width * 4));
    std::vector<float> start(static_cast<size_t>(rows) * s.width), ones(widest, 1.f), small(widest, 0.01f);
    for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<float>(static_cast<int>(i * 2654435761u >> 20) % 200 - 100) / 100;
    need(gpu->upload(x, start.data(), start.size() * 4));
    norm = static_cast<float*>(take(widest * 4)); need(gpu->upload(norm, ones.data(), widest * 4));
    bias = static_cast<float*>(take(widest * 4)); need(gpu->upload(bias, small.data(), widest * 4));
    a = take(rows * widest * 2); b = take(rows * widest * 2);
    size_t scratch = 256;
    for (const Linear* l : {&qkv, &o, &up, &down}) scratch = std::max(scratch, l->implementation->workspace_bytes ? l->implementation->workspace_bytes(l->spec, rows, gpu->info()) : 0);
    workspace = take(scratch);
    for (int i = 0; i <= images; ++i) host_segment.push_back(i * s.tokens);
    segment = static_cast<int32_t*>(take(host_segment.size() * 4));
    need(gpu->upload(segment, host_segment.data(), host_segment.size() * 4));
    need(gpu->stream().synchronize());
  }
  void run(const Linear& l, int layer, const void* from, void* to) {
    LinearParams p;
    p.rows = s.tokens * images; p.x = from; p.x_stride = l.spec.in; p.norm_weight = norm; p.norm_bias = bias; p.weight = l.weights[layer];
    p.bias = bias; p.y = to; p.y_stride = l.spec.out; p.workspace = workspace;
    l.implementation->run(l.spec, p, gpu->stream());
  }
  // parts: 1 qkv, 2 attention, 4 o, 8 up, 16 down
  void layers(int parts) {
    const int width = s.heads * s.dim;
    for (int i = 0; i < s.layers; ++i) {
      if (parts & 1) run(qkv, i, x, a);
      if (parts & 2) attend->run(attention, {s.tokens * images, images, s.tokens, segment, host_segment.data(), nullptr, nullptr, a, 3 * width, b, width, workspace}, gpu->stream());
      if (parts & 4) run(o, i, b, x);
      if (parts & 8) run(up, i, x, a);
      if (parts & 16) run(down, i, a, x);
    }
  }
  double operations() const {
    const double rows = static_cast<double>(s.tokens) * images, inner = s.heads * s.dim;
    return s.layers * (2 * rows * (4 * s.width * inner + 2.0 * s.width * s.ffn) + 4 * rows * s.tokens * inner);
  }
};

void bench_towers(double tflop_s) {
  for (const TowerShape& shape : towers)
    for (int images : {1, 8}) {
      Tower tower(shape, images);
      const double us = median_us([&] { tower.layers(31); }, 60);
      std::printf("vit %s images %d: %.3f ms, %.0f TFLOP/s, %.2f of the measured %.0f\n", shape.name, images, us / 1e3, tower.operations() / us / 1e6, tower.operations() / us / 1e6 / tflop_s, tflop_s);
      const char* names[] = {"qkv", "attention", "o", "up", "down"};
      for (int part = 0; part < 5; ++part) std::printf("  %s %.1f us", names[part], median_us([&] { tower.layers(1 << part); }, 15) / shape.layers);
      std::printf(" a layer\n");
      std::fflush(stdout);
    }
}

// ---- Dense linears alone ----

struct DenseShape { const char* name; int in, out, rows; };

void bench_dense_shape(const DenseShape& shape, bool int8, const std::vector<int>& widths) {
  LinearSpec l;
  l.in = shape.in; l.out = shape.out; l.weight = int8 ? WeightFormat::w8 : WeightFormat::f16; l.x_type = l.y_type = DType::f16;
  if (int8) l.activations = ActivationFormat::int8_row;
  Linear linear;
  linear.make(l, 4);
  std::vector<uint16_t> noise(static_cast<size_t>(shape.rows) * shape.in);
  std::mt19937 random(11);
  for (auto& v : noise) v = to_half((static_cast<int>(random() % 2001) - 1000) * 1e-3f).bits;
  void* x = take(noise.size() * 2);
  need(gpu->upload(x, noise.data(), noise.size() * 2));
  void* y = take(static_cast<size_t>(shape.rows) * shape.out * 4);
  void* workspace = take(linear.implementation->workspace_bytes(l, shape.rows, gpu->info()) + 256);
  std::printf("dense %s %-7s %5d x %5d -> %5d:", int8 ? "w8a8" : "f16 ", shape.name, shape.rows, shape.in, shape.out);
  for (int width : widths) {
    kernels::cuda::hopper_forced_columns() = width;
    const double us = median_us([&] { for (int i = 0; i < 4; ++i) linear.run(i, shape.rows, x, shape.in, y, shape.out, nullptr, workspace); }, 20) / 4;
    std::printf("  n%d %.1f us %.0f T", width, us, 2.0 * shape.in * shape.out * shape.rows / us / 1e6);
  }
  kernels::cuda::hopper_forced_columns() = 0;
  std::printf("\n");
  std::fflush(stdout);
  for (void* w : linear.weights) gpu->release(w);
  for (void* p : {x, y, workspace}) gpu->release(p);
}

void bench_dense() {
  std::vector<DenseShape> shapes;
  for (int rows : {512, 2048})
    for (const DenseShape& s : {DenseShape{"qkv", 4096, 12288, 0}, {"o", 4096, 4096, 0}, {"up", 4096, 22016, 0}, {"down", 11008, 4096, 0}}) shapes.push_back({s.name, s.in, s.out, rows});
  shapes.push_back({"square", 8192, 8192, 8192});
  for (const DenseShape& s : shapes)
    for (bool int8 : {false, true}) bench_dense_shape(s, int8, {256, 128, 256, 128});
  for (int rows : {577, 729, 4616, 5832}) {
    const bool clip = rows % 577 == 0;
    const int width = clip ? 1024 : 1152, ffn = clip ? 4096 : 4304;
    for (const DenseShape& s : {DenseShape{"qkv", width, 3 * width, rows}, {"o", width, width, rows}, {"up", width, ffn, rows}, {"down", ffn, width, rows}}) bench_dense_shape(s, false, {0, 64, 128, 192, 256});
  }
}

// ---- Forms of a linear ----

// As in a tower: bias everywhere, an activation or a residual where there is one; the norm before it is not counted.
void bench_cut_shape(const DenseShape& shape, bool residual, Activation activation, const std::vector<int>& forms) {
  constexpr int copies = 24;
  LinearSpec l;
  l.in = shape.in; l.out = shape.out; l.x_type = DType::f16; l.bias = true; l.activation = activation; l.residual = residual;
  l.y_type = residual ? DType::f32 : DType::f16;
  Linear linear;
  linear.make(l, copies);
  std::vector<uint16_t> noise(static_cast<size_t>(shape.rows) * shape.in);
  std::mt19937 random(11);
  for (auto& v : noise) v = to_half((static_cast<int>(random() % 2001) - 1000) * 1e-3f).bits;
  void* x = take(noise.size() * 2);
  need(gpu->upload(x, noise.data(), noise.size() * 2));
  void* y = take(static_cast<size_t>(shape.rows) * shape.out * 4);
  need(gpu->fill_zero(y, static_cast<size_t>(shape.rows) * shape.out * 4));
  void* bias = take(static_cast<size_t>(shape.out) * 4);
  need(gpu->fill_zero(bias, static_cast<size_t>(shape.out) * 4));
  void* workspace = take(linear.implementation->workspace_bytes(l, shape.rows, gpu->info()) + 256);
  std::printf("cuts %-5s %5d x %5d -> %5d:", shape.name, shape.rows, shape.in, shape.out);
  for (int form : forms) {
    kernels::cuda::hopper_forced_stream() = form;
    const double us = median_us([&] {
      for (int i = 0; i < copies; ++i) {
        LinearParams p;
        p.rows = shape.rows; p.x = x; p.x_stride = shape.in; p.weight = linear.weights[i]; p.bias = static_cast<float*>(bias); p.y = y; p.y_stride = shape.out; p.workspace = workspace;
        linear.implementation->run(l, p, gpu->stream());
      }
    }, 8) / copies;
    std::printf("  %d: %.1f", form, us);
  }
  kernels::cuda::hopper_forced_stream() = 0;
  std::printf("\n");
  std::fflush(stdout);
  for (void* w : linear.weights) gpu->release(w);
  for (void* p : {x, y, bias, workspace}) gpu->release(p);
}

void bench_cuts() {
  const std::vector<int> forms = {0, -1, 64, 128, 192, 256, 1256, 1128, 0};
  for (int rows : {577, 729, 4616, 5832}) {
    const bool clip = rows % 577 == 0;
    const int width = clip ? 1024 : 1152, ffn = clip ? 4096 : 4304;
    const Activation activation = clip ? Activation::quick_gelu : Activation::gelu_tanh;
    bench_cut_shape({"qkv", width, 3 * width, rows}, false, Activation::none, forms);
    bench_cut_shape({"up", width, ffn, rows}, false, activation, forms);
    for (const DenseShape& s : {DenseShape{"o", width, width, rows}, {"down", ffn, width, rows}}) {
      bench_cut_shape(s, true, Activation::none, forms);
    }
  }
  for (const DenseShape& s : {DenseShape{"qkv", 4096, 12288, 2048}, {"down", 11008, 4096, 2048}}) bench_cut_shape(s, false, Activation::none, {0, -1, 256, 0});
}
