//! Ctrl-C: the first one ends a generation cleanly, one at any other time, or a second one, ends the process.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Arc,
};

use signal_hook::{
    consts::SIGINT,
    flag::{register, register_conditional_shutdown},
};

use crate::failure::{Failure, INTERRUPTED};

pub struct Interrupt {
    /// Set by Ctrl-C: ends the generation at hand.
    cancel: Arc<AtomicBool>,
    /// Does the next Ctrl-C end the process? Also set by Ctrl-C.
    fatal: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over SIGINT. Until [`Interrupt::begin`] it ends the process, with the same exit code as afterwards.
    pub fn install() -> Result<Self, Failure> {
        let interrupt = Interrupt { cancel: Arc::default(), fatal: Arc::new(AtomicBool::new(true)) };
        let system = |source| Failure::System { what: "cannot handle Ctrl-C", source };
        // The order matters: the check comes before the mark, or the first Ctrl-C would be fatal.
        register_conditional_shutdown(SIGINT, INTERRUPTED.into(), interrupt.fatal.clone()).map_err(system)?;
        register(SIGINT, interrupt.fatal.clone()).map_err(system)?;
        register(SIGINT, interrupt.cancel.clone()).map_err(system)?;
        Ok(interrupt)
    }

    /// From here on, the first Ctrl-C sets the flag that is returned.
    pub fn begin(&self) -> &AtomicBool {
        self.cancel.store(false, Ordering::Relaxed);
        self.fatal.store(false, Ordering::Relaxed);
        &self.cancel
    }

    /// From here on, Ctrl-C ends the process.
    pub fn end(&self) {
        self.fatal.store(true, Ordering::Relaxed);
    }
}
