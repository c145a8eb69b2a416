// Where a query's samples lie and what they weigh: all samples of one query and head at a time, one per vector lane.

// How value rows are addressed.
//   kSlab: one head's rows, contiguous, each level inside a border of zeros: a sample is one offset, its corners follow
//          from the level's stride, and no border needs a test. Worth a copy when there are many queries.
//   kDirect: the tensor itself, four offsets per sample, -1 where the corner is outside.
enum class Layout { kSlab, kDirect };

constexpr int64_t kCachedBytes = int64_t{3} << 19;  // of a level: what the second cache of current processors can keep

template <class Int>
bool offset_fits(int64_t rows, int64_t pitch) {
  return rows <= std::numeric_limits<Int>::max() / pitch;
}

template <class Compute>
struct SampleTable {
  using Int = typename Simd<Compute>::Int;
  int64_t count = 0, padded = 0, points = 0, levels = 0;
  int64_t reference_size = 0;  // of the problem
  int64_t slab_rows = 0, dead_row = 0;
  std::vector<Compute> width, height;           // of each sample's level
  std::vector<Int> first, stride;               // first: of cell (0, 0); stride: from a line to the next; in elements
  std::vector<Int> level_row;                   // of the reference points: level * reference_size
  std::vector<int64_t> level_first_row, level_stride, level_first_token;
  int64_t pitch;        // elements from a cell to the next
  int64_t distant = 0;  // the samples before this one lie in levels too large for a core's own caches

  SampleTable(const Problem& problem, Layout layout, int64_t row_pitch) : pitch(row_pitch) {
    constexpr int lanes = Simd<Compute>::kLanes;
    points = problem.points;
    levels = problem.levels;
    reference_size = problem.reference_size;
    count = levels * points;
    padded = (count + lanes - 1) / lanes * lanes;
    int64_t token = 0, row = 0, longest = 0;
    for (int64_t l = 0; l < levels; ++l) {
      const int64_t h = problem.spatial_shapes[2 * l], w = problem.spatial_shapes[2 * l + 1];
      // The column right of a line is the column left of the next.
      level_stride.push_back(w + 1);
      level_first_row.push_back(row + (w + 1) + 1);
      level_first_token.push_back(token);
      row += (h + 2) * (w + 1) + 1;
      token += h * w;
      longest = std::max(longest, w + 1);
      if (h * w * pitch * static_cast<int64_t>(sizeof(Compute)) > kCachedBytes) distant = (l + 1) * points;
    }
    dead_row = row;
    slab_rows = row + longest + 2;
    if (layout == Layout::kSlab && !offset_fits<Int>(slab_rows, pitch)) {
      throw std::runtime_error("ms_deform_attn: one head of one image exceeds 2^31 elements");
    }
    for (int64_t k = 0; k < padded; ++k) {
      const int64_t l = std::min(k / points, levels - 1);
      height.push_back(static_cast<Compute>(problem.spatial_shapes[2 * l]));
      width.push_back(static_cast<Compute>(problem.spatial_shapes[2 * l + 1]));
      const bool slab = layout == Layout::kSlab;
      first.push_back(static_cast<Int>((slab ? level_first_row[l] : level_first_token[l]) * pitch));
      stride.push_back(static_cast<Int>((slab ? level_stride[l] : problem.spatial_shapes[2 * l + 1]) * pitch));
      level_row.push_back(static_cast<Int>(l * reference_size));
    }
  }
};

template <class Compute>
struct Samples {
  using Int = typename Simd<Compute>::Int;
  Buffer<Compute> memory;
  Buffer<Int> offset_memory;
  Buffer<int64_t> address_memory;
  Int* offset[4];       // of each corner, in elements; slab layout: of the first
  int64_t* address[4];  // of each corner's row; direct layout only
  Compute* corner_weight[4];
  Compute *fraction_x, *fraction_y, *weight;
  Compute *input_xy, *input_weight, *reference;  // padded copies; reference: (component, sample)

  explicit Samples(const SampleTable<Compute>& table)
      : memory(allocate<Compute>(14 * table.padded)), offset_memory(allocate<Int>(4 * table.padded)),
        address_memory(allocate<int64_t>(4 * table.padded)) {
    Compute* next = memory.get();
    const auto take = [&](int64_t arrays) {
      Compute* array = next;
      next += arrays * table.padded;
      return array;
    };
    for (int c = 0; c < 4; ++c) {
      corner_weight[c] = take(1);
      offset[c] = offset_memory.get() + c * table.padded;
      address[c] = address_memory.get() + c * table.padded;
    }
    fraction_x = take(1);
    fraction_y = take(1);
    weight = take(1);
    input_xy = take(2);
    input_weight = take(1);
    reference = take(4);
    std::fill_n(input_xy, 2 * table.padded, Compute(0));
    std::fill_n(address_memory.get(), 4 * table.padded, int64_t{0});  // of a head that never comes: requested in vain
  }
};

