//! Spec 4.3: half rotation.

/// Rotates each head of `x` `[heads, d]` in place; `cos` and `sin` are `[d / 2]`.
pub fn rope(x: &mut [f64], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in x.chunks_exact_mut(2 * half) {
        for c in 0..half {
            let (cos, sin) = (f64::from(cos[c]), f64::from(sin[c]));
            let (low, high) = (head[c], head[c + half]);
            head[c] = low * cos - high * sin;
            head[c + half] = high * cos + low * sin;
        }
    }
}
