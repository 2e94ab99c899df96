//! `nyxc tune`, and the tables that it writes.

use super::*;

const PRODUCT: &str = "matmul f32 3,48,64";

#[test]
fn a_table_is_measured_merged_and_chooses() {
    let folder = Folder::new("tune");
    let (first, second, bundle) = (folder.file("a.json"), folder.file("b.json"), folder.file("bundle"));
    let tune = |more: &[&str]| nyxc(&[&["tune", "--device", "0", "--most", "3", "--rotate", "1"], more].concat());
    let shown = tune(&["--shape", PRODUCT, "-o", &first, "--json"]).exits(0).json();
    let measured = shown["measured"].as_array().unwrap();
    assert_eq!((measured.len(), bytes(&shown["cases"])), (1, 1), "{shown:#}");
    let variants = measured[0]["variants"].as_array().unwrap();
    assert!(variants.iter().all(|v| v["right"] == true && v["samples"].as_u64() > Some(0)), "{shown:#}");
    let table = std::fs::read_to_string(&first).unwrap();
    assert!(table.contains("\"matmul f32 f32 f32 t plain 3-4: 48x64\""), "{table}");
    // Shaders made on one machine are those that another runs; a table takes over what it is merged with.
    nyxc(&["tune", "--shape", "conv f32 1,6,6,16,8,3,3,1", "--target", "h200", "--emit", &bundle, "--most", "2"])
        .exits(0);
    assert!(std::fs::read_dir(Path::new(&bundle).join("shaders")).unwrap().count() > 0);
    assert_eq!(std::fs::read_to_string(Path::new(&bundle).join("shapes.txt")).unwrap(), "conv f32 1,6,6,16,8,3,3,1\n");
    tune(&["--merge", &first, "-o", &second]).exits(0);
    assert_eq!(std::fs::read_to_string(&second).unwrap(), table);
    // The table is identified by its hash.
    let program = folder.file("any.nyx");
    let compile = |table: &str| {
        let args = ["compile", &mlp(), "--target", "h200", "--tuning", table, "-o", &program, "--json"];
        nyxc(&args).exits(0).json()["certificate"]["tuning"].clone()
    };
    assert_eq!(compile(&first), shown["table_hash"]);
    assert_eq!(compile("none"), Value::Null);
}

#[test]
fn what_is_no_table_or_shape_is_refused() {
    let folder = Folder::new("tune_refused");
    let table = folder.file("t.json");
    let case = "matmul f16 f16 f16 t plain 1: 8x8";
    for (text, what) in [
        ("{}".to_owned(), "missing field"),
        (format!(r#"{{"devices": [], "source": "", "cases": {{"{case}": {{"7x7": 5}}}}}}"#), "no variant"),
        (format!(r#"{{"devices": [], "source": "", "cases": {{"{case}": {{"plain": 0}}}}}}"#), "nanoseconds"),
        (r#"{"devices": [], "source": "", "cases": {}, "more": 1}"#.to_owned(), "unknown field"),
    ] {
        std::fs::write(&table, text).unwrap();
        let done = nyxc(&["compile", &mlp(), "--target", "h200", "--tuning", &table, "--dry-run"]).exits(3);
        assert!(done.err.contains(what), "{what}: {}", done.err);
    }
    for args in [&["tune"][..], &["tune", "--json"], &["tune", "--shape", "matmul f16 1,2", "--json"]] {
        nyxc(args).exits(2);
    }
}

#[test]
fn candidates_are_listed_with_their_prices() {
    let shown = nyxc(&[
        "bench", "--kernel", "matmul", "--format", "f32", "--shape", "1,64,64", "--prices", "--device", "0", "--json",
    ]);
    let shown = shown.exits(0).json();
    let candidates = shown["candidates"].as_array().unwrap();
    assert_eq!(candidates.iter().filter(|c| c["chosen"] == true).count(), 1, "{shown:#}");
    let ns: Vec<u64> = candidates.iter().map(|c| bytes(&c["ns"])).collect();
    assert!(ns.is_sorted() && ns[0] > 0, "{shown:#}");
}

#[test]
fn kernels_of_every_kind_are_timed_and_right() {
    for (kernel, format, shape) in [
        ("matmul", "w8a8", "5,24,64"),
        ("conv", "f16", "1,7,9,16,8,3,3,2"),
        ("conv", "f32", "2,6,6,8,8,3,3,1,8"),
        ("conv", "w8a8", "1,6,8,32,8,1,1,1"),
        ("attention", "f32", "1,4,2,20,20,16,1"),
        ("attention", "f16", "1,4,2,1,300,64"),
        ("softmax", "f32", "9,130"),
        ("norm", "f16", "9,130"),
        ("quantize", "f32", "9,128"),
    ] {
        let args =
            ["bench", "--kernel", kernel, "--format", format, "--shape", shape, "--device", "0", "--samples", "1"];
        let shown = nyxc(&[&args[..], &["--json"]].concat()).exits(0).json();
        let variants = shown["variants"].as_array().unwrap();
        assert!(!variants.is_empty() && variants.iter().all(|v| v["right"] == true), "{shown:#}");
    }
}
