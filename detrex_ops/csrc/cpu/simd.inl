// Vectors of kVectorBytes on the compilers' vector extensions.

#define DETREX_INLINE inline __attribute__((always_inline))
#define DETREX_SHARED __attribute__((noinline))
#define DETREX_LAMBDA __attribute__((always_inline))

template <class Scalar>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};

// The vector of a compute type, its integer twin (indices, masks) and the operations the kernels need.
template <class Scalar>
struct Simd {
  using Int = typename IntOf<Scalar>::type;
  typedef Scalar V __attribute__((vector_size(kVectorBytes)));
  typedef Int I __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / sizeof(Scalar);

  static DETREX_INLINE V load(const Scalar* source) {
    V v;
    std::memcpy(&v, source, sizeof(V));
    return v;
  }
  static DETREX_INLINE I load_int(const Int* source) {
    I v;
    std::memcpy(&v, source, sizeof(I));
    return v;
  }
  static DETREX_INLINE void store(Scalar* target, V v) { std::memcpy(target, &v, sizeof(V)); }
  static DETREX_INLINE void store_int(Int* target, I v) { std::memcpy(target, &v, sizeof(I)); }
  static DETREX_INLINE V broadcast(Scalar scalar) { return scalar - V{}; }
  static DETREX_INLINE I to_int(V v) { return __builtin_convertvector(v, I); }
  static DETREX_INLINE V to_float(I v) { return __builtin_convertvector(v, V); }
  static DETREX_INLINE V max(V a, V b) { return a > b ? a : b; }

  template <int... indices>
  static DETREX_INLINE V shuffle(V a, V b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, indices...);
#else
    return __builtin_shuffle(a, b, I{indices...});
#endif
  }
};

using Lane = int;

template <class Scalar, class Lanes = std::make_integer_sequence<Lane, Simd<Scalar>::kLanes>>
struct Shuffles;
template <class Scalar, Lane... i>
struct Shuffles<Scalar, std::integer_sequence<Lane, i...>> {
  using S = Simd<Scalar>;
  using V = typename S::V;
  static constexpr int kLanes = S::kLanes;

  // (x0 y0 x1 y1 ...) in two vectors <-> (x0 x1 ...), (y0 y1 ...)
  static DETREX_INLINE V even(V a, V b) { return S::template shuffle<2 * i...>(a, b); }
  static DETREX_INLINE V odd(V a, V b) { return S::template shuffle<(2 * i + 1)...>(a, b); }
  static DETREX_INLINE V zip_low(V a, V b) { return S::template shuffle<(i / 2 + (i % 2) * kLanes)...>(a, b); }
  static DETREX_INLINE V zip_high(V a, V b) {
    return S::template shuffle<(kLanes / 2 + i / 2 + (i % 2) * kLanes)...>(a, b);
  }
  // Scalars from anywhere, in registers: a vector read from scalars that were stored a moment ago would wait for them.
  static DETREX_INLINE V collect(const Scalar* source, const typename S::Int* index) { return V{source[index[i]]...}; }
  template <int distance>
  static DETREX_INLINE V rotate(V v) {
    return S::template shuffle<((i + distance) % kLanes)...>(v, v);
  }
  // Within each block of four lanes: (a0 b0 a1 b1), (a2 b2 a3 b3), (a0 a1 b0 b1), (a2 a3 b2 b3).
  static DETREX_INLINE V zip_blocks_low(V a, V b) {
    return S::template shuffle<(i / 4 * 4 + i % 4 / 2 + (i % 2) * kLanes)...>(a, b);
  }
  static DETREX_INLINE V zip_blocks_high(V a, V b) {
    return S::template shuffle<(i / 4 * 4 + 2 + i % 4 / 2 + (i % 2) * kLanes)...>(a, b);
  }
  static DETREX_INLINE V join_blocks_low(V a, V b) {
    return S::template shuffle<(i / 4 * 4 + i % 2 + (i % 4 / 2) * kLanes)...>(a, b);
  }
  static DETREX_INLINE V join_blocks_high(V a, V b) {
    return S::template shuffle<(i / 4 * 4 + 2 + i % 2 + (i % 4 / 2) * kLanes)...>(a, b);
  }
};

template <class Scalar>
DETREX_INLINE Scalar horizontal_sum(typename Simd<Scalar>::V v) {
  using X = Shuffles<Scalar>;
  constexpr int lanes = Simd<Scalar>::kLanes;
  if constexpr (lanes >= 16) v += X::template rotate<8>(v);
  if constexpr (lanes >= 8) v += X::template rotate<4>(v);
  if constexpr (lanes >= 4) v += X::template rotate<2>(v);
  v += X::template rotate<1>(v);
  return v[0];
}

template <class Scalar>
DETREX_INLINE Scalar horizontal_max(typename Simd<Scalar>::V v) {
  using S = Simd<Scalar>;
  using X = Shuffles<Scalar>;
  if constexpr (S::kLanes >= 16) v = S::max(v, X::template rotate<8>(v));
  if constexpr (S::kLanes >= 8) v = S::max(v, X::template rotate<4>(v));
  if constexpr (S::kLanes >= 4) v = S::max(v, X::template rotate<2>(v));
  v = S::max(v, X::template rotate<1>(v));
  return v[0];
}

// Writes the sums of the lanes of four vectors to four consecutive scalars.
template <class Scalar>
DETREX_INLINE void store_sums(Scalar* target, const typename Simd<Scalar>::V (&v)[4]) {
  using X = Shuffles<Scalar>;
  if constexpr (std::is_same_v<Scalar, float>) {
    const auto v01 = X::zip_blocks_low(v[0], v[1]) + X::zip_blocks_high(v[0], v[1]);
    const auto v23 = X::zip_blocks_low(v[2], v[3]) + X::zip_blocks_high(v[2], v[3]);
    auto sums = X::join_blocks_low(v01, v23) + X::join_blocks_high(v01, v23);
    if constexpr (Simd<float>::kLanes >= 16) sums += X::template rotate<8>(sums);
    if constexpr (Simd<float>::kLanes >= 8) sums += X::template rotate<4>(sums);
    std::memcpy(target, &sums, 4 * sizeof(float));
  } else {
    for (int k = 0; k < 4; ++k) target[k] = horizontal_sum<Scalar>(v[k]);
  }
}

// exp of non-positive numbers: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7.
DETREX_INLINE Simd<float>::V exp_nonpositive(Simd<float>::V x) {
  using S = Simd<float>;
  const auto floor_at = S::broadcast(-87.0f);
  const auto clamped = x < floor_at ? floor_at : x;
  const auto scaled = clamped * 1.44269504f - 0.5f;  // negative: truncation rounds to the nearest
  const auto n = S::to_int(scaled);
  const auto n_float = S::to_float(n);
  const auto r = (clamped - n_float * 0.693359375f) + n_float * 2.12194440e-4f;
  auto p = 1.98412698e-4f * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto power_bits = (n + 127) << 23;
  S::V power;
  std::memcpy(&power, &power_bits, sizeof(power));
  return x < floor_at ? S::V{} : p * power;
}

DETREX_INLINE Simd<double>::V exp_nonpositive(Simd<double>::V x) {
  for (int lane = 0; lane < Simd<double>::kLanes; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}
