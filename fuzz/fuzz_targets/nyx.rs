//! A program. Hashes are not compared under `cfg(fuzzing)`, or nothing behind them would ever be reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nyxc::program::file;
use nyxc::session::Reference;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let Ok(program) = file::read(Arc::new(bytes.to_vec())) else { return };
    for plan in 0..program.plans.len() {
        let _ = Reference::of(&program, plan);
    }
    let _ = file::to_bytes(&program);
});
