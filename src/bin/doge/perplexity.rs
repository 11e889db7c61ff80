//! `doge perplexity`

use std::{
    io::{stdout, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use doge_engine::{
    model::SessionOptions,
    ops::Cpu,
    perplexity::{self, Comparison, Mean, Windows},
    pool::Pool,
    Dtype, Float,
};
use serde_json::{json, Value};

use crate::{
    engine::{self, Source},
    failure::Failure,
    input,
    options::{activations_of, CpuOptions, ModelOptions},
    report,
    threads::Work,
    version,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Md,
    Json,
}

/// Measures how well a model predicts a text file, and how far formats are apart
///
/// The text is cut into windows, each of which starts anew; a window's first token is not scored, nor what is left over
/// at the end. The error is the standard error of the mean over the tokens.
#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// The text, UTF-8
    pub file: PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub window: u32,
    /// Tokens from a window's start to the next one's; less than a window gives each token more before it, and takes longer
    /// [default: the window]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,
    /// Windows at most [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
    /// Format of K and V in memory: f32, bf16, f16
    #[arg(long, value_name = "FORMAT", default_value_t = Float::F32)]
    pub kv_dtype: Float,
    /// Load the model a second time in this format, with f32 activations, K and V, and compare token by token with that
    #[arg(long, value_name = "DTYPE")]
    pub kl_base: Option<Dtype>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub cpu: CpuOptions,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    pub output: Format,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

pub fn run(args: &PerplexityArgs) -> Result<ExitCode, Failure> {
    if let Some(stride) = args.stride.filter(|&stride| stride > args.window) {
        return Err(Failure::Usage(format!("--stride {stride} is more than the window, {}", args.window)));
    }
    let (device, kernels) = (engine::device(args.cpu.device, args.kv_dtype, args.quiet)?, engine::kernels(args.cpu.isa)?);
    let source = Source::find(&args.model, args.quiet)?;
    let checkpoint = source.checkpoint(&args.model.load_options())?;
    let generation_config = source.generation_config(&checkpoint)?;
    if !args.quiet {
        checkpoint.notes.iter().for_each(report::note);
    }
    let text = input::file(&args.file)?;
    let ids = source.with_bos(&generation_config, &checkpoint.config, source.tokenizer()?.encode(&text, true, true)?)?;

    let model = engine::place(checkpoint, &device, args.cpu.device, args.quiet)?;
    let form = args.cpu.activations.into();
    // There is nothing here but blocks.
    let threads = args.cpu.asked_threads().count(Work::Block, &model, kernels, form)?;
    let base_cpu = Cpu::new(kernels, Arc::new(Pool::new(threads)?));
    let cpu = base_cpu.clone().with_activations(form);
    let windows = Windows::of(args.window as usize)
        .stride(args.stride.unwrap_or(args.window) as usize)
        .count(args.windows.map_or(usize::MAX, |n| n as usize));
    let options = SessionOptions::default().kv_dtype(args.kv_dtype);
    let result = match args.kl_base {
        None => Measured { nll: perplexity::score(&model, &cpu, &ids, windows, options)?, beside: None },
        Some(dtype) => {
            let base = source.checkpoint(&args.model.load_options().dtype(dtype))?;
            let base = engine::place(base, &device, args.cpu.device, args.quiet)?;
            let comparison =
                perplexity::compare((&model, &cpu, options), (&base, &base_cpu, SessionOptions::default()), &ids, windows)?;
            Measured { nll: comparison.nll, beside: Some((dtype, comparison)) }
        }
    };
    let dtype = model.checkpoint().weights.embed_tokens.dtype();
    let text = match args.output {
        Format::Md => result.to_markdown(dtype),
        Format::Json => {
            let mut object = result.to_json(dtype);
            object["model"] = json!(source.name());
            object["file"] = json!(args.file.display().to_string());
            (object["window"], object["stride"]) = (json!(windows.window), json!(windows.stride));
            object["device"] = json!(device.to_string());
            object["activations"] = json!(activations_of(&model, form));
            object["kv_dtype"] = json!(args.kv_dtype.to_string());
            (object["isa"], object["threads"]) = (json!(cpu.kernels().isa().name()), json!(cpu.threads()));
            (object["commit"], object["version"]) = (json!(version::COMMIT), json!(env!("CARGO_PKG_VERSION")));
            object.to_string()
        }
    };
    writeln!(stdout(), "{text}").map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

struct Measured {
    nll: Mean,
    /// The format it was compared with.
    beside: Option<(Dtype, Comparison)>,
}

impl Measured {
    fn to_markdown(&self, dtype: Dtype) -> String {
        let (perplexity, error) = self.nll.exp();
        let mut text = format!(
            "| dtype | perplexity | tokens |\n|---|---:|---:|\n| {dtype} | {perplexity:.4} ± {error:.4} | {} |",
            self.nll.count
        );
        if let Some((base, comparison)) = &self.beside {
            let (base_perplexity, base_error) = comparison.base_nll.exp();
            let (ratio, ratio_error) = comparison.nll_difference.exp();
            let (kl, same) = (comparison.kl, comparison.same_top);
            text += &format!(
                "\n| {base} | {base_perplexity:.4} ± {base_error:.4} | {} |\n\n\
                 | {dtype} beside {base} | |\n|---|---:|\n\
                 | perplexity ratio | {ratio:.6} ± {ratio_error:.6} |\n\
                 | mean KL divergence, nats | {:.3e} ± {:.1e} |\n\
                 | same top token | {:.3} % ± {:.3} % |",
                comparison.base_nll.count,
                kl.mean,
                kl.error,
                100.0 * same.mean,
                100.0 * same.error,
            );
        }
        text
    }

    fn to_json(&self, dtype: Dtype) -> Value {
        let pair = |(value, error): (f64, f64)| json!({"value": value, "error": error});
        let mean = |mean: &Mean| pair((mean.mean, mean.error));
        let mut object = json!({
            "dtype": dtype.name(),
            "tokens": self.nll.count,
            "perplexity": pair(self.nll.exp()),
            "mean_nll": mean(&self.nll),
        });
        if let Some((base, comparison)) = &self.beside {
            object["beside"] = json!({
                "dtype": base.name(),
                "perplexity": pair(comparison.base_nll.exp()),
                "perplexity_ratio": pair(comparison.nll_difference.exp()),
                "mean_kl": mean(&comparison.kl),
                "same_top": mean(&comparison.same_top),
            });
        }
        object
    }
}
