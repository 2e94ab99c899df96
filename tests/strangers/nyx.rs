//! The reader of `.nyx` programs: damaged ones, and ones whose hashes are right and whose content is not.

use super::child::{Case, check, nyxc};
use super::folder::Folder;
use super::mutate::mutants;
use super::{FEW, MANY, pb};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// The small model as a program.
pub fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Folder::new("program");
        std::fs::write(folder.0.join("m.onnx"), pb::small()).unwrap();
        let args = ["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe"].map(str::to_owned);
        let done = nyxc(&args, &folder.0, &folder.0);
        assert!(done.status.success(), "{}", done.err);
        std::fs::read(folder.0.join("out.nyx")).unwrap()
    })
}

/// A `.npz` file with the small model's input.
pub fn inputs() -> Vec<u8> {
    use nyxc::ir::{DType, Tensor};
    let x = Tensor::from_f32s(DType::F32, &[1, 1, 3, 3], &[0.3, -1.2, 2.5, 0.7, -0.1, 4.0, 1.5, -2.25, 0.6]).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    nyxc::session::npz::write(&mut bytes, &[("x".to_owned(), x)]).unwrap();
    bytes.into_inner()
}

fn case(i: usize, name: String, bytes: Vec<u8>) -> Case {
    let (args, item): (&[&str], _) = match i % 3 {
        0 => (&["inspect", "p.nyx"], None),
        1 => (&["verify", "p.nyx"], None),
        _ => (&["run", "p.nyx", "--inputs", "in.npz", "--outputs", "out.npz", "--device", "cpu"], Some(inputs())),
    };
    let case = Case::of(name, "p.nyx", bytes, args, &[0, 3]);
    match item {
        Some(bytes) => case.with("in.npz", super::child::Item::Bytes(bytes)),
        None => case,
    }
}

fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    // Any change is refused: the hashes cover every byte.
    mutants(vec![program().to_vec()], n, seed).enumerate().map(|(i, (name, _, bytes))| {
        let is_same = bytes == program();
        Case { codes: if is_same { &[0] } else { &[3] }, ..case(i, name, bytes) }
    })
}

/// Header and data of a program.
fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + n]).unwrap(), bytes[8 + n..].to_vec())
}

/// A program of this header, whose hash is made right.
fn sealed(mut header: Value, data: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    let mut feed = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let texts = header["__metadata__"].as_object().unwrap();
    let mut texts: Vec<_> = texts.iter().filter(|(key, _)| *key != "nyxc_hash").collect();
    texts.sort_by_key(|(key, _)| key.as_str());
    for (key, text) in texts {
        feed(key.as_bytes());
        feed(text.as_str().unwrap().as_bytes());
    }
    let mut tensors: Vec<_> = header.as_object().unwrap().iter().filter(|(key, _)| *key != "__metadata__").collect();
    tensors.sort_by_key(|(_, info)| info["data_offsets"][0].as_u64());
    for (name, info) in tensors {
        feed(name.as_bytes());
        feed(info["dtype"].as_str().unwrap().as_bytes());
        let sizes = info["shape"].as_array().unwrap().iter().chain(info["data_offsets"].as_array().unwrap());
        feed(&sizes.flat_map(|n| n.as_u64().unwrap().to_le_bytes()).collect::<Vec<u8>>());
    }
    header["__metadata__"]["nyxc_hash"] = json!(hasher.finalize().to_hex().to_string());
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), data].concat()
}

/// The program with `change` made to its plans, hashes right.
fn with_plans(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (mut header, data) = parts(program());
    let mut plans: Value = serde_json::from_str(header["__metadata__"]["plans"].as_str().unwrap()).unwrap();
    change(&mut plans);
    header["__metadata__"]["plans"] = json!(plans.to_string());
    sealed(header, &data)
}

fn leaves<'v>(value: &'v mut Value, found: &mut Vec<&'v mut Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|v| leaves(v, found)),
        Value::Object(items) => items.values_mut().for_each(|v| leaves(v, found)),
        leaf => found.push(leaf),
    }
}

/// Programs whose hashes are right, with one to three values of their plans changed.
fn resealed(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(move |i| {
        let bytes = with_plans(|plans| {
            for _ in 0..rng.random_range(1..4) {
                let mut found = Vec::new();
                leaves(plans, &mut found);
                let at = rng.random_range(0..found.len());
                let leaf = &mut *found[at];
                *leaf = match &*leaf {
                    Value::Number(_) => [
                        json!(0),
                        json!(1),
                        json!(3),
                        json!(u64::MAX),
                        json!(1u64 << 63),
                        json!(u32::MAX),
                        json!(i64::MIN),
                        json!(0.5),
                    ][rng.random_range(0..8)]
                    .clone(),
                    Value::String(text) if text.len() > 1 => {
                        let mut text = text.clone().into_bytes();
                        for _ in 0..rng.random_range(1..3) {
                            let at = rng.random_range(0..text.len());
                            text[at] = b"0129-[](){}%#\"x,:."[rng.random_range(0..18)];
                        }
                        json!(String::from_utf8_lossy(&text))
                    }
                    Value::Bool(b) => json!(!b),
                    _ => Value::Null,
                };
            }
        });
        case(i, format!("resealed {i}"), bytes)
    })
}

