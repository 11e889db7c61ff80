//! One row: the samples of a test between two measurements of the machine.

use std::time::Instant;

use doge_engine::{
    model::{Model, Session, SessionOptions},
    ops::{Activations, Cpu, PeakKind, SPLIT_PARTS},
    roof::Roof,
    Dtype, Error, Float, Result,
};

use super::cost;
use crate::{
    failure::Failure,
    host,
    options::activations_of,
    samples::{self, Beside},
};

/// Tokens that a warm-up generates at most: enough for the clocks and the branch predictors.
const WARM_UP: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Prompt(usize),
    Generate(usize),
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Test::Prompt(tokens) => write!(f, "pp{tokens}"),
            Test::Generate(tokens) => write!(f, "tg{tokens}"),
        }
    }
}

/// What to measure of each model.
pub struct Bench {
    pub tests: Vec<Test>,
    pub depths: Vec<usize>,
    pub samples: usize,
    pub warms_up: bool,
    pub session: SessionOptions,
}

/// What a test is bound by.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Bytes that the CPU reads.
    Reading,
    /// Operations of the row's instruction.
    Arithmetic,
    /// Bytes that a device copies.
    Copy,
}

/// Who ran a test, and what bounds it there.
struct Ran {
    form: Activations,
    instruction: &'static str,
    isa: &'static str,
    threads: usize,
    limit: Limit,
}

impl Ran {
    fn on_cpu(cpu: &Cpu, test: Test, roofs: &Roofs, dtype: Dtype) -> Self {
        let (threads, limit) = match test {
            Test::Prompt(n) => (cpu.for_rows(n).threads(), Limit::Arithmetic),
            Test::Generate(_) => (cpu.threads(), Limit::Reading),
        };
        let instruction = roofs.arithmetic.peak_instruction(products(cpu, dtype).0);
        Ran { form: cpu.activations(), instruction, isa: cpu.kernels().isa().name(), threads, limit }
    }

    fn on_device(cpu: &Cpu, test: Test) -> Self {
        let form = match test {
            Test::Prompt(_) => cpu.activations(),
            Test::Generate(_) => Activations::F32, // tensor cores are for blocks
        };
        Ran { form, instruction: "cuda", isa: "cuda", threads: 1, limit: Limit::Copy }
    }
}

/// What is multiplied with weights of this format, and how many of these products make one.
fn products(cpu: &Cpu, dtype: Dtype) -> (PeakKind, f64) {
    if cpu.splits(dtype) {
        return (PeakKind::Bf16, SPLIT_PARTS as f64);
    }
    (cpu.peak_kind(dtype), 1.0)
}

/// What measures the limits.
struct Roofs {
    reads: Roof,
    arithmetic: Roof,
}

impl Roofs {
    fn buffer_bytes(&self) -> u64 {
        (self.reads.buffer_bytes() + self.arithmetic.buffer_bytes()) as u64
    }
}

/// One row of the table.
pub struct Row {
    pub model: String,
    pub dtype: Dtype,
    /// The form in which the weights meet their input.
    pub activations: &'static str,
    /// What multiplies them.
    pub instruction: &'static str,
    pub isa: &'static str,
    /// That ran it: the prompt's or the single token's.
    pub threads: usize,
    pub test: String,
    pub depth: usize,
    /// Of K and V.
    pub kv_dtype: Float,
    /// Tokens per second of each sample, in the order taken.
    pub samples: Vec<f64>,
    /// Read from memory for a token: weights once for a block of a prompt, and the state.
    pub bytes_per_token: f64,
    /// Of the matrices; a product and its sum are two.
    pub operations_per_token: f64,
    pub limit: Limit,
    pub roof: Beside,
    pub peak_rss_bytes: Option<u64>,
}

impl Row {
    pub fn median(&self) -> f64 {
        samples::median(self.samples.clone())
    }

    pub fn mad(&self) -> f64 {
        samples::mad(&self.samples)
    }

    /// What the limit limits, of one token.
    fn per_token(&self) -> f64 {
        match self.limit {
            Limit::Reading | Limit::Copy => self.bytes_per_token,
            Limit::Arithmetic => self.operations_per_token,
        }
    }

    pub fn roof_tokens_per_second(&self) -> f64 {
        self.roof.mean() / self.per_token()
    }

    pub fn percent_of_roof(&self) -> f64 {
        100.0 * self.median() / self.roof_tokens_per_second()
    }
}

impl Bench {
    /// Measures every test at every depth, and hands over each row as soon as it is there.
    pub fn rows(
        &self,
        name: &str,
        model: &Model,
        cpu: &Cpu,
        hand_over: &mut dyn FnMut(Row) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let state = Session::new(model, cpu, self.session)?.state_bytes(usize::MAX).min(usize::MAX as u128) as usize;
        // Reads for single tokens, arithmetic for blocks: each by the threads that run them.
        let reads = Roof::new(cpu, model.checkpoint().bytes_per_token().saturating_add(state))?;
        let roofs = Roofs { reads, arithmetic: Roof::new(&cpu.for_rows(2), 0)? };
        for &depth in &self.depths {
            // Taken in once; every sample goes on from a copy.
            let mut filled = Session::new(model, cpu, self.session)?;
            if depth > 0 {
                filled.feed(&tokens(model, depth)?)?;
            }
            for &test in &self.tests {
                hand_over(self.row(name, &filled, &roofs, test)?)?;
            }
        }
        Ok(())
    }

