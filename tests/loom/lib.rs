//! src/pool.rs, and as much of the crate around it as it needs.
#![cfg_attr(not(loom), allow(dead_code, reason = "there is nothing here without loom"))]

#[path = "../../src/pool.rs"]
pub mod pool;

#[derive(Debug)]
pub enum Error {
    BadArgument { what: &'static str, why: String },
}

pub type Result<T> = std::result::Result<T, Error>;
