//! External data: only what is in the model's folder is read, and only where the file has it.

use super::child::{Case, Item, check};
use super::mutate::mutants;
use super::pb::*;
use super::{FEW, MANY};
use std::path::PathBuf;

const COMPILE: &[&str] = &["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe"];

fn data() -> Vec<u8> {
    (0..16).flat_map(|i| ((i as f32) * 0.3).cos().to_le_bytes()).collect()
}

/// A model whose weight [4,2] is at `entries` (location, offset, length).
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(key, value)| blob(13, [blob(1, key), blob(2, value)].concat())).collect();
    let weight = [int(1, 4), int(1, 2), int(2, 1), blob(8, "w"), entries, int(14, 1)].concat();
    model([node("MatMul", &["x", "w"], &["y"], &[]), input("x", &[1, 4]), blob(5, weight), output("y")].concat())
}

fn case(name: &str, entries: &[(&str, &str)], codes: &'static [i32], says: &'static str) -> Case {
    Case::of(name, "m.onnx", external(entries), COMPILE, codes).says(says).with("w.bin", Item::Bytes(data()))
}

#[test]
fn external_data_outside_the_folder_or_the_file_is_refused() {
    let at = |location| [("location", location)];
    let outside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let cases = vec![
        case("good data", &at("w.bin"), &[0], ""),
        case("the last bytes", &[("location", "w.bin"), ("offset", "32"), ("length", "32")], &[0], ""),
        case("a path up and down again", &at("../w.bin"), &[3], "inside the model's folder"),
        case("an absolute path", &at("/etc/passwd"), &[3], "inside the model's folder"),
        case("a path up in the middle", &at("sub/../w.bin"), &[3], "inside the model's folder"),
        case("no path", &at(""), &[3], "\"w\""),
        case("no location", &[], &[3], "\"w\""),
        case("the folder itself", &at("."), &[3], "not a file"),
        case("a file that is not there", &at("absent.bin"), &[3], "absent.bin"),
        case("a path with a zero byte", &at("w\0.bin"), &[3], "\"w\""),
        case("a path of a megabyte", &at(&"a/".repeat(1 << 19)), &[3], "\"w\""),
        case("an offset past the end", &[("location", "w.bin"), ("offset", "40")], &[3], "the file has 64 bytes"),
        case(
            "an offset that overflows",
            &[("location", "w.bin"), ("offset", "18446744073709551615")],
            &[3],
            "18446744073709551615",
        ),
        case("an offset beyond 2^64", &[("location", "w.bin"), ("offset", "18446744073709551616")], &[3], "offset"),
        case("a negative offset", &[("location", "w.bin"), ("offset", "-1")], &[3], "offset"),
        case(
            "a length that is not the tensor's",
            &[("location", "w.bin"), ("length", "9223372036854775808")],
            &[3],
            "length",
        ),
        case("a link out of the folder", &at("link"), &[3], "leads out").with("link", Item::Link(outside)),
        case("a folder that is a link", &at("link/passwd"), &[3], "leads out")
            .with("link", Item::Link(PathBuf::from("/etc"))),
        case("a link to itself", &at("link"), &[3], "\"w\"").with("link", Item::Link(PathBuf::from("link"))),
        case("a link within the folder", &at("link"), &[0], "").with("link", Item::Link(PathBuf::from("w.bin"))),
        case("a pipe", &at("pipe"), &[3], "not a file").with("pipe", Item::Pipe),
        case("a device", &at("link"), &[3], "leads out").with("link", Item::Link(PathBuf::from("/dev/zero"))),
        case("the model itself as data", &at("m.onnx"), &[0, 3], ""),
    ];
    check("external-hostile", cases.into_iter());
}

#[test]
fn tensors_may_overlap_in_their_file() {
    let weight = |name: &str, offset: &str| {
        let entry = |key: &str, value: &str| blob(13, [blob(1, key), blob(2, value)].concat());
        blob(
            5,
            [
                int(1, 4),
                int(1, 2),
                int(2, 1),
                blob(8, name),
                entry("location", "w.bin"),
                entry("offset", offset),
                int(14, 1),
            ]
            .concat(),
        )
    };
    let graph = [
        node("MatMul", &["x", "v"], &["y"], &[]),
        node("MatMul", &["x", "w"], &["z"], &[]),
        input("x", &[1, 4]),
        weight("v", "0"),
        weight("w", "2"),
        output("y"),
        output("z"),
    ];
    let case =
        Case::of("overlapping", "m.onnx", model(graph.concat()), COMPILE, &[0]).with("w.bin", Item::Bytes(data()));
    check("external-overlap", std::iter::once(case));
}

fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let seeds = vec![external(&[("location", "w.bin"), ("offset", "32"), ("length", "32")])];
    mutants(seeds, n, seed).enumerate().map(|(i, (name, _, bytes))| {
        let mut data = data();
        if i % 3 == 2 {
            data.truncate(bytes.len() % 64);
        }
        Case::of(name, "m.onnx", bytes, COMPILE, &[0, 3, 4]).with("w.bin", Item::Bytes(data))
    })
}

#[test]
fn damaged_models_with_external_data_are_refused_or_good() {
    check("external-few", damaged(FEW, 3));
}

/// `cargo test --test strangers -- --ignored external`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_thousand_damaged_models_with_external_data_are_refused_or_good() {
    check("external-many", damaged(MANY, 4));
}
