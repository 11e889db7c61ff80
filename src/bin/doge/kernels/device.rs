//! The rows of a GPU: calls recorded as a graph, replayed between two events.

use doge_engine::{
    cuda::{Device, Recorded},
    ops::{Activations, PeakKind},
    Dtype, Result,
};

use super::{
    counters::Counters,
    list::on_device::{DeviceEntry, DeviceJob},
    measure::{group, Bench, Calls, Mode, Plan, Row, What},
    roofs::{Machine, Roofs},
};
use crate::failure::Failure;

/// A replay costs the host some microseconds: a graph that takes less than this many seconds gets more calls.
const REPLAY: f64 = 1e-3;
const CALLS: usize = 64;
/// More copies than this would be copies of small things, whose launch takes longer than reading them from wherever they are.
const COPIES: usize = 512;
/// Of the smallest working set whose reading is measured.
const LEAST: usize = 1 << 20;

/// Entries on one GPU.
pub struct Gpu<'a> {
    device: Device,
    entries: &'a [DeviceEntry],
    roofs: Roofs<Memory>,
}

impl<'a> Gpu<'a> {
    pub fn new(device: Device, entries: &'a [DeviceEntry]) -> Result<Self> {
        let memory = Memory { device: device.clone(), l2: device.l2_bytes()? };
        Ok(Gpu { device, entries, roofs: Roofs::new(memory) })
    }
}

/// A GPU's memory: what its L2 cache holds is read from there, the rest is held against a copy.
struct Memory {
    device: Device,
    l2: usize,
}

impl Machine for Memory {
    fn bandwidth(&mut self, bytes: usize) -> Result<f64> {
        if bytes <= self.l2 {
            self.device.read_bandwidth(bytes)
        } else {
            self.device.copy_bandwidth()
        }
    }

    fn peak(&mut self, kind: PeakKind) -> Result<f64> {
        self.device.peak(kind)
    }

    fn instruction(&self, kind: PeakKind) -> &'static str {
        Device::peak_instruction(kind)
    }

    fn level(&self, bytes: usize) -> String {
        if bytes <= self.l2 { "L2" } else { "memory, copied" }.into()
    }

    fn measurable(&self, bytes: usize) -> usize {
        bytes.clamp(LEAST.min(self.l2), self.l2.saturating_add(1))
    }
}

impl Bench for Gpu<'_> {
    fn entries(&self) -> usize {
        self.entries.len()
    }

    fn row(&mut self, entry: usize, plan: Plan, _: Option<&mut Counters>) -> Result<Option<Row>, Failure> {
        let (entry, gpu) = (&self.entries[entry], &self.device);
        let (name, cost) = (&entry.entry, entry.entry.cost);
        let copies = match plan.mode {
            Mode::Hot => 1,
            Mode::Cold => (4 * self.roofs.machine.l2).div_ceil(cost.bytes.max(1)).max(2),
        };
        if copies > COPIES {
            return Ok(None);
        }
        let mut job = entry.make(gpu, copies)?;
        if plan.limit.is_none() {
            let worst = job.check(gpu)?;
            if !worst.passed() {
                let what = format!("{}/{}/cuda/{}", name.op, name.dtype, name.shape);
                return Err(Failure::Wrong { what, why: worst.what });
            }
        }
        let what = What {
            op: name.op,
            dtype: name.dtype.name(),
            isa: "cuda",
            shape: name.shape.clone(),
            mode: plan.mode,
            threads: 1, // the host's
            cost,
            kind: match (name.dtype, name.activations) {
                (Dtype::Bf16, Activations::Bf16) => PeakKind::Bf16,
                _ => PeakKind::F32,
            },
            working_set: copies * cost.bytes,
        };
        let recorded = |inputs, calls| {
            let graph = Recorded::new(gpu, inputs, calls, |inputs: &mut Inputs, call| {
                let Inputs { device, job, copies } = inputs;
                job.run(device, call % *copies)
            });
            Ok::<_, Failure>(Replays { graph: graph?, calls })
        };
        let mut replays = recorded(Inputs { device: gpu.clone(), job, copies }, copies)?;
        if copies < CALLS && replays.run(1)? < REPLAY {
            replays = recorded(replays.graph.into_job()?, copies * CALLS.div_ceil(copies))?;
        }
        group(what, &mut replays, &mut self.roofs, plan, None).map(Some)
    }
}

struct Inputs {
    device: Device,
    job: Box<dyn DeviceJob>,
    copies: usize,
}

/// Turns are replays.
struct Replays {
    graph: Recorded<Inputs>,
    calls: usize,
}

impl Calls for Replays {
    fn run(&mut self, turns: usize) -> Result<f64, Failure> {
        Ok(self.graph.seconds(turns)?)
    }

    fn of_a_turn(&self) -> usize {
        self.calls
    }
}
