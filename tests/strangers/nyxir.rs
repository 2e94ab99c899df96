//! The reader of `.nyxir` texts, and of the constants beside them.

use super::child::{Case, Item, check, nyxc};
use super::folder::Folder;
use super::mutate::mutants;
use super::nyx::nested_bodies;
use super::{FEW, MANY, pb};
use std::process::Command;

const CONSTS: &str = "m.nyxir.consts.safetensors";
const PASS: &[&str] = &["pass", "fold_constants,decompose,fuse", "m.nyxir"];
const VERIFY: &[&str] = &["verify", "m.nyxir"];
const PRINT: &[&str] = &["print", "m.nyxir"];

/// A text whose constant is beside it.
const STORED: &str = "graph g onnx\n  %x = input : f32[16] 64B\n  %c = const #HASH : f32[16] 64B\n  %y = add(%x, %c) : f32[16] 64B\n  output %y\n";

/// Entries over states.
const ENTRIES: &str = "module m
entry step
graph m onnx
  %x = input : f32[1,4]
  %kv = state fill [0.5] : f16[8,4]
  %pos = state [0] : i64[1]
  %one = const [1] : i64[1]
  %kv.1 = state_store(%kv, %x, %pos) {axis=0} : f16[8,4]
  %behind = add(%pos, %one) : i64[1]
  %pos.1 = state_store(%pos, %behind) : i64[1]
  output %kv.1
  state %kv = %kv.1
  state %pos = %pos.1
entry read
graph m onnx
  %kv = state fill [0.5] : f16[8,4]
  output %kv
";

/// The text and the constants of [`STORED`].
fn stored() -> (Vec<u8>, Vec<u8>) {
    use nyxc::ir::{DType, Tensor};
    let values: Vec<f32> = (0..16).map(|i| (i as f32 * 0.9).sin()).collect();
    let tensor = Tensor::from_f32s(DType::F32, &[16], &values).unwrap();
    let hash = tensor.hash().to_string();
    (STORED.replace("HASH", &hash).into_bytes(), safetensors(&hash, "[16]", "[0,64]", tensor.bytes().unwrap()))
}

fn safetensors(name: &str, shape: &str, offsets: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}");
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Texts of the small model: as imported, and as the kernels have it.
fn texts() -> Vec<Vec<u8>> {
    let folder = Folder::new("texts");
    let path = folder.0.join("m.onnx");
    std::fs::write(&path, pb::small()).unwrap();
    let text = |args: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_nyxc")).args(args).arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    vec![text(&["print"]), text(&["pass", "decompose,lower_quantized,fuse"]), stored().0, ENTRIES.into()]
}

fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let texts = texts();
    let (good, consts) = stored();
    let beside = mutants(vec![consts], n / 4, seed + 100);
    let beside = beside.map(move |(name, _, bytes)| {
        Case::of(format!("constants {name}"), "m.nyxir", good.clone(), PASS, &[0, 3]).with(CONSTS, Item::Bytes(bytes))
    });
    let texts = mutants(texts, n - n / 4, seed).enumerate();
    texts
        .map(|(i, (name, _, bytes))| Case::of(name, "m.nyxir", bytes, [PASS, VERIFY, PRINT][i % 3], &[0, 3]))
        .chain(beside)
}

fn text(name: &str, body: &str, says: &'static str) -> Case {
    Case::of(name, "m.nyxir", body.into(), PASS, &[3]).says(says)
}

/// One operator on one input.
fn operator(name: &str, line: &str, says: &'static str) -> Case {
    text(name, &format!("graph g onnx\n  %x = input : f32[2,3] 24B\n  {line}\n  output %y\n"), says)
}

