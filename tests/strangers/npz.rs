//! The reader of `.npz` files: `nyxc run --inputs`.

use super::child::{Case, Item, check};
use super::mutate::mutants;
use super::nyx::{inputs, program};
use super::{FEW, MANY};
use std::io::Write;
use zip::write::SimpleFileOptions;

const RUN: &[&str] = &["run", "p.nyx", "--inputs", "in.npz", "--outputs", "out.npz", "--device", "cpu"];

fn case(name: impl Into<String>, bytes: Vec<u8>, codes: &'static [i32]) -> Case {
    Case::of(name, "in.npz", bytes, RUN, codes).with("p.nyx", Item::Bytes(program().to_vec()))
}

/// A `.npy` array of this header and `n_zeros` zeros.
fn npy(to: &mut impl Write, header: &str, n_zeros: usize) {
    let header = format!("{header:<117}\n");
    to.write_all(b"\x93NUMPY\x01\x00").unwrap();
    to.write_all(&u16::try_from(header.len()).unwrap().to_le_bytes()).unwrap();
    to.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 16];
    let mut left = n_zeros;
    while left > 0 {
        let n = left.min(zeros.len());
        to.write_all(&zeros[..n]).unwrap();
        left -= n;
    }
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")
}

/// A deflated file of arrays.
fn zipped(arrays: &[(&str, String, usize)]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut archive = zip::ZipWriter::new(&mut bytes);
    for (name, header, n_zeros) in arrays {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default().large_file(true)).unwrap();
        npy(&mut archive, header, *n_zeros);
    }
    archive.finish().unwrap();
    bytes.into_inner()
}

/// A field of the end of central directory, 22 bytes before the end, set.
fn with_end(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = inputs();
    let start = bytes.len() - 22 + at;
    bytes[start..start + value.len()].copy_from_slice(value);
    bytes
}

fn raw(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut archive = zip::ZipWriter::new(&mut bytes);
    archive.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
    archive.write_all(payload).unwrap();
    archive.finish().unwrap();
    bytes.into_inner()
}

#[test]
fn hostile_arrays_are_refused() {
    let good = header("<f4", "(1, 1, 3, 3)");
    let one = |descr: &str, shape: &str, n_zeros| zipped(&[("x", header(descr, shape), n_zeros)]);
    let refused = |name: &str, bytes, says| case(name, bytes, &[3]).says(says);
    let cases = vec![
        case("the right array", one("<f4", "(1, 1, 3, 3)", 36), &[0]),
        refused(
            "a bomb of 400 MB in the input's place",
            one("<f4", "(100000000,)", 400_000_000),
            "expected f32[1,1,3,3]",
        ),
        refused(
            "a bomb beside the input",
            zipped(&[("bomb", header("<f4", "(100000000,)"), 400_000_000), ("x", good.clone(), 36)]),
            "no input \"bomb\"",
        ),
        refused("a bomb behind the input's data", one("<f4", "(1, 1, 3, 3)", 400_000_000), "more are given"),
        refused(
            "a bomb and no input",
            zipped(&[("bomb", header("<f4", "(100000000,)"), 400_000_000)]),
            "no input \"bomb\"",
        ),
        refused("sizes that overflow", one("<f4", "(4611686018427387904, 4611686018427387904)", 36), "\"x\""),
        refused("a size beyond 2^64", one("<f4", "(99999999999999999999,)", 36), "shape"),
        refused("a negative size", one("<f4", "(-1, 1, 3, 3)", 36), "shape"),
        refused("too little data", one("<f4", "(1, 1, 3, 3)", 35), "needs 36 bytes, 35 given"),
        refused("a type that is not read", one(">f4", "(1, 1, 3, 3)", 36), ">f4"),
        refused("objects, which Python would execute", one("|O", "(1, 1, 3, 3)", 36), "|O"),
        refused("no array", raw("x", b"hello"), "\"x\""),
        refused("a version of tomorrow", raw("x", b"\x93NUMPY\x09\x00\x00\x00\x00\x00"), "version 9"),
        refused("a header of 4 GB", raw("x", b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "4294967295"),
        refused("a header without a shape", raw("x", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}"), "fortran_order"),
        refused("nothing", Vec::new(), "in.npz"),
        refused("no zip file", b"PK\x03\x04 and so on".repeat(100), "in.npz"),
        case("65,535 entries that are not there", with_end(8, &[0xff; 4]), &[0, 3]),
        refused("a directory past the end", with_end(16, &[0xff, 0xff, 0xff, 0x7f]), "in.npz"),
        case("a directory of 4 GB", with_end(12, &[0xfe, 0xff, 0xff, 0xff]), &[0, 3]),
        Case::of("no file", "p.nyx", program().to_vec(), RUN, &[6]).says("in.npz"),
        Case::of("a folder", "p.nyx", program().to_vec(), RUN, &[3, 6]).with("in.npz", Item::Folder),
    ];
    check("npz-hostile", cases.into_iter());
}

fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let seeds = vec![inputs(), zipped(&[("x", header("<f8", "(1, 1, 3, 3)"), 72)])];
    mutants(seeds, n, seed).map(|(name, _, bytes)| case(name, bytes, &[0, 3]))
}

#[test]
fn damaged_arrays_are_refused_or_good() {
    check("npz-few", damaged(FEW, 11));
}

/// `cargo test --test strangers -- --ignored npz`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_thousand_damaged_arrays_are_refused_or_good() {
    check("npz-many", damaged(MANY, 12));
}
