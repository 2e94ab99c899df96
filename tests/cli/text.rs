//! Graphs as text: what is printed reads back, passes run alone, and the same input gives the same bytes.

use super::*;

#[test]
fn what_print_writes_reads_back_without_its_constants() {
    let folder = Folder::new("print");
    let (program, text) = (folder.file("mlp.nyx"), folder.file("a.nyxir"));
    nyxc(&["compile", &mlp(), "--policy", "uniform:w8a8", "-o", &program]).exits(0);
    for file in [mlp(), model("ppocr-cls.onnx"), model("magika.onnx"), program] {
        let printed = nyxc(&["print", &file]).exits(0).out;
        std::fs::write(&text, &printed).unwrap();
        nyxc(&["verify", &text]).exits(0);
        assert!(nyxc(&["print", &text]).exits(0).out == printed, "{file} prints otherwise the second time");
        nyxc(&["verify", &file]).exits(0);
    }
}

#[test]
fn passes_run_alone() {
    let folder = Folder::new("pass");
    let text = folder.file("a.nyxir");
    let printed = nyxc(&["print", &mlp()]).exits(0).out;
    std::fs::write(&text, &printed).unwrap();
    // Nothing is dead, nothing has to be looked up: the same text comes out.
    assert_eq!(nyxc(&["pass", "remove-dead-code", &text]).exits(0).out, printed);
    let lowered = nyxc(&["pass", "decompose,fuse", &text]).exits(0).out;
    assert!(!lowered.contains("gemm(") && lowered.contains("matmul("), "{lowered}");
    assert_eq!(nyxc(&["pass", "decompose,fuse", &mlp()]).exits(0).out, lowered);
    std::fs::write(&text, &lowered).unwrap();
    nyxc(&["verify", &text]).exits(0);
    // Formats are scored on the weights themselves, which the text alone does not have.
    std::fs::write(&text, &printed).unwrap();
    nyxc(&["pass", "assign_precision", &text, "--budget", "400K"]).exits(3);
    let assigned = nyxc(&["pass", "assign_precision", &mlp(), "--budget", "400K"]).exits(0).out;
    assert!(assigned.lines().filter(|l| l.contains("gemm(")).all(|l| l.contains('@')), "{assigned}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let folder = Folder::new("same");
    std::fs::create_dir_all(folder.0.join("elsewhere")).unwrap();
    let copy = folder.file("elsewhere/fmnist-mlp.onnx");
    std::fs::copy(mlp(), &copy).unwrap();
    let cache = folder.0.join("cache");
    let compile = |model: &str, jobs: &str, out: &str, cache: &Path| {
        let out = folder.file(out);
        nyxc_with_cache(&["compile", model, "--budget", "400K", "-j", jobs, "-o", &out], cache).exits(0);
        std::fs::read(out).unwrap()
    };
    let first = compile(&mlp(), "1", "first.nyx", &cache);
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0, "shaders are kept in NYXC_CACHE");
    for (what, bytes) in [
        ("a warm cache", compile(&mlp(), "1", "warm.nyx", &cache)),
        ("two threads", compile(&mlp(), "2", "threads.nyx", &folder.0.join("cold"))),
        ("no cache", compile(&mlp(), "2", "none.nyx", Path::new(""))),
        ("another folder", compile(&copy, "1", "elsewhere/out.nyx", &cache)),
    ] {
        assert!(bytes == first, "{what}: {} bytes for {}", bytes.len(), first.len());
    }
}
