//! The table of checks: every pointer of the kernel table against the reference. The matrix, the property tests and the
//! benches all walk it.

mod activations;
pub mod attention;
mod experts;
pub mod linear;
mod linear_bf16;
mod linear_int;
mod norms;
mod roof;
mod rows;

use bytemuck::Pod;
use doge_engine::{ops::Cpu, Dtype};

use super::{cases::Case, close::Worst, guarded::Painted};

/// How an operation is held against the reference, and on what.
pub struct Check {
    /// The operation's name in kernels/doge_kernels.h.
    pub op: &'static str,
    /// The stored formats of its weights; one entry for each pointer the table has for it.
    pub dtypes: &'static [Dtype],
    pub class: Class,
    /// The cases for a level with this many lanes.
    pub cases: fn(usize) -> Vec<Case>,
    /// Runs one case; an error above its budget, a write outside the outputs or a refused call is a failure.
    pub run: fn(&Cpu, Dtype, &Case) -> Worst,
}

/// See `doge_engine::reference::close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Exact,
    Elementwise,
    Reduction,
    Composed,
}

/// No weights of a stored format: vectors and activations are f32.
const VECTORS: &[Dtype] = &[Dtype::F32];
const WEIGHTS: &[Dtype] = &Dtype::ALL;
const FLOATS: &[Dtype] = &Dtype::FLOATS;
const INTS: &[Dtype] = &Dtype::INTS;

pub const CHECKS: &[Check] = &[
    Check { op: "embed_row", dtypes: WEIGHTS, class: Class::Exact, cases: rows::embed_cases, run: rows::embed },
    Check { op: "rms_norm", dtypes: VECTORS, class: Class::Composed, cases: norms::cases, run: norms::rms_norm },
    Check {
        op: "residual_rms_norm",
        dtypes: VECTORS,
        class: Class::Composed,
        cases: norms::cases,
        run: norms::residual_rms_norm,
    },
    Check { op: "qk_norm", dtypes: VECTORS, class: Class::Composed, cases: norms::cases, run: norms::qk_norm },
    Check { op: "rope", dtypes: VECTORS, class: Class::Elementwise, cases: rows::rope_cases, run: rows::rope },
    Check { op: "gemv", dtypes: FLOATS, class: Class::Reduction, cases: linear::gemv_cases, run: linear::linear },
    Check { op: "gemm", dtypes: FLOATS, class: Class::Reduction, cases: linear::gemm_cases, run: linear::linear },
    Check { op: "round_row", dtypes: VECTORS, class: Class::Exact, cases: linear_bf16::round_cases, run: linear_bf16::round_row },
    Check {
        op: "gemv_bf16",
        dtypes: &[Dtype::Bf16],
        class: Class::Reduction,
        cases: linear::gemv_cases,
        run: linear_bf16::linear,
    },
    Check {
        op: "gemm_bf16",
        dtypes: &[Dtype::Bf16],
        class: Class::Reduction,
        cases: linear::gemm_cases,
        run: linear_bf16::linear,
    },
    Check {
        op: "split_row",
        dtypes: VECTORS,
        class: Class::Elementwise,
        cases: linear_bf16::round_cases,
        run: linear_bf16::split_row,
    },
    Check {
        op: "gemv_split",
        dtypes: &[Dtype::Bf16],
        class: Class::Reduction,
        cases: linear::gemv_cases,
        run: linear_bf16::split_linear,
    },
    Check {
        op: "gemm_split",
        dtypes: &[Dtype::Bf16],
        class: Class::Reduction,
        cases: linear::gemm_cases,
        run: linear_bf16::split_linear,
    },
    Check {
        op: "quantize_row",
        dtypes: VECTORS,
        class: Class::Exact,
        cases: linear_int::quantize_cases,
        run: linear_int::quantize_row,
    },
    Check { op: "gemv_int", dtypes: INTS, class: Class::Reduction, cases: linear::gemv_cases, run: linear_int::linear },
    Check { op: "gemm_int", dtypes: INTS, class: Class::Reduction, cases: linear::gemm_cases, run: linear_int::linear },
    Check {
        op: "mask_score",
        dtypes: VECTORS,
        class: Class::Composed,
        cases: activations::mask_score_cases,
        run: activations::mask_score,
    },
    Check { op: "dynamic_mask_attention", dtypes: FLOATS, class: Class::Composed, cases: attention::cases, run: attention::run },
    Check {
        op: "dynamic_mask_attention_bf16",
        dtypes: &[Dtype::Bf16],
        class: Class::Composed,
        cases: attention::cases,
        run: attention::run_rounded,
    },
    Check {
        op: "gated_activation",
        dtypes: VECTORS,
        class: Class::Elementwise,
        cases: activations::cases,
        run: activations::run,
    },
    Check {
        op: "product_key_router",
        dtypes: VECTORS,
        class: Class::Composed,
        cases: experts::router_cases,
        run: experts::router,
    },
    Check { op: "expert_down", dtypes: WEIGHTS, class: Class::Composed, cases: experts::cases, run: experts::down },
    Check { op: "expert_up", dtypes: WEIGHTS, class: Class::Reduction, cases: experts::cases, run: experts::up },
    Check { op: "argmax", dtypes: VECTORS, class: Class::Exact, cases: rows::argmax_cases, run: rows::argmax },
    Check { op: "read_words", dtypes: VECTORS, class: Class::Exact, cases: roof::read_cases, run: roof::read_words },
    Check { op: "peak", dtypes: VECTORS, class: Class::Exact, cases: roof::peak_cases, run: roof::peak },
];

/// A failure if something outside the output was written.
fn intact<T: Pod>(name: &str, out: &Painted<T>) -> Worst {
    match out.trespass() {
        Some(i) => Worst::failure(format!("{name}: wrote to [{i}], outside its {} elements", out.get().len())),
        None => Worst::default(),
    }
}

/// A failure if the door refused the call.
fn accepted(result: doge_engine::Result<()>) -> Worst {
    match result {
        Ok(()) => Worst::default(),
        Err(error) => Worst::failure(format!("the call was refused: {error}")),
    }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

fn magnitudes(x: &[f32]) -> Vec<f32> {
    x.iter().copied().map(f32::abs).collect()
}
