#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| doge_engine_fuzz::targets::doors(data));
