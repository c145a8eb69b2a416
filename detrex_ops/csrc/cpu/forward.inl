// Forward: output row = sum over samples and corners of corner weight times value row.

template <Layout layout, int vectors, class T, class Compute>
DETREX_INLINE void accumulate(const Rows<const T>& rows, const SampleTable<Compute>& table,
                              const Samples<Compute>& samples, const Samples<Compute>& next, int64_t first_channel,
                              typename Simd<Compute>::V (&total)[vectors]) {
  using V = typename Simd<Compute>::V;
  // Independent sums: as many as hide the latency of the additions, within the registers.
  constexpr int chains = vectors >= 8 ? 1 : vectors == 4 ? 2 : 4;
  V sums[chains][vectors] = {};
  for (int64_t k = 0; k < table.count; ++k) {
    const T* corner[4];
    corners<layout>(rows, table, samples, k, corner);
    if (layout == Layout::kDirect && k < table.distant) {
      prefetch_rows(next, k, first_channel * sizeof(T), vectors * Simd<Compute>::kLanes * sizeof(T));
    }
    for (int c = 0; c < 4; ++c) {
      V row[vectors];
      load_stored<vectors>(row, corner[c] + first_channel);
      const Compute weight = samples.corner_weight[c][k];
      for (int j = 0; j < vectors; ++j) sums[c % chains][j] += row[j] * weight;
    }
  }
  for (int j = 0; j < vectors; ++j) {
    total[j] = sums[0][j];
    for (int chain = 1; chain < chains; ++chain) total[j] += sums[chain][j];
  }
}

template <class T>
struct Forward {
  using Compute = typename Element<T>::Compute;
  static constexpr int64_t kLanes = Simd<Compute>::kLanes;

  static int64_t row_vectors(const Problem& problem) {
    constexpr int64_t multiple = Element<T>::kRowVectors * kLanes;
    return (problem.channels + multiple - 1) / multiple * Element<T>::kRowVectors;
  }

  // Reading the tensor itself pays while the samples touch fewer rows than a slab copies.
  static bool reads_directly(const Problem& problem) {
    if (row_vectors(problem) * kLanes != problem.channels) return false;
    if (!offset_fits<typename Simd<Compute>::Int>(problem.tokens, problem.heads * problem.channels)) return false;
    return problem.queries * problem.levels * problem.points * 4 < kDirectRows * problem.tokens;
  }
  static constexpr int64_t kDirectRows = 8;

  static void run(const Problem& problem) { reads_directly(problem) ? direct(problem) : slabs(problem); }

  template <Layout layout>
  static DETREX_INLINE void write_query(const Problem& problem, const SampleTable<Compute>& table,
                                        const Samples<Compute>& samples, const Samples<Compute>& next,
                                        const Rows<const T>& rows, int64_t vectors, T* output) {
    for_each_block<Element<T>::kRowVectors>(vectors, [&](auto block, int64_t first) DETREX_LAMBDA {
      constexpr int count = decltype(block)::value;
      typename Simd<Compute>::V total[count];
      accumulate<layout, count>(rows, table, samples, next, first * kLanes, total);
      store_row<count>(output + first * kLanes, total, problem.channels - first * kLanes);
    });
  }

  static T* output_row(const Problem& problem, int64_t b, int64_t q, int64_t n) {
    return static_cast<T*>(problem.output) + ((b * problem.queries + q) * problem.heads + n) * problem.channels;
  }

  // Few queries. The rows of a head are requested while those of the heads before it are summed.
  static void direct(const Problem& problem) {
    const int64_t pitch = problem.heads * problem.channels, vectors = row_vectors(problem);
    const SampleTable<Compute> table(problem, Layout::kDirect, pitch);
    const int64_t row_bytes = problem.channels * static_cast<int64_t>(sizeof(T));
    const auto zeros = allocate<T>(problem.channels);
    std::memset(static_cast<void*>(zeros.get()), 0, row_bytes);
    const int64_t total = problem.batch * problem.queries * problem.heads;
    parallel_over(problem, total, [&](int64_t begin, int64_t end) {
      // Addresses are prepared one head before they are requested: that reads them one by one, and would have to wait
      // for vectors that were stored a moment ago.
      constexpr int64_t kPrepared = kAhead + 1, kRing = kPrepared + 1;
      auto buffers = four_samples(table);
      Rows<const T> rows[kRing];
      const auto fetch = [&](int64_t index) {
        const int64_t n = index % problem.heads, query = index / problem.heads;
        const int64_t b = query / problem.queries, q = query % problem.queries;
        const auto* value = static_cast<const T*>(problem.value);
        rows[index % kRing] = {value + b * problem.tokens * pitch + n * problem.channels, zeros.get()};
        prepare<Layout::kDirect>(table, query_inputs<Compute>(problem, b, q, n), buffers[index % kRing]);
        resolve(rows[index % kRing], table, buffers[index % kRing]);
      };
      for (int64_t index = begin; index < std::min(begin + kPrepared, end); ++index) fetch(index);
      for (int64_t index = begin; index < end; ++index) {
        if (index + kPrepared < end) fetch(index + kPrepared);
        T* output = static_cast<T*>(problem.output) + index * problem.channels;
        write_query<Layout::kDirect>(problem, table, buffers[index % kRing], buffers[(index + kAhead) % kRing],
                                     rows[index % kRing], vectors, output);
      }
    });
  }

  // Many queries. As many heads at a time as there are threads: copy their slabs, then share out their queries.
  static void slabs(const Problem& problem) {
    const int64_t vectors = row_vectors(problem), pitch = vectors * kLanes;
    const SampleTable<Compute> table(problem, Layout::kSlab, pitch);
    const int64_t slab_size = table.slab_rows * pitch;
    const int64_t heads = problem.batch * problem.heads, threads = std::max<int64_t>(problem.num_threads, 1);
    const int64_t group = std::min(heads, threads), lines = total_lines(problem);
    const auto slabs = allocate<T>(group * slab_size);
    for (int64_t first = 0; first < heads; first += group) {
      const int64_t members = std::min(group, heads - first), parts = (threads + members - 1) / members;
      parallel_over(problem, members * parts, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t member = task / parts, part = task % parts;
          T* slab = slabs.get() + member * slab_size;
          if (first == 0 && part == 0) zero_borders(table, slab, pitch);
          fill_slab_lines<T>(problem, table, first + member, slab, pitch, lines * part / parts,
                             lines * (part + 1) / parts);
        }
      });
      parallel_over(problem, members * parts, [&](int64_t begin, int64_t end) {
        Samples<Compute> samples(table);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t member = task / parts, part = task % parts, b = (first + member) / problem.heads;
          const int64_t n = (first + member) % problem.heads;
          const Rows<const T> rows{slabs.get() + member * slab_size, nullptr};
          const int64_t last = problem.queries * (part + 1) / parts;
          for (int64_t q = problem.queries * part / parts; q < last; ++q) {
            const auto ahead = query_inputs<Compute>(problem, b, std::min(q + 4, last - 1), n);
            prefetch_inputs(ahead, table.count);
            prepare<Layout::kSlab>(table, query_inputs<Compute>(problem, b, q, n), samples);
            write_query<Layout::kSlab>(problem, table, samples, samples, rows, vectors, output_row(problem, b, q, n));
          }
        }
      });
    }
  }
};
