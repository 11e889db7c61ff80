//! One sequence on a device: its state, its scratch, and the graph of its decode step.

use std::sync::Arc;

use cudarc::driver::CudaGraph;

use super::{
    device::{failed, Device},
    forward::{Forward, Watch},
    kept::{Kept, KeptShape},
    made::Made,
    next_token::{Next, Run, EOS_MAX, STEPS_MAX},
    program::Program,
    scratch::{Scratch, Sizes, BLOCK},
    weights::DeviceWeights,
    window::ring_rows,
};
use crate::{
    model::{first_non_finite, Checkpoint, Observer, Rope, SessionOptions},
    ops::{Activations, Routing},
    Error, Result, Sampler,
};

/// A captured decode step.
struct Step(CudaGraph);

// SAFETY: the driver's graph objects belong to no thread; this one is used through `&mut Sequence` alone, never by two threads
// at once.
unsafe impl Send for Step {}
// SAFETY: nothing is done through a shared reference.
unsafe impl Sync for Step {}

/// One sequence on a device.
pub struct Sequence {
    /// With a stream of its own: sequences of one model run on threads of their own, and a capture takes in whatever its stream is
    /// given.
    device: Device,
    weights: Arc<DeviceWeights>,
    checkpoint: Arc<Checkpoint>,
    options: SessionOptions,
    activations: Activations,
    shape: KeptShape,
    layers: Vec<Kept>,
    /// Made at the first call.
    scratch: Option<Box<Scratch>>,
    /// A token in one launch, over the buffers of `layers` and `scratch`; for models that it has room for.
    program: Option<Program>,
    /// Of steps that take the likeliest token, and of those that draw. Their launches name the buffers of `layers` and `scratch`.
    steps: [Option<Step>; 2],
}

impl Sequence {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn new(
        weights: &Arc<DeviceWeights>,
        checkpoint: &Arc<Checkpoint>,
        options: SessionOptions,
        activations: Activations,
    ) -> Result<Self> {
        let (config, device) = (&checkpoint.config, weights.device().with_own_stream()?);
        let shape = KeptShape {
            mask_heads: checkpoint.variant.mask_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            slots: 0,
            keep_window_size: config.keep_window_size,
            sliding_window: config.sliding_window,
        };
        Ok(Sequence {
            weights: weights.clone(),
            checkpoint: checkpoint.clone(),
            options,
            activations,
            shape,
            layers: (0..config.num_hidden_layers).map(|_| Kept::new(&device, shape)).collect::<Result<_>>()?,
            device,
            scratch: None,
            program: None,
            steps: [None, None],
        })
    }

    /// Tokens of a prompt that go through the layers together, unless experts are chosen by all of them.
    pub fn block(&self) -> usize {
        self.options.block.map_or(BLOCK, |block| block.clamp(1, BLOCK))
    }

    /// Bytes of the state after `tokens` tokens.
    pub fn state_bytes(&self, tokens: usize) -> u128 {
        self.shape_for(tokens).bytes() * self.layers.len() as u128
    }

    fn shape_for(&self, tokens: usize) -> KeptShape {
        let slots = match self.shape.sliding_window {
            None => tokens.min(self.shape.keep_window_size),
            Some(_) if tokens == 0 => 0,
            Some(window) => ring_rows(window, self.options.ctx_size),
        };
        KeptShape { slots, ..self.shape }
    }

