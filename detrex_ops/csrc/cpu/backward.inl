// Backward. A thread owns one head of one image at a time: its value slab, its gradient slab and its part of the gradients
// of samples and weights, so that nothing is shared, nothing is atomic and sums are in the order of the queries.

template <class Compute>
struct Gradients {
  Buffer<Compute> memory;
  Compute *dot, *xy, *weight, *x, *y;  // dot: (sample, corner), of the output's gradient with the corner's row

  explicit Gradients(const SampleTable<Compute>& table) : memory(allocate<Compute>(9 * table.padded)) {
    dot = memory.get();
    xy = dot + 4 * table.padded;
    weight = xy + 2 * table.padded;
    x = weight + table.padded;
    y = x + table.padded;
    std::fill_n(dot, 4 * table.padded, Compute(0));
  }
};

template <Layout layout, int vectors, class T, class Compute>
DETREX_INLINE void dot_and_scatter(const Rows<const T>& rows, const Rows<Compute>& grad_rows,
                                   const SampleTable<Compute>& table, const Samples<Compute>& samples,
                                   const Samples<Compute>& next, const typename Simd<Compute>::V (&grad)[vectors],
                                   int64_t first_channel, Compute* dots) {
  using S = Simd<Compute>;
  using V = typename S::V;
  // The gradient's rows lie where the value's do, so far away; it has its own row for what falls outside.
  for (int64_t k = 0; k < table.count; ++k) {
    const T* corner[4];
    Compute* grad_corner[4];
    corners<layout>(rows, table, samples, k, corner);
    if constexpr (layout == Layout::kSlab) {
      corners<layout>(grad_rows, table, samples, k, grad_corner);
    } else {
      const int64_t distance = reinterpret_cast<int64_t>(grad_rows.data) - reinterpret_cast<int64_t>(rows.data);
      prefetch_rows(next, k, first_channel * sizeof(T), vectors * S::kLanes * sizeof(T), distance);
      for (int c = 0; c < 4; ++c) {
        grad_corner[c] = corner[c] == rows.outside ? grad_rows.outside
                                                   : reinterpret_cast<Compute*>(samples.address[c][k] + distance);
      }
    }
    V products[4];
    for (int c = 0; c < 4; ++c) {
      V row[vectors];
      load_stored<vectors>(row, corner[c] + first_channel);
      products[c] = row[0] * grad[0];
      for (int j = 1; j < vectors; ++j) products[c] += row[j] * grad[j];
      const Compute weight = samples.corner_weight[c][k];
      Compute* target = grad_corner[c] + first_channel;
      for (int j = 0; j < vectors; ++j) {
        S::store(target + j * S::kLanes, S::load(target + j * S::kLanes) + grad[j] * weight);
      }
    }
    if (first_channel == 0) {
      store_sums<Compute>(dots + 4 * k, products);
    } else {
      Compute more[4];
      store_sums<Compute>(more, products);
      for (int c = 0; c < 4; ++c) dots[4 * k + c] += more[c];
    }
  }
}

// From the corners' dot products to the gradients of weights (or logits) and positions (or offsets), padded.
template <int reference_size, class Compute>
DETREX_INLINE void finish_query_with(const SampleTable<Compute>& table, const Samples<Compute>& samples,
                                     Gradients<Compute>& gradients) {
  using S = Simd<Compute>;
  using X = Shuffles<Compute>;
  using V = typename S::V;
  V expected{};
  for (int64_t k = 0; k < table.padded; k += S::kLanes) {
    const Compute* dot = gradients.dot + 4 * k;
    const V a = S::load(dot), b = S::load(dot + S::kLanes);
    const V c = S::load(dot + 2 * S::kLanes), d = S::load(dot + 3 * S::kLanes);
    const V left_ab = X::even(a, b), left_cd = X::even(c, d), right_ab = X::odd(a, b), right_cd = X::odd(c, d);
    const V top_left = X::even(left_ab, left_cd), bottom_left = X::odd(left_ab, left_cd);
    const V top_right = X::even(right_ab, right_cd), bottom_right = X::odd(right_ab, right_cd);
    const V fx = S::load(samples.fraction_x + k), fy = S::load(samples.fraction_y + k);
    const V weight = S::load(samples.weight + k);
    const V top = top_left + (top_right - top_left) * fx, bottom = bottom_left + (bottom_right - bottom_left) * fx;
    const V sampled = top + (bottom - top) * fy;
    V x = ((top_right - top_left) * (Compute(1) - fy) + (bottom_right - bottom_left) * fy) * weight;
    V y = (bottom - top) * weight;
    if constexpr (reference_size != 2) {  // beside points the offsets are in cells already
      x *= S::load(table.width.data() + k);
      y *= S::load(table.height.data() + k);
    }
    if constexpr (reference_size != 0) {
      S::store(gradients.x + k, x);
      S::store(gradients.y + k, y);
      expected += sampled * weight;
    }
    if constexpr (reference_size == 4) {
      const Compute unit = Compute(0.5) / static_cast<Compute>(table.points);
      x *= S::load(samples.reference + 2 * table.padded + k) * unit;
      y *= S::load(samples.reference + 3 * table.padded + k) * unit;
    }
    S::store(gradients.weight + k, sampled);
    S::store(gradients.xy + 2 * k, X::zip_low(x, y));
    S::store(gradients.xy + 2 * k + S::kLanes, X::zip_high(x, y));
  }
  if constexpr (reference_size != 0) {  // through the softmax
    const Compute mean = horizontal_sum<Compute>(expected);
    for (int64_t k = 0; k < table.padded; k += S::kLanes) {
      S::store(gradients.weight + k, S::load(samples.weight + k) * (S::load(gradients.weight + k) - mean));
    }
  }
}

