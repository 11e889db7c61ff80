use super::{expect_len, kernel, rows_of, Cpu, SharedMut};
use crate::{ffi, Error, Result};

/// Which router logits choose a token's experts (spec 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Routing {
    /// The token's own: causal, and the same in a prompt as token by token.
    #[default]
    PerToken,
    /// As transformers: the call's logits `[tokens, 2, n_keys]` read as `[2, tokens, n_keys]`, so that a prompt's tokens
    /// choose by each other's logits. For comparing with transformers; a single token is routed alike.
    Reference,
}

impl Cpu {
    /// 8-byte words of scratch that [`Cpu::product_key_router`] needs.
    pub fn router_scratch(&self, n_keys: usize, n_top: usize) -> usize {
        self.threads().saturating_mul(router_scratch_words(n_keys, n_top))
    }

    /// For each token the `n_top` experts of largest `x[i] + y[j]`, expert id `i · n_keys + j`, ascending by id, and the
    /// softmax of their scores (spec 4.6). Ties go to the lower id. `logits` is the router's output, `[tokens, 2 · n_keys]`;
    /// `expert` and `weight` are `[tokens, n_top]`; `scratch` holds [`Cpu::router_scratch`] words.
    ///
    /// ```
    /// # fn main() -> doge_engine::Result<()> {
    /// use doge_engine::ops::{Cpu, Routing};
    ///
    /// let cpu = Cpu::detect()?;
    /// let (n_keys, n_top) = (2, 2);
    /// let logits = [0.0, 1.0, 0.0, 5.0]; // x, then y: experts 0 to 3 score 0, 5, 1 and 6
    /// let (mut expert, mut weight) = ([0; 2], [0.0; 2]);
    /// let mut scratch = vec![0; cpu.router_scratch(n_keys, n_top)];
    /// cpu.product_key_router(&mut expert, &mut weight, &logits, Routing::PerToken, n_keys, n_top, &mut scratch)?;
    /// assert!(expert == [1, 3] && weight[0] < weight[1] && (weight[0] + weight[1] - 1.0).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a wrong length, `n_top` not in `1..=n_keys²`, or more than 65535 keys.
    #[allow(clippy::too_many_arguments, reason = "two outputs, an input and how to read it, two sizes, a scratch")]
    pub fn product_key_router(
        &self,
        expert: &mut [u32],
        weight: &mut [f32],
        logits: &[f32],
        routing: Routing,
        n_keys: usize,
        n_top: usize,
        scratch: &mut [u64],
    ) -> Result<()> {
        if n_keys > 65535 || n_top == 0 || n_top > n_keys * n_keys {
            let why = format!("{n_top} of {n_keys}² experts cannot be chosen");
            return Err(Error::BadArgument { what: "product_key_router: n_top", why });
        }
        let tokens = rows_of("product_key_router: logits", logits.len(), 2 * n_keys)?;
        expect_len("product_key_router: expert", expert.len(), tokens * n_top)?;
        expect_len("product_key_router: weight", weight.len(), tokens * n_top)?;
        expect_len("product_key_router: scratch", scratch.len(), self.router_scratch(n_keys, n_top))?;
        // In rows of n_keys, where the logits of token t are.
        let halves = |t: usize| match routing {
            Routing::PerToken => (2 * t, 2 * t + 1),
            Routing::Reference => (t, tokens + t),
        };
        let (router, words) = (kernel!(self.product_key_router), router_scratch_words(n_keys, n_top));
        let (expert, weight, scratch) = (SharedMut::new(expert), SharedMut::new(weight), SharedMut::new(scratch));
        self.over_tokens(tokens, 1, |t, _, thread| {
            let (x, y) = halves(t);
            // SAFETY: logits has 2 * tokens rows of n_keys floats, expert and weight tokens rows of n_top (checked); tokens
            // are disjoint; each thread has words of scratch of its own, aligned to 8 as u64.
            unsafe {
                router(&ffi::DogeRouterArgs {
                    expert: expert.ptr().add(t * n_top),
                    weight: weight.ptr().add(t * n_top),
                    x: logits.as_ptr().add(x * n_keys),
                    y: logits.as_ptr().add(y * n_keys),
                    scratch: scratch.ptr().add(thread * words).cast(),
                    n_keys,
                    n_top,
                })
            }
        });
        Ok(())
    }
}

/// DOGE_ROUTER_SCRATCH of the contract, in 8-byte words: a macro with arguments is the one thing bindgen leaves out.
const fn router_scratch_words(n_keys: usize, n_top: usize) -> usize {
    4usize.saturating_mul(n_keys).saturating_add(64usize.saturating_mul(n_top)).saturating_add(256)
}