    fn row(&self, name: &str, filled: &Session, roofs: &Roofs, test: Test) -> Result<Row> {
        let (checkpoint, cpu) = (filled.model().checkpoint(), filled.cpu());
        let dtype = checkpoint.weights.embed_tokens.dtype();
        if self.warms_up {
            let short = match test {
                Test::Generate(tokens) => Test::Generate(tokens.min(WARM_UP)),
                prompt => prompt,
            };
            sample(filled, short)?;
        }
        let ran = if filled.model().is_on_device() { Ran::on_device(cpu, test) } else { Ran::on_cpu(cpu, test, roofs, dtype) };
        let working_set = checkpoint.bytes_per_token() + filled.bytes_per_token();
        let measure_roof = || match ran.limit {
            Limit::Copy => copy_bandwidth(filled.model()),
            Limit::Arithmetic => {
                let (kind, products) = products(cpu, dtype);
                Ok(roofs.arithmetic.peak(kind).operations_per_second / products)
            }
            Limit::Reading => Ok(roofs.reads.read_bandwidth(working_set)),
        };
        host::reset_peak_rss();
        let before = measure_roof()?;
        let (mut samples, mut state) = (Vec::with_capacity(self.samples), 0);
        for _ in 0..self.samples {
            let (rate, state_at_end) = sample(filled, test)?;
            samples.push(rate);
            state = (filled.bytes_per_token() + state_at_end) / 2;
        }
        let after = measure_roof()?;
        let peak_rss = host::peak_rss().map(|bytes| bytes.saturating_sub(roofs.buffer_bytes()));
        Ok(Row {
            model: name.to_string(),
            dtype,
            activations: activations_of(filled.model(), ran.form),
            instruction: ran.instruction,
            isa: ran.isa,
            threads: ran.threads,
            test: test.to_string(),
            depth: filled.tokens(),
            kv_dtype: self.session.kv_dtype,
            samples,
            bytes_per_token: cost::bytes_per_token(checkpoint, test, state, filled.block()),
            operations_per_token: cost::operations_per_token(checkpoint, test),
            limit: ran.limit,
            roof: Beside { before, after },
            peak_rss_bytes: peak_rss,
        })
    }
}

/// Tokens per second of one run, and the bytes of state that its last token read.
fn sample(filled: &Session, test: Test) -> Result<(f64, usize)> {
    let (mut session, cpu) = (filled.fork()?, filled.cpu());
    let (Test::Prompt(n) | Test::Generate(n)) = test;
    session.reserve(n)?;
    let time = match test {
        Test::Prompt(n) => {
            let prompt = tokens(filled.model(), n)?;
            let start = Instant::now();
            session.feed(&prompt)?;
            start.elapsed()
        }
        Test::Generate(n) => {
            let mut token = tokens(filled.model(), 1)?;
            let start = Instant::now();
            if session.model().is_on_device() {
                decode(&mut session, token[0], n)?;
            } else {
                for _ in 0..n {
                    token[0] = cpu.argmax(session.feed(&token)?)? as u32;
                }
            }
            start.elapsed()
        }
    };
    Ok((n as f64 / time.as_secs_f64(), session.bytes_per_token()))
}

#[cfg(feature = "cuda")]
fn copy_bandwidth(model: &Model) -> Result<f64> {
    model.device().map_or(Ok(f64::NAN), |device| device.copy_bandwidth())
}

#[cfg(not(feature = "cuda"))]
fn copy_bandwidth(_: &Model) -> Result<f64> {
    Ok(f64::NAN)
}

/// Steps without a look of the host.
#[cfg(feature = "cuda")]
fn decode(session: &mut Session, first: u32, n: usize) -> Result<()> {
    session.decode(first, n, &[]).map(|_| ())
}

#[cfg(not(feature = "cuda"))]
fn decode(_: &mut Session, _: u32, _: usize) -> Result<()> {
    Ok(())
}

/// `n` token ids all over the vocabulary, the same in every run.
fn tokens(model: &Model, n: usize) -> Result<Vec<u32>> {
    let vocab = model.config().vocab_size as u64;
    let mut tokens = Vec::new();
    let bytes = n as u128 * size_of::<u32>() as u128;
    tokens.try_reserve_exact(n).map_err(|_| Error::OutOfMemory { bytes, what: "the tokens of a test" })?;
    // A step of the golden ratio spreads them; the high bits are the good ones.
    tokens.extend((1..=n as u64).map(|i| (((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * vocab) >> 32) as u32));
    Ok(tokens)
}