#[test]
fn hostile_texts_are_refused() {
    let nested = |open: &str| open.repeat(100_000);
    let (good, _) = stored();
    let stored_as = |name: &str, consts: Vec<u8>, says| {
        Case::of(name, "m.nyxir", good.clone(), VERIFY, &[0, 3]).with(CONSTS, Item::Bytes(consts)).says(says)
    };
    let cases = vec![
        text("nothing", "", "line 1, column 1"),
        Case::of("no UTF-8", "m.nyxir", vec![b'g', 0xff, 0xfe], VERIFY, &[3]).says("m.nyxir"),
        text("bodies within bodies", &nested_bodies(100_000), "nested too deeply"),
        text(
            "divisions within divisions",
            &format!("graph g onnx\n  %x = input : f32[{}", nested("floordiv(")),
            "nested too deeply",
        ),
        text(
            "functions within functions",
            &format!("graph g core\n  %x = input : f32[1]\n  %y = pointwise(%x) {{expr=`{}", nested("neg(")),
            "line 3",
        ),
        text("a sum without end", &format!("graph g onnx\n  %x = input : f32[{}", nested("a+b*")), "line 2"),
        text("a product without end", &format!("graph g onnx\n  %x = input : f32[{}", nested("a*")), "line 2"),
        text("a list that ends in f[in", "graph g onnx\n  %x = input : f32[1]\n  %y = relu(%x) {a=f[in", "line 3"),
        text(
            "a list that ends in f[in and more",
            "graph g onnx\n  %x = input : f32[1]\n  %y = relu(%x) {a=f[in\u{20ac}",
            "line 3",
        ),
        text("a string without end", "graph g onnx\n  %\"x", "line 2"),
        text("a size that is no number", "graph g onnx\n  %x = input : f32[99999999999999999999]", "line 2"),
        text(
            "values for a huge type",
            "graph g onnx\n  %x = const [1.0] : f32[4611686018427387904,4]\n  output %x\n",
            "line 2",
        ),
        text("a hash of 65 digits", &format!("graph g onnx\n  %x = const #{} : f32[1]\n", "0".repeat(65)), "no hash"),
        text("a packing of no block", "graph g onnx\n  %x = input : i4<g0:f16>[1]", "no packing"),
        text(
            "an operand from below",
            "graph g onnx\n  %a = relu(%b) : f32[1]\n  %b = relu(%a) : f32[1]\n  output %b\n",
            "%b is not defined",
        ),
        text("a value defined twice", "graph g onnx\n  %x = input : f32[1]\n  %x = input : f32[1]\n", "defined twice"),
        text(
            "two values of one name in one line",
            "graph g onnx\n  %x = input : f32[2]\n  %y, %y = split(%x) {axis=0} : f32[1], f32[1]\n",
            "defined twice",
        ),
        operator("an operator that does not exist", "%y = frobnicate(%x) : f32[2,3] 24B", "frobnicate"),
        operator(
            "a type that the rule does not give",
            "%y = relu(%x) : f32[4611686018427387904,2,3]",
            "its rule gives",
        ),
        operator(
            "a transpose by a huge axis",
            "%y = transpose(%x) {perm=[9223372036854775807,-9223372036854775808]} : f32[3,2]",
            "m.nyxir",
        ),
        operator(
            "a concatenation along a huge axis",
            "%y = concat(%x, %x) {axis=9223372036854775807} : f32[4,3]",
            "m.nyxir",
        ),
        stored_as("constants cut short", stored().1[..40].to_vec(), CONSTS),
        stored_as("constants with a header of 2^63 bytes", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat(), CONSTS),
        stored_as(
            "constants past the end",
            safetensors("0123456789abcdef", "[16]", "[0,1152921504606846976]", b""),
            CONSTS,
        ),
        stored_as(
            "constants whose sizes overflow",
            safetensors("0123456789abcdef", "[4611686018427387904,4611686018427387904]", "[0,0]", b""),
            CONSTS,
        ),
        Case::of("constants that are a pipe's name", "m.nyxir", good.clone(), VERIFY, &[3, 6])
            .with(CONSTS, Item::Folder),
    ];
    check("nyxir-hostile", cases.into_iter());
}

#[test]
fn damaged_texts_are_refused_or_good() {
    check("nyxir-few", damaged(FEW, 9));
}

/// `cargo test --test strangers -- --ignored nyxir`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_thousand_damaged_texts_are_refused_or_good() {
    check("nyxir-many", damaged(MANY, 10));
}

#[test]
fn stored_constants_are_read() {
    let (good, consts) = stored();
    let folder = Folder::new("stored");
    std::fs::write(folder.0.join("m.nyxir"), good).unwrap();
    std::fs::write(folder.0.join(CONSTS), consts).unwrap();
    let args = VERIFY.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    assert!(nyxc(&args, &folder.0, &folder.0).status.success());
}