// Direct layout: samples of the head at hand and of the next ones, whose rows are requested ahead of their use. Two
// heads ahead cover the way to memory; three gained nothing more.
constexpr int64_t kAhead = 2;

template <class Compute>
std::array<Samples<Compute>, 3> three_samples(const SampleTable<Compute>& table) {
  return {Samples<Compute>(table), Samples<Compute>(table), Samples<Compute>(table)};
}

template <class Compute>
std::array<Samples<Compute>, 4> four_samples(const SampleTable<Compute>& table) {
  return {Samples<Compute>(table), Samples<Compute>(table), Samples<Compute>(table), Samples<Compute>(table)};
}

// One query's inputs; reference is null unless fused.
template <class Compute>
struct QueryInputs {
  const Compute* xy;
  const Compute* weight;
  const Compute* reference;
};

template <class Compute>
QueryInputs<Compute> query_inputs(const Problem& problem, int64_t b, int64_t q, int64_t n) {
  const int64_t query = b * problem.queries + q;
  const int64_t row = (query * problem.heads + n) * problem.levels * problem.points;
  const auto* reference = static_cast<const Compute*>(problem.reference);
  return {static_cast<const Compute*>(problem.samples) + 2 * row, static_cast<const Compute*>(problem.weights) + row,
          problem.reference_size == 0 ? nullptr : reference + query * problem.levels * problem.reference_size};
}

template <class Compute>
DETREX_INLINE void prefetch_inputs(const QueryInputs<Compute>& inputs, int64_t count) {
  const auto touch = [](const Compute* data, int64_t length) {
    const auto* bytes = reinterpret_cast<const char*>(data);
    for (int64_t k = 0; k < length * static_cast<int64_t>(sizeof(Compute)); k += 64) __builtin_prefetch(bytes + k);
  };
  touch(inputs.xy, 2 * count);
  touch(inputs.weight, count);
}

template <class Compute>
DETREX_INLINE void softmax(const SampleTable<Compute>& table, const Compute* logits, Compute* weights) {
  using S = Simd<Compute>;
  auto largest = S::load(logits);
  for (int64_t k = S::kLanes; k < table.padded; k += S::kLanes) largest = S::max(largest, S::load(logits + k));
  const Compute maximum = horizontal_max<Compute>(largest);
  typename S::V sums{};
  for (int64_t k = 0; k < table.padded; k += S::kLanes) {
    const auto power = exp_nonpositive(S::load(logits + k) - maximum);
    S::store(weights + k, power);
    sums += power;
  }
  const Compute scale = Compute(1) / horizontal_sum<Compute>(sums);
  for (int64_t k = 0; k < table.padded; k += S::kLanes) S::store(weights + k, S::load(weights + k) * scale);
}

