//! A `.npz` file: arrays of at most 1 MiB are unpacked, and what was read is written and read alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nyxc::session::npz;
use std::io::Cursor;

fuzz_target!(|bytes: &[u8]| {
    let mut is_small = |_: &str, ty: &nyxc::ir::TensorType| ty.bytes().is_some_and(|n| n <= 1 << 20);
    let Ok(arrays) = npz::read(Cursor::new(bytes), &mut is_small) else { return };
    let arrays: Vec<_> = arrays.into_iter().collect();
    let mut written = Cursor::new(Vec::new());
    if npz::write(&mut written, &arrays).is_err() {
        return;
    }
    let again = npz::read(Cursor::new(written.into_inner()), &mut |_, _| true).expect("what was written reads");
    assert_eq!(again.into_iter().collect::<Vec<_>>(), arrays);
});
