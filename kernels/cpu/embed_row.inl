// out[i] = table[row][i], widened to f32
//
// Cost: one read of the row, which is rarely in any cache, and one write.
#pragma once

namespace {

template <class W> void embed_row(float *out, const void *table, size_t row, size_t n) {
  const W *w = (const W *)table + row * n;
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) store(out + i, load(w + i));
  if (i < n) store_n(out + i, load_n(w + i, n - i), n - i);
}

} // namespace
