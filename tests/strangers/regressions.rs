//! What the fuzzers found once, and files of that kind: `fuzz/regressions/TARGET/*`, replayed through the program.

use super::child::{Case, Item, check};
use super::nyx::program;
use super::pb;

#[test]
fn what_fuzzers_found_stays_fixed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut cases = Vec::new();
    for target in ["onnx", "nyx", "nyxir", "npz", "target"] {
        let mut files: Vec<_> =
            std::fs::read_dir(root.join(target)).map_or(Vec::new(), |dir| dir.map(|e| e.unwrap().path()).collect());
        files.sort();
        assert!(!files.is_empty(), "no file of {target} in {}", root.display());
        for path in files {
            let name = format!("{target}/{}", path.file_name().unwrap().to_string_lossy());
            let bytes = std::fs::read(&path).unwrap();
            const ANY: &[i32] = &[0, 3, 4];
            cases.push(match target {
                "onnx" => Case::of(name, "m.onnx", bytes, &["verify", "m.onnx"], ANY),
                "nyx" => Case::of(name, "p.nyx", bytes, &["verify", "p.nyx"], ANY),
                "nyxir" => Case::of(name, "m.nyxir", bytes, &["verify", "m.nyxir"], ANY),
                "npz" => Case::of(
                    name,
                    "in.npz",
                    bytes,
                    &["run", "p.nyx", "--inputs", "in.npz", "--outputs", "out.npz", "--device", "cpu"],
                    ANY,
                )
                .with("p.nyx", Item::Bytes(program().to_vec())),
                _ => {
                    Case::of(name, "t.json", bytes, &["compile", "m.onnx", "-o", "out.nyx", "--target", "t.json"], ANY)
                        .with("m.onnx", Item::Bytes(pb::small()))
                }
            });
        }
    }
    check("regressions", cases.into_iter());
}
