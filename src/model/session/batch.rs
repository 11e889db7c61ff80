//! Several sessions that take one step together, so that the weights are read once for all of them.

use super::{Session, HEAD_ROWS};
use crate::{
    model::{
        forward::{first_non_finite, Forward, Rows},
        observer::Unobserved,
        scratch::Scratch,
        Checkpoint, Model,
    },
    ops::{Cpu, Routing},
    Error, Result,
};

/// Decodes several sessions of one model together. A token of a small batch costs little more than a token of one
/// session, whose time goes into reading the weights. Each session gets the bits that [`Session::feed`] would give it.
///
/// Owns the activations of a step; the sessions stay the caller's, who may put others together each time.
///
/// ```
/// # fn main() -> doge_engine::Result<()> {
/// use doge_engine::{embedded, model::{Batch, LoadOptions, Model, Session, SessionOptions}, ops::Cpu};
///
/// let (model, cpu) = (Model::new(embedded::checkpoint(&LoadOptions::default())?), Cpu::detect()?);
/// let mut first = Session::new(&model, &cpu, SessionOptions::default())?;
/// let mut second = Session::new(&model, &cpu, SessionOptions::default())?;
/// first.feed(&[0, 597, 49])?;
/// second.feed(&[0])?;
///
/// let mut batch = Batch::new(&model, &cpu);
/// batch.feed(&mut [&mut first, &mut second], &[41, 597])?; // one token for each
/// let logits = first.logits().expect("it was just fed"); // [vocab_size]
/// assert_eq!(logits.len(), model.config().vocab_size);
/// assert_eq!((first.tokens(), second.tokens()), (4, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Batch {
    model: Model,
    cpu: Cpu,
    scratch: Scratch,
    /// [sessions]: what their RoPE remembered before the step.
    longest: Vec<usize>,
}

impl Batch {
    /// For sessions of `model`; its steps run on `cpu`, wherever the sessions themselves do.
    pub fn new(model: &Model, cpu: &Cpu) -> Self {
        Batch { model: model.clone(), cpu: cpu.clone(), scratch: Scratch::default(), longest: Vec::new() }
    }

    /// Feeds `ids[i]` to `sessions[i]`; [`Session::logits`] has the result. Experts are routed per token (for a single
    /// token [`Routing::Reference`] is the same).
    ///
    /// # Errors
    /// With every session as it was before: [`Error::BadArgument`] if there is no session, if there are more or fewer ids, or if
    /// a session is of another model; [`Error::TokenOutOfRange`], [`Error::ContextFull`], [`Error::OutOfMemory`];
    /// [`Error::UnsupportedOnDevice`] where a model is on a device;
    /// [`Error::NonFinite`], after which [`Session::logits`] gives nothing. Never panics.
    pub fn feed(&mut self, sessions: &mut [&mut Session], ids: &[u32]) -> Result<()> {
        self.admit(sessions, ids)?;
        let Checkpoint { config, variant, weights, .. } = self.model.checkpoint();
        let cpu = &self.cpu.for_rows(ids.len());
        let forward = Forward { cpu, config, variant, weights, routing: Routing::PerToken };
        let (s, half, hidden, vocab) = (&mut self.scratch, config.head_dim / 2, config.hidden_size, config.vocab_size);
        self.longest.clear();
        self.longest.extend(sessions.iter().map(|session| session.rope.longest()));
        for (t, session) in sessions.iter_mut().enumerate() {
            session.has_logits = false;
            session.rope.begin_call(session.tokens + 1);
            let row = t * half..(t + 1) * half;
            session.rope.tables(session.tokens, &mut s.cos[row.clone()], &mut s.sin[row]);
        }
        let mut rows = Rows::Batch(sessions);
        let done = forward.block(ids, &mut rows, s, &mut Unobserved).and_then(|()| {
            let Rows::Batch(sessions) = &mut rows else { return Ok(()) };
            for (sessions, h) in sessions.chunks_mut(HEAD_ROWS).zip(s.h[..ids.len() * hidden].chunks(HEAD_ROWS * hidden)) {
                let logits = &mut s.logits[..sessions.len() * vocab]; // [sessions, V]
                forward.head(logits, h, &mut s.prepared)?;
                if let Some(row) = first_non_finite(logits, vocab) {
                    return Err(Error::NonFinite { layer: None, step: sessions[row].tokens });
                }
                for (session, logits) in sessions.iter_mut().zip(logits.chunks_exact(vocab)) {
                    session.scratch.logits[..vocab].copy_from_slice(logits);
                }
            }
            Ok(())
        });
        if done.is_err() {
            rows.take_back();
            sessions.iter_mut().zip(&self.longest).for_each(|(session, &longest)| session.rope.recall(longest));
            return done;
        }
        for session in sessions {
            session.tokens += 1;
            session.has_logits = true;
        }
        Ok(())
    }

    /// Checks a step and makes room for it.
    fn admit(&mut self, sessions: &mut [&mut Session], ids: &[u32]) -> Result<()> {
        self.model.expect_on_cpu("a batch of sessions")?;
        sessions.iter().try_for_each(|session| session.model.expect_on_cpu("a batch of sessions"))?;
        let bad = |what, why: String| Err(Error::BadArgument { what, why });
        if sessions.is_empty() || sessions.len() != ids.len() {
            return bad("ids", format!("{} tokens for {} sessions; each takes one", ids.len(), sessions.len()));
        }
        if let Some(other) = sessions.iter().position(|session| !session.model.is(&self.model)) {
            return bad("sessions", format!("session {other} is of another model"));
        }
        let config = self.model.config();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size: config.vocab_size });
        }
        if let Some(full) = sessions.iter().find(|session| session.tokens >= session.options.ctx_size) {
            return Err(Error::ContextFull { limit: full.options.ctx_size });
        }
        let (n, checkpoint) = (ids.len(), self.model.checkpoint());
        self.scratch.reserve(n, n.min(HEAD_ROWS), checkpoint, &self.cpu)?;
        for session in sessions {
            session.make_room(1)?;
            session.scratch.reserve(0, 1, checkpoint, &session.cpu)?;
        }
        Ok(())
    }
}