    /// Makes room for a sequence of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] before anything is changed, [`Error::Device`].
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let shape = self.shape_for(tokens);
        if shape.slots <= self.shape.slots {
            return Ok(());
        }
        self.device.expect_room(shape.bytes() * self.layers.len() as u128, "the kept keys of a session on the GPU")?;
        let larger = self.layers.iter().map(|kept| kept.with_slots(&self.device, shape.slots)).collect::<Result<_>>()?;
        (self.steps, self.program, self.scratch, self.layers, self.shape) = ([None, None], None, None, larger, shape);
        Ok(())
    }

    /// A sequence of its own that goes on where this one stands.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Device`].
    pub fn fork(&self) -> Result<Self> {
        let device = self.device.with_own_stream()?;
        self.device.synchronize()?; // the copies are in the other stream
        let copied = self.layers.iter().map(|kept| kept.with_slots(&device, self.shape.slots)).collect::<Result<_>>();
        device.synchronize()?; // before this sequence goes on, or goes: also if there was no memory for some of them
        Ok(Sequence {
            device,
            weights: self.weights.clone(),
            checkpoint: self.checkpoint.clone(),
            layers: copied?,
            scratch: None,
            program: None,
            steps: [None, None],
            ..*self
        })
    }

    /// Takes in `ids`, the first at `place`, block by block, and leaves the logits after the last in `logits`, `[V]`. `place`
    /// moves on with each block that is through. The observer may cancel before each block; if it `watches`, it sees
    /// everything, the logits of every token among it. Room was reserved; ids are inside the vocabulary; `rope` is at the call.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::NonFinite`], [`Error::OutOfMemory`], [`Error::Device`].
    pub fn feed(
        &mut self,
        ids: &[u32],
        place: &mut usize,
        rope: &Rope,
        logits: &mut [f32],
        watches: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let is_moe = self.checkpoint.config.is_moe;
        let by_others = self.options.routing == Routing::Reference && is_moe;
        let block = if by_others { ids.len() } else { self.block() };
        let is_prompt = ids.len() > 1;
        self.make_scratch(block.min(ids.len()))?;
        let (head_dim, vocab_size) = (self.checkpoint.config.head_dim, self.checkpoint.config.vocab_size);
        let last_block = ids.len().div_ceil(block) - 1;
        for (i, ids) in ids.chunks(block).enumerate() {
            if observer.cancels() {
                return Err(Error::Cancelled { tokens: *place });
            }
            let (forward, program, layers, s) = self.parts()?;
            let (n, first) = (ids.len(), *place);
            let (mut cos, mut sin, at) = (vec![0.0; n * head_dim / 2], vec![0.0; n * head_dim / 2], Next::words_at(first));
            rope.tables(first, &mut cos, &mut sin);
            s.cos.write(0, &cos)?;
            s.sin.write(0, &sin)?;
            s.next.ids.write(0, ids)?;
            s.next.at.write(0, &at)?;
            let alone = n == 1 && !is_prompt && !watches;
            if alone {
                forward.token(program, layers, s)?;
            } else {
                let mut watch = watches.then_some(Watch { observer: &mut *observer, place: first, rows: n });
                forward.block((first, n), is_prompt, layers, s, &mut watch)?;
            }
            *place += n;
            let wanted = match (watches, i == last_block) {
                (true, _) => 0..n,
                (false, true) => n - 1..n,
                (false, false) => n..n,
            };
            if wanted.is_empty() {
                forward.device.synchronize()?; // the tables go; else whoever reads the logits waits
            }
            for row in wanted {
                if !alone {
                    forward.head(row, s)?;
                }
                logits.copy_from_slice(&s.logits.read(1)?);
                if first_non_finite(logits, vocab_size).is_some() {
                    return Err(Error::NonFinite { layer: None, step: first + row });
                }
                if watches {
                    observer.logits(first + row, logits);
                }
            }
        }
        Ok(())
    }

    /// Feeds `first`, which stands at `place`, then whatever is likeliest or what the sampler `draws`, for up to `steps` steps
    /// or until one of `eos` is chosen; the host looks only at the end. `rope` moves on by the steps made.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for too many `eos`; [`Error::OutOfMemory`], [`Error::Device`].
    pub fn decode(
        &mut self,
        first: u32,
        place: usize,
        steps: usize,
        eos: &[u32],
        sampler: Option<&Sampler>,
        rope: &mut Rope,
    ) -> Result<Run> {
        if eos.len() > EOS_MAX {
            let why = format!("{} tokens; a run on the GPU can watch for {EOS_MAX}", eos.len());
            return Err(Error::BadArgument { what: "eos_token_ids", why });
        }
        let (head_dim, steps) = (self.checkpoint.config.head_dim, steps.min(STEPS_MAX));
        let half = head_dim / 2;
        let (mut cos, mut sin, mut ahead) = (vec![0.0; steps * half], vec![0.0; steps * half], rope.clone());
        for (i, (cos, sin)) in cos.chunks_exact_mut(half.max(1)).zip(sin.chunks_exact_mut(half.max(1))).enumerate() {
            ahead.begin_call(place + i + 1);
            ahead.tables(place + i, cos, sin);
        }
        let draws = sampler.map(|sampler| sampler.draws(steps)).transpose()?;
        self.make_scratch(1)?;
        self.capture(draws.is_some())?;
        let (.., s) = self.parts()?;
        s.cos.write(0, &cos)?;
        s.sin.write(0, &sin)?;
        s.next.begin_run(first, place, eos, draws.as_ref())?;
        if let Some(step) = &self.steps[usize::from(draws.is_some())] {
            for _ in 0..steps {
                step.0.launch().map_err(failed("a decode step"))?;
            }
        }
        let (.., s) = self.parts()?;
        let run = s.next.end_run()?;
        (0..run.ids.len()).for_each(|i| rope.begin_call(place + i + 1));
        Ok(run)
    }

    /// Makes the scratch for blocks of `rows` tokens.
    fn make_scratch(&mut self, rows: usize) -> Result<()> {
        if self.scratch.as_ref().is_some_and(|scratch| scratch.sizes.rows >= rows) {
            return Ok(());
        }
        (self.steps, self.program, self.scratch) = ([None, None], None, None);
        let sizes = Sizes::new(&self.checkpoint, rows, self.activations == Activations::Bf16, self.shape);
        self.device.expect_room(Scratch::bytes_of(sizes), "the activations of a session on the GPU")?;
        self.scratch = Some(Box::new(Scratch::make(&self.device, sizes)?));
        let (forward, _, layers, s) = self.parts()?;
        self.program = forward.program(layers, s)?;
        Ok(())
    }

    /// What a forward pass works with. The scratch was made.
    fn parts(&mut self) -> Result<(Forward<'_>, Option<&Program>, &mut [Kept], &mut Scratch)> {
        let none = || Error::BadArgument { what: "scratch", why: "was not made".into() };
        let forward = Forward {
            device: &self.device,
            config: &self.checkpoint.config,
            variant: &self.checkpoint.variant,
            weights: &self.weights,
            routing: self.options.routing,
            activations: self.activations,
        };
        Ok((forward, self.program.as_ref(), &mut self.layers, self.scratch.as_deref_mut().ok_or_else(none)?))
    }

    /// Captures the decode step, one that draws or not, unless that was done.
    fn capture(&mut self, draws: bool) -> Result<()> {
        if self.steps[usize::from(draws)].is_some() {
            return Ok(());
        }
        let graph = self.device.clone().record(|| {
            let (forward, program, layers, s) = self.parts()?;
            forward.decode_step(draws, program, layers, s)
        })?;
        self.steps[usize::from(draws)] = Some(Step(graph));
        Ok(())
    }
}

impl Drop for Sequence {
    /// A graph must not be running when it goes, nor anything that reads the weights. Buffers are freed in the stream's order, and
    /// others, whose streams do not wait for this one, shall find their memory free.
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        (self.steps, self.program, self.scratch, self.layers) = ([None, None], None, None, Vec::new());
        let _ = self.device.synchronize();
    }
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sequence({} layers, {:?}, on {:?})", self.layers.len(), self.shape, self.device)
    }
}
