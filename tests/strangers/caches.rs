//! Our own caches: whatever is there, compiling and running give what they give without.

use super::child::nyxc;
use super::folder::Folder;
use super::mutate::mutants;
use super::nyx::inputs;
use super::pb;
use std::path::{Path, PathBuf};

const COMPILE: [&str; 6] = ["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe"];

fn compile(folder: &Folder, cache: &Path) -> Vec<u8> {
    let done = nyxc(&COMPILE.map(str::to_owned), &folder.0, cache);
    assert!(done.status.success() && !done.err.contains("panicked"), "{}: {}", done.status, done.err);
    std::fs::read(folder.0.join("out.nyx")).unwrap()
}

fn files(dir: &Path, ext: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == ext));
    files.sort();
    files
}

/// What stands before a file's contents in both caches: a hash of its own name and them.
fn seal(path: &Path, contents: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(path.file_stem().unwrap().as_encoded_bytes()).update(contents).finalize()
}

/// Compiles with `n` damaged shaders in the cache, and with worse.
fn shaders(n: usize, seed: u64) {
    let (folder, cache) = (Folder::new(&format!("shaders-{n}")), Folder::new(&format!("shaders-cache-{n}")));
    std::fs::write(folder.0.join("m.onnx"), pb::small()).unwrap();
    let good = compile(&folder, &cache.0);
    let entries = files(&cache.0, "spv");
    let seeds: Vec<Vec<u8>> = entries.iter().map(|p| std::fs::read(p).unwrap()).collect();
    assert!(seeds.len() > 1);
    let check = |what: &str| {
        assert!(compile(&folder, &cache.0) == good, "{what} changed the program");
        for (path, seed) in entries.iter().zip(&seeds) {
            // What could not be used was compiled anew and kept, where it could be replaced.
            assert!(path.is_dir() || std::fs::read(path).unwrap() == *seed, "{what} stayed in {}", path.display());
        }
    };
    for (name, at, bytes) in mutants(seeds.clone(), n, seed) {
        std::fs::write(&entries[at], bytes).unwrap();
        check(&name);
    }
    // Right hashes of wrong words: the magic number alone, none at all.
    for words in [&seeds[0][32..52], &[7; 64]] {
        std::fs::write(&entries[0], [seal(&entries[0], words).as_bytes().as_slice(), words].concat()).unwrap();
        check("a hash of wrong words");
    }
    std::fs::copy(&entries[1], &entries[0]).unwrap();
    check("another shader");
    // A file without end, in effect: it must not be read.
    std::fs::File::create(&entries[0]).unwrap().set_len(1 << 34).unwrap();
    check("16 GiB of nothing");
    std::fs::remove_file(&entries[0]).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&entries[0]).status().unwrap().success());
    check("a pipe");
    std::fs::remove_file(&entries[0]).unwrap();
    std::fs::create_dir(&entries[0]).unwrap();
    check("a folder");
}

#[test]
fn a_damaged_shader_cache_changes_nothing() {
    shaders(12, 15);
}

/// `cargo test --test strangers -- --ignored shader`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_shader_cache_damaged_a_thousand_times_changes_nothing() {
    shaders(super::MANY, 16);
}

/// Runs on the device with `n` damaged pipeline caches.
fn pipelines(n: usize, seed: u64) {
    let (folder, cache) = (Folder::new(&format!("pipelines-{n}")), Folder::new(&format!("pipelines-cache-{n}")));
    std::fs::write(folder.0.join("m.onnx"), pb::small()).unwrap();
    std::fs::write(folder.0.join("in.npz"), inputs()).unwrap();
    compile(&folder, &cache.0);
    let run = || {
        let args = ["run", "out.nyx", "--inputs", "in.npz", "--outputs", "out.npz", "--device", "0"].map(str::to_owned);
        let done = nyxc(&args, &folder.0, &cache.0);
        (done.status.code(), done.err, std::fs::read(folder.0.join("out.npz")).ok())
    };
    let (code, err, good) = run();
    if code != Some(0) {
        println!("SKIPPED: the pipeline cache, since no device runs the program here: {err}");
        return;
    }
    let entries = files(&cache.0, "bin");
    let [entry] = entries.as_slice() else {
        println!("SKIPPED: the pipeline cache, since the driver keeps none ({} files)", entries.len());
        return;
    };
    let seeds = vec![std::fs::read(entry).unwrap()];
    let check = |what: &str| {
        // Neither a pipe nor what is too large is read here.
        let damaged = std::fs::metadata(entry)
            .is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 30)
            .then(|| std::fs::read(entry).unwrap());
        let (code, err, outputs) = run();
        assert!(code == Some(0) && outputs == good, "{what}: {code:?} {err}");
        let after = std::fs::read(entry).unwrap();
        // What was not used was made anew.
        assert!(
            Some(&after) != damaged.as_ref() && after[..32] == *seal(entry, &after[32..]).as_bytes(),
            "{what} stayed"
        );
    };
    for (name, _, bytes) in mutants(seeds.clone(), n, seed) {
        std::fs::write(entry, bytes).unwrap();
        check(&name);
    }
    // Right hashes of what another device, driver or version of the format would have written.
    for (byte, what) in [
        (4, "another version"),
        (8, "another vendor's data"),
        (12, "another device's data"),
        (16, "another driver's data"),
    ] {
        let mut other = seeds[0][32..].to_vec();
        other[byte] ^= 1;
        std::fs::write(entry, [seal(entry, &other).as_bytes().as_slice(), &other].concat()).unwrap();
        check(what);
    }
    // The file of another driver version, copied: all is right but the name under which it was sealed.
    let stem = Path::new("pipelines-of-another-version.bin");
    std::fs::write(entry, [seal(stem, &seeds[0][32..]).as_bytes().as_slice(), &seeds[0][32..]].concat()).unwrap();
    check("another driver version's file");
    std::fs::File::create(entry).unwrap().set_len(1 << 34).unwrap();
    check("16 GiB of nothing");
    std::fs::remove_file(entry).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(entry).status().unwrap().success());
    check("a pipe");
}

#[test]
fn a_damaged_pipeline_cache_changes_nothing() {
    pipelines(6, 17);
}

/// `cargo test --test strangers -- --ignored pipeline`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_pipeline_cache_damaged_a_thousand_times_changes_nothing() {
    pipelines(super::MANY, 18);
}
