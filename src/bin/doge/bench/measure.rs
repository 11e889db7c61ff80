//! One row: the samples of a test between two measurements of the machine.

use std::time::Instant;

use doge_engine::{
    model::{Model, Session, SessionOptions},
    ops::{Activations, Cpu, PeakKind, SPLIT_PARTS},
    roof::Roof,
    Dtype, Error, Float, Result,
};

use super::cost::Cost;
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

impl Test {
    pub fn tokens(self) -> usize {
        let (Test::Prompt(tokens) | Test::Generate(tokens)) = self;
        tokens
    }

    /// Tokens that go through the layers together, as far as it decides which threads run them.
    fn rows(self) -> usize {
        match self {
            Test::Prompt(tokens) => tokens,
            Test::Generate(_) => 1,
        }
    }
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

/// Who ran a test.
struct Ran {
    form: Activations,
    instruction: &'static str,
    isa: &'static str,
    threads: usize,
}

impl Ran {
    fn on_cpu(cpu: &Cpu, test: Test, roofs: &Roofs, dtype: Dtype) -> Self {
        let instruction = roofs.of(test).peak_instruction(products(cpu, dtype).0);
        let threads = cpu.for_rows(test.rows()).threads();
        Ran { form: cpu.activations(), instruction, isa: cpu.kernels().isa().name(), threads }
    }

    fn on_device(cpu: &Cpu, test: Test) -> Self {
        let form = match test {
            Test::Prompt(_) => cpu.activations(),
            Test::Generate(_) => Activations::F32, // tensor cores are for blocks
        };
        Ran { form, instruction: "cuda", isa: "cuda", threads: 1 }
    }
}

/// What is multiplied with weights of this format, and how many of these products make one.
fn products(cpu: &Cpu, dtype: Dtype) -> (PeakKind, f64) {
    if cpu.splits(dtype) {
        return (PeakKind::Bf16, SPLIT_PARTS as f64);
    }
    (cpu.peak_kind(dtype), 1.0)
}

/// What measures the limits: each by the threads that run the test.
struct Roofs {
    token: Roof,
    /// If these are others.
    block: Option<Roof>,
}

impl Roofs {
    /// For working sets of up to `bytes` bytes.
    fn new(cpu: &Cpu, bytes: usize) -> Result<Self> {
        let several = cpu.for_rows(2);
        let block = (several.threads() != cpu.threads()).then(|| Roof::new(&several, bytes)).transpose()?;
        Ok(Roofs { token: Roof::new(cpu, bytes)?, block })
    }

    fn of(&self, test: Test) -> &Roof {
        self.block.as_ref().filter(|_| test.rows() > 1).unwrap_or(&self.token)
    }

    fn buffer_bytes(&self) -> u64 {
        (self.token.buffer_bytes() + self.block.as_ref().map_or(0, Roof::buffer_bytes)) as u64
    }
}

/// Operations a second of such a token's, those of the matrices and those of attention each by its own instruction.
fn arithmetic(roof: &Roof, cpu: &Cpu, cost: Cost, dtype: Dtype, kv_dtype: Float) -> f64 {
    let ((kind, parts), of_attention) = (products(cpu, dtype), cpu.peak_kind(kv_dtype.into()));
    let peak = roof.peak(kind).operations_per_second;
    let peak_of_attention = if of_attention == kind { peak } else { roof.peak(of_attention).operations_per_second };
    cost.operations() / (cost.matrices * parts / peak + cost.attention / peak_of_attention)
}

/// One row of the table.
pub struct Row {
    pub model: String,
    pub dtype: Dtype,
    /// The form in which the weights meet their input.
    pub activations: &'static str,
    /// The form in which K and V meet the queries.
    pub attention: &'static str,
    /// What multiplies them.
    pub instruction: &'static str,
    pub isa: &'static str,
    /// That ran it: the prompt's or the single token's.
    pub threads: usize,
    pub test: String,
    pub depth: usize,
    /// Keys that are kept at most.
    pub keep_window: usize,
    /// Of K and V.
    pub kv_dtype: Float,
    /// Tokens per second of each sample, in the order taken.
    pub samples: Vec<f64>,
    pub cost: Cost,
    pub limit: Limit,
    pub roof: Beside,
    pub peak_rss_bytes: Option<u64>,
}

impl Row {
    /// What tells it from the others, for a message.
    pub fn name(&self) -> String {
        let Row { model, dtype, activations, isa, test, threads, depth, .. } = self;
        format!("{model} {dtype} × {activations} on {isa}, {test} at depth {depth}, {threads} threads")
    }

