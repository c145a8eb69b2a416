// Element types: what a tensor holds, what a kernel computes in, and rows of channels as vectors.

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float to_float(Float16 half) {
  const uint32_t magnitude = half.bits & 0x7fffu;
  const uint32_t shifted = magnitude << 13;
  float scaled;
  std::memcpy(&scaled, &shifted, sizeof(scaled));
  scaled *= 0x1p112f;  // moves the exponent's bias and normalises what was subnormal
  uint32_t bits;
  std::memcpy(&bits, &scaled, sizeof(bits));
  bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  bits |= static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline Float16 to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) {
    rounded = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and more
    rounded = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: let the addition of 1/2 round to multiples of 2^-24
    float sum = std::fabs(value) + 0.5f;
    std::memcpy(&rounded, &sum, sizeof(rounded));
    rounded -= 0x3f000000u;
  } else {
    rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return Float16{static_cast<uint16_t>(sign | rounded)};
}

// Compute: the accumulator. kRowVectors: a slab's rows are a multiple of so many vectors.
template <class T>
struct Element {
  using Compute = T;
  static constexpr int kRowVectors = 1;
};
template <>
struct Element<BFloat16> {
  using Compute = float;
  static constexpr int kRowVectors = 2;
};
template <>
struct Element<Float16> {
  using Compute = float;
  static constexpr int kRowVectors = 1;
};

// `vectors` consecutive vectors of a row. bfloat16 is split into even and odd channels, which costs one shift or mask per
// vector; whatever is added to such vectors keeps that order, and store_row undoes it.
template <int vectors>
DETREX_INLINE void load_stored(Simd<float>::V (&row)[vectors], const float* source) {
  for (int j = 0; j < vectors; ++j) row[j] = Simd<float>::load(source + j * Simd<float>::kLanes);
}
template <int vectors>
DETREX_INLINE void load_stored(Simd<double>::V (&row)[vectors], const double* source) {
  for (int j = 0; j < vectors; ++j) row[j] = Simd<double>::load(source + j * Simd<double>::kLanes);
}
template <int vectors>
DETREX_INLINE void load_stored(Simd<float>::V (&row)[vectors], const BFloat16* source) {
  using S = Simd<float>;
  static_assert(vectors % 2 == 0, "bfloat16 rows come in pairs of vectors");
  for (int j = 0; j < vectors; j += 2) {
    S::I pairs;
    std::memcpy(&pairs, source + j * S::kLanes, sizeof(pairs));
    const S::I even = pairs << 16;
    const S::I odd = pairs & static_cast<int32_t>(0xffff0000);
    std::memcpy(&row[j], &even, sizeof(even));
    std::memcpy(&row[j + 1], &odd, sizeof(odd));
  }
}

// The instruction sets define these two macros where they have instructions for it.
DETREX_INLINE Simd<float>::V widen(const Float16* source) {
#if defined(DETREX_HALVES_TO_FLOATS)
  return (Simd<float>::V)DETREX_HALVES_TO_FLOATS(source);
#else
  Simd<float>::V wide;
  for (int lane = 0; lane < Simd<float>::kLanes; ++lane) wide[lane] = to_float(source[lane]);
  return wide;
#endif
}
DETREX_INLINE void narrow(Float16* target, Simd<float>::V v) {
#if defined(DETREX_FLOATS_TO_HALVES)
  DETREX_FLOATS_TO_HALVES(target, v);
#else
  for (int lane = 0; lane < Simd<float>::kLanes; ++lane) target[lane] = to_half(v[lane]);
#endif
}
template <int vectors>
DETREX_INLINE void load_stored(Simd<float>::V (&row)[vectors], const Float16* source) {
  for (int j = 0; j < vectors; ++j) row[j] = widen(source + j * Simd<float>::kLanes);
}

DETREX_INLINE Simd<float>::I round_to_bfloat16(Simd<float>::V v) {
  Simd<float>::I bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const auto rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return v != v ? bits | 0x00400000 : rounded;
}

// The same for tensors' rows of any number of channels; those beyond `channels` read as zero and are not written.
template <int vectors, class T>
DETREX_INLINE void load_row(typename Simd<typename Element<T>::Compute>::V (&row)[vectors], const T* source,
                            int64_t channels) {
  constexpr int64_t width = vectors * Simd<typename Element<T>::Compute>::kLanes;
  if (channels >= width) return load_stored<vectors>(row, source);
  T copy[width] = {};
  std::copy_n(source, channels, copy);
  load_stored<vectors>(row, copy);
}

template <int vectors, class T>
DETREX_INLINE void store_row(T* target, const typename Simd<typename Element<T>::Compute>::V (&row)[vectors],
                             int64_t channels) {
  using Compute = typename Element<T>::Compute;
  using S = Simd<Compute>;
  constexpr int64_t width = vectors * S::kLanes;
  const auto write = [&](T* to) DETREX_LAMBDA {
    for (int j = 0; j < vectors; ++j) {
      if constexpr (std::is_same_v<T, BFloat16>) {
        if (j % 2 != 0) continue;
        const auto odd = round_to_bfloat16(row[j + 1]) & static_cast<int32_t>(0xffff0000);
        const auto even = (round_to_bfloat16(row[j]) >> 16) & 0xffff;
        const auto pairs = even | odd;
        std::memcpy(static_cast<void*>(to + j * S::kLanes), &pairs, sizeof(pairs));
      } else if constexpr (std::is_same_v<T, Float16>) {
        narrow(to + j * S::kLanes, row[j]);
      } else {
        S::store(to + j * S::kLanes, row[j]);
      }
    }
  };
  if (channels >= width) return write(target);
  T copy[width];
  write(copy);
  std::copy_n(copy, channels, target);
}

// Calls body(integral_constant<int, vectors>, first) for blocks of 8, 4, 2 and 1 vectors that cover a row.
template <int smallest, class Body>
DETREX_INLINE void for_each_block(int64_t vectors, const Body& body) {
  int64_t first = 0;
  for (; vectors - first >= 8; first += 8) body(std::integral_constant<int, 8>{}, first);
  if ((vectors - first) & 4) {
    body(std::integral_constant<int, 4>{}, first);
    first += 4;
  }
  if ((vectors - first) & 2) {
    body(std::integral_constant<int, 2>{}, first);
    first += 2;
  }
  if constexpr (smallest == 1) {
    if ((vectors - first) & 1) body(std::integral_constant<int, 1>{}, first);
  }
}

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Buffer = std::unique_ptr<T[], FreeAligned>;

template <class T>
Buffer<T> allocate(int64_t count) {
  const std::size_t bytes = (static_cast<std::size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return Buffer<T>(static_cast<T*>(memory));
}

template <class Body>
void parallel_over(const Problem& problem, int64_t count, const Body& body) {
  const auto trampoline = [](int64_t begin, int64_t end, void* context) {
    (*static_cast<const Body*>(context))(begin, end);
  };
  problem.parallel_for(count, trampoline, const_cast<void*>(static_cast<const void*>(&body)));
}