// reference_size 0: xy are locations. 2: xy are offsets in cells. 4: in units of half the box over the points.
template <Layout layout, int reference_size, class Compute>
DETREX_INLINE void prepare_with(const SampleTable<Compute>& table, const QueryInputs<Compute>& inputs,
                                Samples<Compute>& samples) {
  using S = Simd<Compute>;
  using X = Shuffles<Compute>;
  using V = typename S::V;
  using I = typename S::I;
  const Compute* xy = inputs.xy;
  const Compute* weights = inputs.weight;
  if (table.count != table.padded) {
    std::copy_n(xy, 2 * table.count, samples.input_xy);
    std::copy_n(weights, table.count, samples.input_weight);
    std::fill(samples.input_weight + table.count, samples.input_weight + table.padded,
              reference_size == 0 ? Compute(0) : -std::numeric_limits<Compute>::infinity());
    xy = samples.input_xy;
    weights = samples.input_weight;
  }
  if constexpr (reference_size != 0) {
    softmax(table, weights, samples.weight);
    weights = samples.weight;
    for (int64_t k = 0; k < table.padded; k += S::kLanes) {
      for (int c = 0; c < reference_size; ++c) {
        const auto* row = table.level_row.data() + k;
        S::store(samples.reference + c * table.padded + k, X::collect(inputs.reference + c, row));
      }
    }
  }
  for (int64_t k = 0; k < table.padded; k += S::kLanes) {
    const V first = S::load(xy + 2 * k), second = S::load(xy + 2 * k + S::kLanes);
    V x = X::even(first, second), y = X::odd(first, second);
    const V width = S::load(table.width.data() + k), height = S::load(table.height.data() + k);
    if constexpr (reference_size == 0) {
      x = x * width - Compute(0.5);
      y = y * height - Compute(0.5);
    } else {
      const auto component = [&](int c) { return S::load(samples.reference + c * table.padded + k); };
      if constexpr (reference_size == 2) {
        x += component(0) * width - Compute(0.5);
        y += component(1) * height - Compute(0.5);
      } else {
        const Compute unit = Compute(0.5) / static_cast<Compute>(table.points);
        x = (component(0) + x * (component(2) * unit)) * width - Compute(0.5);
        y = (component(1) + y * (component(3) * unit)) * height - Compute(0.5);
      }
    }
    const I inside = (x >= Compute(-1)) & (x < width) & (y >= Compute(-1)) & (y < height);
    const V zero{};
    const V safe_x = inside ? x : zero, safe_y = inside ? y : zero;
    I column = S::to_int(safe_x), line = S::to_int(safe_y);
    column += S::to_float(column) > safe_x;
    line += S::to_float(line) > safe_y;
    // Outside: 0 for a finite position, NaN for any other, so that the latter shows in the output.
    const V fraction_x = inside ? safe_x - S::to_float(column) : x - x;
    const V fraction_y = inside ? safe_y - S::to_float(line) : y - y;
    const V weight = S::load(weights + k);
    const V right = fraction_x * weight, left = weight - right;
    S::store(samples.corner_weight[0] + k, left * (Compute(1) - fraction_y));
    S::store(samples.corner_weight[1] + k, right * (Compute(1) - fraction_y));
    S::store(samples.corner_weight[2] + k, left * fraction_y);
    S::store(samples.corner_weight[3] + k, right * fraction_y);
    S::store(samples.fraction_x + k, fraction_x);
    S::store(samples.fraction_y + k, fraction_y);
    S::store(samples.weight + k, weight);
    const I stride = S::load_int(table.stride.data() + k);
    const I step = I{} + static_cast<typename S::Int>(table.pitch);
    const I offset = S::load_int(table.first.data() + k) + line * stride + column * step;
    if constexpr (layout == Layout::kSlab) {
      const I dead = I{} + static_cast<typename S::Int>(table.dead_row * table.pitch);
      S::store_int(samples.offset[0] + k, inside ? offset : dead);
    } else {
      const I outside = I{} - 1;
      const I has_left = inside & (column >= 0), has_right = inside & (S::to_float(column + 1) < width);
      const I has_top = line >= 0, has_bottom = S::to_float(line + 1) < height;
      S::store_int(samples.offset[0] + k, has_left & has_top ? offset : outside);
      S::store_int(samples.offset[1] + k, has_right & has_top ? offset + step : outside);
      S::store_int(samples.offset[2] + k, has_left & has_bottom ? offset + stride : outside);
      S::store_int(samples.offset[3] + k, has_right & has_bottom ? offset + stride + step : outside);
    }
  }
}

// A call for each query and head, not inlined: inlined, every loop over rows would be compiled for each reference size.
template <Layout layout, class Compute>
DETREX_SHARED void prepare(const SampleTable<Compute>& table, const QueryInputs<Compute>& inputs,
                           Samples<Compute>& samples) {
  switch (table.reference_size) {
    case 0: return prepare_with<layout, 0>(table, inputs, samples);
    case 2: return prepare_with<layout, 2>(table, inputs, samples);
    default: return prepare_with<layout, 4>(table, inputs, samples);
  }
}

// Rows of one head, in a slab or in the tensor.
template <class Row>
struct Rows {
  Row* data;
  Row* outside;  // stands for a corner outside the level; direct layout only
};