template <class Compute>
DETREX_SHARED void finish_query(const SampleTable<Compute>& table, const Samples<Compute>& samples,
                                Gradients<Compute>& gradients) {
  switch (table.reference_size) {
    case 0: return finish_query_with<0>(table, samples, gradients);
    case 2: return finish_query_with<2>(table, samples, gradients);
    default: return finish_query_with<4>(table, samples, gradients);
  }
}

template <class Compute>
void sum_reference_gradients(const SampleTable<Compute>& table, const Gradients<Compute>& gradients,
                             const Compute* offsets, Compute* target) {
  const Compute unit = Compute(0.5) / static_cast<Compute>(table.points);
  std::fill_n(target, table.levels * table.reference_size, Compute(0));
  for (int64_t k = 0; k < table.count; ++k) {
    Compute* point = target + table.level_row[k];
    if (table.reference_size == 2) {
      point[0] += gradients.x[k] * table.width[k];
      point[1] += gradients.y[k] * table.height[k];
    } else {
      point[0] += gradients.x[k];
      point[1] += gradients.y[k];
      point[2] += gradients.x[k] * offsets[2 * k] * unit;
      point[3] += gradients.y[k] * offsets[2 * k + 1] * unit;
    }
  }
}

template <class T>
struct Backward {
  using Compute = typename Element<T>::Compute;
  static constexpr int64_t kLanes = Simd<Compute>::kLanes;
  // Direct reading also saves the gradient slab, but the tensor has to be zeroed first.
  static constexpr int64_t kDirectRows = 8;

  static void run(const Problem& problem) {
    if constexpr (std::is_same_v<T, Compute>) {
      const bool whole_rows = Forward<T>::row_vectors(problem) * kLanes == problem.channels;
      const bool fits = offset_fits<typename Simd<Compute>::Int>(problem.tokens, problem.heads * problem.channels);
      const int64_t touched = problem.queries * problem.levels * problem.points * 4;
      if (whole_rows && fits && touched < kDirectRows * problem.tokens) return direct(problem);
    }
    slabs(problem);
  }

  template <Layout layout>
  static DETREX_INLINE void one_query(const Problem& problem, const SampleTable<Compute>& table, int64_t b, int64_t q,
                                      int64_t n, const Samples<Compute>& samples, const Samples<Compute>& next,
                                      Gradients<Compute>& gradients, const Rows<const T>& rows,
                                      const Rows<Compute>& grad_rows) {
    const int64_t row = (b * problem.queries + q) * problem.heads + n;
    const T* grad_output = static_cast<const T*>(problem.grad_output) + row * problem.channels;
    for_each_block<Element<T>::kRowVectors>(Forward<T>::row_vectors(problem), [&](auto block, int64_t first) DETREX_LAMBDA {
      constexpr int count = decltype(block)::value;
      typename Simd<Compute>::V grad[count];
      load_row<count>(grad, grad_output + first * kLanes, problem.channels - first * kLanes);
      dot_and_scatter<layout, count>(rows, grad_rows, table, samples, next, grad, first * kLanes, gradients.dot);
    });
    finish_query(table, samples, gradients);
    std::copy_n(gradients.xy, 2 * table.count, static_cast<Compute*>(problem.grad_samples) + 2 * row * table.count);
    std::copy_n(gradients.weight, table.count, static_cast<Compute*>(problem.grad_weights) + row * table.count);
    if (problem.grad_reference == nullptr) return;
    const Compute* offsets = query_inputs<Compute>(problem, b, q, n).xy;
    Compute* target = static_cast<Compute*>(problem.grad_reference) + row * table.levels * table.reference_size;
    sum_reference_gradients(table, gradients, offsets, target);
  }

