//! Every kernel of the list, on every ISA level of this machine, with inputs that stay in the caches:
//! `cargo bench`, or of some only, `cargo bench -- gemv/bf16`. Ids read op/dtype/isa/shape; criterion compares with its last
//! run. `doge kernels` measures the same list beside the roofs of the machine, hot and cold.

#[path = "../src/bin/doge/kernels/list/mod.rs"]
#[allow(dead_code, reason = "the command uses all of it")]
mod list;

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, Throughput};
use doge_engine::{ops::Cpu, pool::Pool, Kernels};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(250))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let entries = list::entries(list::PRESET).expect("a member of the family");
    let pool = Arc::new(Pool::new(Pool::default_threads()).expect("a thread pool"));
    for kernels in Kernels::available().rev() {
        for entry in entries.iter().filter(|entry| entry.main) {
            let cpu = entry.cpu(&Cpu::new(kernels, pool.clone()));
            if entry.runs_on(kernels) {
                bench(&mut criterion, entry, &cpu);
            }
        }
    }
    criterion.final_summary();
}

/// Makes the inputs only if the filter lets the bench run.
fn bench(criterion: &mut Criterion, entry: &list::Entry, cpu: &Cpu) {
    let id = entry.id(cpu);
    let mut group = criterion.benchmark_group(format!("{}/{}/{}", entry.op, entry.dtype, cpu.kernels().isa()));
    group.throughput(Throughput::Bytes(entry.cost.bytes as u64));
    group.bench_function(&entry.shape, |bencher| {
        let mut job = entry.make(&mut list::Store::new(1), cpu).expect("inputs of a kernel");
        let worst = job.check(cpu).expect("a call that is accepted");
        assert!(worst.passed(), "{id}: {}", worst.what);
        bencher.iter(|| job.run(cpu, 0));
    });
    group.finish();
}