// Direct layout: offsets to addresses.
template <class Row, class Compute>
DETREX_INLINE void resolve(const Rows<Row>& rows, const SampleTable<Compute>& table, Samples<Compute>& samples) {
  using Int = typename Simd<Compute>::Int;
  constexpr int half = kVectorBytes / 8;
  typedef int64_t Addresses __attribute__((vector_size(kVectorBytes)));
  typedef Int Offsets __attribute__((vector_size(half * sizeof(Int))));
  const Addresses data = Addresses{} + reinterpret_cast<int64_t>(rows.data);
  const Addresses outside = Addresses{} + reinterpret_cast<int64_t>(rows.outside);
  for (int c = 0; c < 4; ++c) {
    for (int64_t k = 0; k < table.padded; k += half) {
      Offsets narrow;
      std::memcpy(&narrow, samples.offset[c] + k, sizeof(narrow));
      const Addresses offset = __builtin_convertvector(narrow, Addresses);
      const Addresses address = offset < 0 ? outside : data + offset * static_cast<int64_t>(sizeof(Row));
      std::memcpy(samples.address[c] + k, &address, sizeof(address));
    }
  }
}

// Direct layout: a request for part of the four rows of a sample, and for what lies `distance` behind them, if anything.
template <class Compute>
DETREX_INLINE void prefetch_rows(const Samples<Compute>& samples, int64_t k, int64_t first_byte, int64_t bytes,
                                 int64_t distance = 0) {
  for (int c = 0; c < 4; ++c) {
    const char* row = reinterpret_cast<const char*>(samples.address[c][k] + first_byte);
    const char* target = reinterpret_cast<const char*>(samples.address[c][k] + first_byte + distance);
    for (int64_t byte = 0; byte < bytes; byte += 64) {
      __builtin_prefetch(row + byte);
      if (distance != 0) __builtin_prefetch(target + byte, 1);
    }
  }
}

template <Layout layout, class Row, class Compute>
DETREX_INLINE void corners(const Rows<Row>& rows, const SampleTable<Compute>& table, const Samples<Compute>& samples,
                           int64_t k, Row* (&corner)[4]) {
  if constexpr (layout == Layout::kSlab) {
    corner[0] = rows.data + samples.offset[0][k];
    corner[1] = corner[0] + table.pitch;
    corner[2] = corner[0] + table.stride[k];
    corner[3] = corner[2] + table.pitch;
  } else {
    for (int c = 0; c < 4; ++c) corner[c] = reinterpret_cast<Row*>(samples.address[c][k]);
  }
}

// One head's slab: borders once, then its lines [begin, end) counted over all levels.
template <class T, class Compute>
void zero_borders(const SampleTable<Compute>& table, T* slab, int64_t pitch) {
  const auto zero = [&](int64_t row, int64_t rows) {
    std::memset(static_cast<void*>(slab + row * pitch), 0, rows * pitch * sizeof(T));
  };
  for (int64_t l = 0; l < table.levels; ++l) {
    const int64_t stride = table.level_stride[l], origin = table.level_first_row[l];
    const int64_t end = l + 1 < table.levels ? table.level_first_row[l + 1] - table.level_stride[l + 1] - 1 : table.dead_row;
    zero(origin - stride - 1, stride + 1);
    int64_t row = origin + stride - 1;
    for (; row < end - stride - 1; row += stride) zero(row, 1);
    zero(end - stride - 1, stride + 1);
  }
  zero(table.dead_row, table.slab_rows - table.dead_row);
}

template <class T>
void fill_slab_lines(const Problem& problem, const SampleTable<typename Element<T>::Compute>& table, int64_t head,
                     T* slab, int64_t pitch, int64_t begin, int64_t end) {
  const int64_t b = head / problem.heads, n = head % problem.heads;
  const int64_t step = problem.heads * problem.channels;
  const T* value = static_cast<const T*>(problem.value) + b * problem.tokens * step + n * problem.channels;
  int64_t line = 0;
  for (int64_t l = 0; l < table.levels; ++l) {
    const int64_t h = problem.spatial_shapes[2 * l], w = problem.spatial_shapes[2 * l + 1];
    for (int64_t y = std::max<int64_t>(begin - line, 0); y < std::min(end - line, h); ++y) {
      const T* source = value + (table.level_first_token[l] + y * w) * step;
      T* target = slab + (table.level_first_row[l] + y * table.level_stride[l]) * pitch;
      for (int64_t x = 0; x < w; ++x, source += step, target += pitch) {
        std::memcpy(static_cast<void*>(target), source, problem.channels * sizeof(T));
        for (int64_t d = problem.channels; d < pitch; ++d) target[d] = T{};
      }
    }
    line += h;
  }
}

inline int64_t total_lines(const Problem& problem) {
  int64_t lines = 0;
  for (int64_t l = 0; l < problem.levels; ++l) lines += problem.spatial_shapes[2 * l];
  return lines;
}