    pub fn median(&self) -> f64 {
        samples::median(self.samples.clone())
    }

    pub fn mad(&self) -> f64 {
        samples::mad(&self.samples)
    }

    /// What the limit limits, of one token.
    fn per_token(&self) -> f64 {
        match self.limit {
            Limit::Reading | Limit::Copy => self.cost.bytes,
            Limit::Arithmetic => self.cost.operations(),
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
        let empty = Session::new(model, cpu, self.session)?;
        let limit = empty.ctx_size();
        let every = self.depths.iter().flat_map(|&depth| self.tests.iter().map(move |&test| (depth, test)));
        if let Some((depth, test)) = every.into_iter().find(|(depth, test)| depth.saturating_add(test.tokens()) > limit) {
            return Err(Failure::Usage(format!("a sequence has at most {limit} tokens: too few for {test} at depth {depth}")));
        }
        let state = empty.state_bytes(usize::MAX).min(usize::MAX as u128) as usize;
        let roofs = Roofs::new(cpu, model.checkpoint().bytes_per_token().saturating_add(state))?;
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
        let (kv_dtype, on_device) = (self.session.kv_dtype, filled.model().is_on_device());
        let cost = Cost::of(filled, test);
        let ran = if on_device { Ran::on_device(cpu, test) } else { Ran::on_cpu(cpu, test, roofs, dtype) };
        let working_set = checkpoint.bytes_per_token() + cost.state as usize;
        let measured = |limit| match limit {
            Limit::Copy => copy_bandwidth(filled.model()),
            Limit::Arithmetic => Ok(arithmetic(roofs.of(test), cpu, cost, dtype, kv_dtype)),
            Limit::Reading => Ok(roofs.of(test).read_bandwidth(working_set)),
        };
        host::reset_peak_rss();
        let (limit, before) = if on_device {
            (Limit::Copy, measured(Limit::Copy)?)
        } else {
            // What takes longer at best.
            let (reading, arithmetic) = (measured(Limit::Reading)?, measured(Limit::Arithmetic)?);
            match cost.operations() / arithmetic > cost.bytes / reading {
                true => (Limit::Arithmetic, arithmetic),
                false => (Limit::Reading, reading),
            }
        };
        let samples = (0..self.samples).map(|_| sample(filled, test)).collect::<Result<Vec<f64>>>()?;
        let after = measured(limit)?;
        let peak_rss = host::peak_rss().map(|bytes| bytes.saturating_sub(roofs.buffer_bytes()));
        Ok(Row {
            model: name.to_string(),
            dtype,
            activations: activations_of(filled.model(), ran.form),
            attention: match ran.form {
                Activations::Bf16 if on_device || kv_dtype == Float::Bf16 => "bf16",
                _ => "f32",
            },
            instruction: ran.instruction,
            isa: ran.isa,
            threads: ran.threads,
            test: test.to_string(),
            depth: filled.tokens(),
            keep_window: checkpoint.config.keep_window_size,
            kv_dtype,
            samples,
            cost,
            limit,
            roof: Beside { before, after },
            peak_rss_bytes: peak_rss,
        })
    }
}

/// Tokens per second of one run.
fn sample(filled: &Session, test: Test) -> Result<f64> {
    let (mut session, cpu) = (filled.fork()?, filled.cpu());
    session.reserve(test.tokens())?;
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
    Ok(test.tokens() as f64 / time.as_secs_f64())
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
