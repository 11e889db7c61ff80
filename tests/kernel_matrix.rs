//! Every kernel of every ISA level against the reference: level × check × stored format × case.
//!
//! The grid it prints shows the worst error as a fraction of its budget. A level that cannot run here is printed as such, and
//! fails the test if `DOGE_REQUIRE_ISA` (a list of levels, or `all`) names it. A test that ends with a memory fault
//! has read outside an input; `DOGE_TRACE=1` prints each case before it runs, the last line names it.

mod common;

use std::{
    io::Write,
    panic::{catch_unwind, AssertUnwindSafe},
};

use common::{
    checks::{Check, CHECKS},
    close::Worst,
};
use doge_engine::{ops::Cpu, Dtype, Isa, Kernels};

/// Past the test harness, which would swallow the grid of a test that passes.
macro_rules! say { ($($format:tt)*) => { writeln!(std::io::stderr(), $($format)*).expect("stderr") } }

#[test]
fn every_kernel_is_close_to_the_reference() {
    let required = required_levels();
    let mut failures = Vec::new();
    say!("\nworst error as a fraction of its budget");
    for &isa in Isa::ALL {
        let cpu = match Kernels::for_isa(isa) {
            Ok(kernels) => common::cpu(kernels, 1),
            Err(error) => {
                say!("{:10}  n.a.: {error}", isa.name());
                if required.contains(&isa) {
                    failures.push(format!("{isa} is required (DOGE_REQUIRE_ISA) and did not run: {error}"));
                } else if isa == Isa::Scalar {
                    failures.push(format!("{isa} runs anywhere, and did not: {error}"));
                }
                continue;
            }
        };
        for check in CHECKS {
            for &dtype in check.dtypes {
                let (cases, worst) = run_all(&cpu, check, dtype);
                let verdict = if worst.passed() { "ok" } else { "FAILED" };
                let (level, format) = (isa.name(), dtype.name());
                say!(
                    "{level:10}  {:28}{format:5} {verdict:6} {:9.2e} {cases:5} cases  {:?}",
                    check.op,
                    worst.fraction,
                    check.class
                );
                if !worst.passed() {
                    failures.push(format!("{isa} {} {dtype}: {}", check.op, worst.what));
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The worst of a check's cases and their number. The message names the case.
fn run_all(cpu: &Cpu, check: &Check, dtype: Dtype) -> (usize, Worst) {
    let trace = std::env::var_os("DOGE_TRACE").is_some();
    let cases = (check.cases)(cpu.kernels().lanes());
    let run = |case| {
        if trace {
            say!("{} {} {dtype} {case}", cpu.kernels().isa(), check.op);
        }
        let worst = catch_unwind(AssertUnwindSafe(|| (check.run)(cpu, dtype, case)))
            .unwrap_or_else(|_| Worst::failure("panicked; its message is above".into()));
        Worst { what: format!("{case}: {}", worst.what), ..worst }
    };
    (cases.len(), cases.iter().map(run).fold(Worst::default(), Worst::max))
}

/// The levels of `DOGE_REQUIRE_ISA`; build.rs refuses an unknown word.
fn required_levels() -> Vec<Isa> {
    let words = std::env::var("DOGE_REQUIRE_ISA").unwrap_or_default();
    let wanted = |isa: &&Isa| words.split(',').any(|word| word.trim() == isa.name() || word.trim() == "all");
    Isa::ALL.iter().filter(wanted).copied().collect()
}

/// A kernel enters the table together with its check.
#[test]
fn every_pointer_of_the_table_has_its_check() {
    assert_eq!(CHECKS.iter().map(|check| check.dtypes.len()).sum::<usize>(), Kernels::COUNT);
    let mut ops: Vec<&str> = CHECKS.iter().map(|check| check.op).collect();
    ops.dedup();
    assert_eq!(ops.len(), CHECKS.len(), "an operation stands twice in CHECKS");
}