  static void direct(const Problem& problem) {
    const int64_t pitch = problem.heads * problem.channels;
    const SampleTable<Compute> table(problem, Layout::kDirect, pitch);
    const int64_t image = problem.tokens * pitch;
    parallel_over(problem, problem.batch * problem.tokens, [&](int64_t begin, int64_t end) {
      std::fill(static_cast<Compute*>(problem.grad_value) + begin * pitch,
                static_cast<Compute*>(problem.grad_value) + end * pitch, Compute(0));
    });
    parallel_over(problem, problem.batch * problem.heads, [&](int64_t begin, int64_t end) {
      constexpr int64_t kRing = kAhead + 1;
      auto buffers = three_samples(table);
      Gradients<Compute> gradients(table);
      const auto outside = allocate<Compute>(2 * problem.channels);  // zeros to read, and a row to write in vain
      std::fill_n(outside.get(), 2 * problem.channels, Compute(0));
      for (int64_t head = begin; head < end; ++head) {
        const int64_t b = head / problem.heads, n = head % problem.heads, origin = b * image + n * problem.channels;
        const Rows<const Compute> rows{static_cast<const Compute*>(problem.value) + origin, outside.get()};
        const Rows<Compute> grad_rows{static_cast<Compute*>(problem.grad_value) + origin,
                                      outside.get() + problem.channels};
        const auto fetch = [&](int64_t q) {
          prefetch_inputs(query_inputs<Compute>(problem, b, std::min(q + 2, problem.queries - 1), n), table.count);
          prepare<Layout::kDirect>(table, query_inputs<Compute>(problem, b, q, n), buffers[q % kRing]);
          resolve(rows, table, buffers[q % kRing]);
        };
        for (int64_t q = 0; q < std::min(kAhead, problem.queries); ++q) fetch(q);
        for (int64_t q = 0; q < problem.queries; ++q) {
          if (q + kAhead < problem.queries) fetch(q + kAhead);
          one_query<Layout::kDirect>(problem, table, b, q, n, buffers[q % kRing], buffers[(q + kAhead) % kRing],
                                     gradients, rows, grad_rows);
        }
      }
    });
  }

  static void slabs(const Problem& problem) {
    const int64_t pitch = Forward<T>::row_vectors(problem) * kLanes;
    const SampleTable<Compute> table(problem, Layout::kSlab, pitch);
    const int64_t size = table.slab_rows * pitch;
    parallel_over(problem, problem.batch * problem.heads, [&](int64_t begin, int64_t end) {
      Samples<Compute> samples(table);
      Gradients<Compute> gradients(table);
      const auto slab = allocate<T>(size);
      const auto grad_slab = allocate<Compute>(size);
      zero_borders(table, slab.get(), pitch);
      const Rows<const T> rows{slab.get(), nullptr};
      const Rows<Compute> grad_rows{grad_slab.get(), nullptr};
      for (int64_t head = begin; head < end; ++head) {
        const int64_t b = head / problem.heads, n = head % problem.heads;
        fill_slab_lines<T>(problem, table, head, slab.get(), pitch, 0, total_lines(problem));
        std::fill_n(grad_slab.get(), size, Compute(0));
        for (int64_t q = 0; q < problem.queries; ++q) {
          prefetch_inputs(query_inputs<Compute>(problem, b, std::min(q + 4, problem.queries - 1), n), table.count);
          prepare<Layout::kSlab>(table, query_inputs<Compute>(problem, b, q, n), samples);
          one_query<Layout::kSlab>(problem, table, b, q, n, samples, samples, gradients, rows, grad_rows);
        }
        store_grad_value(problem, table, head, grad_slab.get(), pitch);
      }
    });
  }

  static void store_grad_value(const Problem& problem, const SampleTable<Compute>& table, int64_t head,
                               const Compute* slab, int64_t pitch) {
    const int64_t b = head / problem.heads, n = head % problem.heads, step = problem.heads * problem.channels;
    T* target = static_cast<T*>(problem.grad_value) + b * problem.tokens * step + n * problem.channels;
    for (int64_t l = 0; l < problem.levels; ++l) {
      const int64_t h = problem.spatial_shapes[2 * l], w = problem.spatial_shapes[2 * l + 1];
      for (int64_t y = 0; y < h; ++y) {
        const Compute* source = slab + (table.level_first_row[l] + y * table.level_stride[l]) * pitch;
        for (int64_t x = 0; x < w; ++x, source += pitch, target += step) {
          for_each_block<Element<T>::kRowVectors>(pitch / kLanes, [&](auto block, int64_t first) DETREX_LAMBDA {
            constexpr int count = decltype(block)::value;
            typename Simd<Compute>::V row[count];
            load_stored<count>(row, source + first * kLanes);
            store_row<count>(target + first * kLanes, row, problem.channels - first * kLanes);
          });
        }
      }
    }
  }
};
