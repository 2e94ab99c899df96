//! The reader of target profiles: `nyxc compile --target FILE.json`.

use super::child::{Case, Item, check};
use super::mutate::mutants;
use super::{FEW, MANY, pb};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const COMPILE: &[&str] = &["compile", "m.onnx", "-o", "out.nyx", "--target", "t.json"];

fn profile() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/targets/h200.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn case(name: impl Into<String>, bytes: Vec<u8>, codes: &'static [i32]) -> Case {
    Case::of(name, "t.json", bytes, COMPILE, codes).with("m.onnx", Item::Bytes(pb::small()))
}

/// The profile with one figure changed.
fn figure(group: &str, field: &str, value: Value) -> Vec<u8> {
    let mut profile = profile();
    assert!(!profile[group][field].is_null(), "{group}.{field}");
    profile[group][field] = value;
    profile.to_string().into_bytes()
}

#[test]
fn hostile_profiles_are_refused() {
    let refused = |name: &str, bytes: Vec<u8>, says| case(name, bytes, &[3]).says(says);
    let mut cases = vec![
        case("a good one", profile().to_string().into_bytes(), &[0]),
        refused("nothing", Vec::new(), "t.json"),
        refused("no UTF-8", vec![b'{', 0xff], "t.json"),
        refused("brackets", b"[".repeat(1 << 20), "t.json"),
        refused("nested objects", b"{\"a\":".repeat(1 << 18), "t.json"),
        refused("a field that is not known", b"{\"frobs\":1}".to_vec(), "frobs"),
        refused("a negative heap", figure("memory", "heap_bytes", json!(-1)), "t.json"),
        refused(
            "a heap beyond 2^64",
            profile().to_string().replace("\"heap_bytes\":", "\"heap_bytes\":99999999999").into_bytes(),
            "t.json",
        ),
        refused("no heap", figure("memory", "heap_bytes", json!(0)), "heap_bytes"),
        refused(
            "a granularity of none",
            figure("memory", "allocation_granularity", json!(0)),
            "allocation_granularity",
        ),
        refused(
            "a granularity of 2^63",
            figure("memory", "allocation_granularity", json!(1u64 << 63)),
            "allocation_granularity",
        ),
        refused(
            "an alignment of three",
            figure("limits", "min_storage_buffer_offset_alignment", json!(3)),
            "min_storage_buffer_offset_alignment",
        ),
        Case::of("no profile", "m.onnx", pb::small(), COMPILE, &[6]).says("t.json"),
    ];
    // Every figure at its ends: refused by name, or good enough to compile for.
    for (group, figures) in ["limits", "memory"].map(|g| (g, profile()[g].as_object().unwrap().clone())) {
        for (field, value) in figures.iter().filter(|(_, v)| !v.is_boolean()) {
            for end in [json!(0), json!(u32::MAX), json!(u64::MAX)] {
                let value = value.as_array().map_or(end.clone(), |axes| json!(vec![end.clone(); axes.len()]));
                cases.push(case(format!("{field} = {value}"), figure(group, field, value), &[0, 3, 4]));
            }
        }
    }
    check("target-hostile", cases.into_iter());
}

/// Damaged profiles, and ones with figures changed.
fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let seeds = vec![profile().to_string().into_bytes()];
    let mut rng = StdRng::seed_from_u64(seed + 1);
    let changed = (0..n / 2).map(move |i| {
        let mut profile = profile();
        for _ in 0..rng.random_range(1..5) {
            let group = ["limits", "memory", "features"][rng.random_range(0..3)];
            let fields: Vec<String> = profile[group].as_object().unwrap().keys().cloned().collect();
            let field = &fields[rng.random_range(0..fields.len())];
            let value = &mut profile[group][field];
            let number = [0, 1, 255, 1 << 27, 1 << 31, u64::from(u32::MAX), 1 << 40, u64::MAX][rng.random_range(0..8)];
            *value = match &*value {
                Value::Bool(b) => json!(!b),
                Value::Array(axes) => json!(vec![number; axes.len()]),
                _ => json!(number),
            };
        }
        case(format!("figures {i}"), profile.to_string().into_bytes(), &[0, 3, 4])
    });
    mutants(seeds, n - n / 2, seed).map(|(name, _, bytes)| case(name, bytes, &[0, 3, 4])).chain(changed)
}

#[test]
fn damaged_profiles_are_refused_or_good() {
    check("target-few", damaged(FEW, 13));
}

/// `cargo test --test strangers -- --ignored target`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_thousand_damaged_profiles_are_refused_or_good() {
    check("target-many", damaged(MANY, 14));
}