#[test]
fn hostile_programs_are_refused() {
    let (header, data) = parts(program());
    let first = header.as_object().unwrap().keys().find(|k| k.starts_with("constant/")).unwrap().clone();
    let framed = |n: u64, rest: &[u8]| [&n.to_le_bytes()[..], rest].concat();
    let text = |text: &str| framed(text.len() as u64, text.as_bytes());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header);
        sealed(header, &data)
    };
    let cases: Vec<(&str, Vec<u8>, &'static str)> = vec![
        ("nothing", Vec::new(), "needed 8 bytes"),
        ("a header of 2^63 bytes", framed(1 << 63, b"{}"), "9223372036854775808"),
        ("a header of 2^64 - 1 bytes", framed(u64::MAX, b"{}"), "18446744073709551615"),
        ("a header of 99 MB in a file of 10 bytes", framed(99_000_000, b"{}"), "99000008"),
        ("a header without an end", text("{\"__metadata__\":{"), "p.nyx"),
        ("a header of brackets", text(&"[".repeat(1 << 20)), "p.nyx"),
        ("a header of nested objects", text(&"{\"a\":".repeat(1 << 18)), "p.nyx"),
        ("another safetensors file", text("{\"__metadata__\":{\"format\":\"pt\"}}"), "nyxc_format"),
        ("another version", changed(&|h| h["__metadata__"]["nyxc_format"] = json!("1")), "\"1\""),
        ("no plans", changed(&|h| h["__metadata__"]["plans"] = json!("[]")), "no plan"),
        ("plans of brackets", changed(&|h| h["__metadata__"]["plans"] = json!("[".repeat(100_000))), "plans"),
        (
            "constants that are not there",
            changed(&|h| h["__metadata__"]["constants"] = json!("[[\"constant/ff\",\"f32[1]\"]]")),
            "constant/ff",
        ),
        (
            "a shader without a name",
            changed(&|h| h["__metadata__"]["shaders"] = json!("[[\"shader/\",\"k\"]]")),
            "shader/",
        ),
        ("a constant of another type", changed(&|h| retype(h, &first, "f32[4611686018427387904,4]")), "constant/"),
        ("a constant of no type", changed(&|h| retype(h, &first, "f32[-1]")), "constant/"),
        (
            "a constant of endless sums",
            changed(&|h| retype(h, &first, &format!("f32[{}1]", "a+b*".repeat(100_000)))),
            "constant/",
        ),
        ("a target of another world", changed(&|h| h["__metadata__"]["target"] = json!("{}")), "target"),
        ("tensors that overlap", changed(&|h| h[&first]["data_offsets"] = json!([0, 1u64 << 62])), "p.nyx"),
        ("a tensor that ends before it begins", changed(&|h| h[&first]["data_offsets"] = json!([64, 0])), "p.nyx"),
        ("a tensor whose sizes overflow", changed(&|h| h[&first]["shape"] = json!([1u64 << 62, 1u64 << 62])), "p.nyx"),
        ("an arena of 2^64 - 1 bytes", with_plans(|p| p[0]["allocations"][0]["bytes"] = json!(u64::MAX)), "plan 0"),
        ("a peak that is not the sum", with_plans(|p| p[0]["planned_peak_bytes"] = json!(1)), "plan 0"),
        ("a graph that is none", with_plans(|p| p[0]["graph"] = json!("graph")), "graph"),
        ("a graph of nested bodies", with_plans(|p| p[0]["graph"] = json!(nested_bodies(10_000))), "graph"),
        (
            "a graph with an operand that is not defined",
            with_plans(|p| p[0]["graph"] = json!("graph g kernel\n  output %x\n")),
            "%x",
        ),
    ];
    let hostile = cases.into_iter().map(|(name, bytes, says)| {
        let says = if says == "needed 8 bytes" { "0 bytes" } else { says };
        Case::of(name, "p.nyx", bytes, &["inspect", "p.nyx"], &[3]).says(says)
    });
    check("nyx-hostile", hostile);
}

fn retype(header: &mut Value, name: &str, ty: &str) {
    let mut constants: Value = serde_json::from_str(header["__metadata__"]["constants"].as_str().unwrap()).unwrap();
    let row = constants.as_array_mut().unwrap().iter_mut().find(|c| c[0] == name).unwrap();
    row[1] = json!(ty);
    header["__metadata__"]["constants"] = json!(constants.to_string());
}

/// A text whose bodies nest `n` deep.
pub fn nested_bodies(n: usize) -> String {
    "graph g onnx\n  %y = if_op() {then_branch=(".repeat(n)
}

#[test]
fn sealing_gives_what_the_compiler_wrote() {
    let (header, data) = parts(program());
    let done = [Case::of("sealed again", "p.nyx", sealed(header, &data), &["verify", "p.nyx"], &[0])];
    check("nyx-sealed", done.into_iter());
}

#[test]
fn damaged_programs_are_refused() {
    check("nyx-few", damaged(FEW, 5).chain(resealed(FEW, 6)));
}

/// `cargo test --test strangers -- --ignored nyx`
#[test]
#[ignore = "two thousand files: make soak"]
fn a_thousand_damaged_programs_are_refused() {
    check("nyx-many", damaged(MANY, 7).chain(resealed(MANY, 8)));
}
