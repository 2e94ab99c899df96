//! Files that are missing, damaged or in the way: exit codes, and what is left behind.

use super::*;

#[test]
fn a_truncated_model_exits_with_3() {
    let folder = Folder::new("cut-model");
    let whole = std::fs::read(mlp()).unwrap();
    let (cut, out) = (folder.file("cut.onnx"), folder.file("cut.nyx"));
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..len]).unwrap();
        let done = nyxc(&["compile", &cut, "-o", &out, "--json"]).exits(3);
        assert!(!done.json()["error"]["message"].as_str().unwrap().is_empty(), "{len} bytes");
        assert_eq!(folder.names(), ["cut.onnx"], "{len} bytes");
    }
}

#[test]
fn a_truncated_or_altered_program_exits_with_3() {
    let folder = Folder::new("cut-program");
    let (program, cut, inputs, out) =
        (folder.file("mlp.nyx"), folder.file("cut.nyx"), image(&folder, 1), folder.file("out.npz"));
    nyxc(&["compile", &mlp(), "--budget", "400K", "-o", &program]).exits(0);
    let whole = std::fs::read(&program).unwrap();
    let cuts = [0, 7, 8, 100, whole.len() / 2, whole.len() - 1].map(|len| whole[..len].to_vec());
    let flips = [3, 40, whole.len() / 4, whole.len() / 2, whole.len() - 1].map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for (i, bytes) in cuts.iter().chain(&flips).chain([&b"not a program".to_vec()]).enumerate() {
        std::fs::write(&cut, bytes).unwrap();
        for args in [
            &["run", &cut, "--inputs", &inputs, "--outputs", &out, "--device", "cpu"][..],
            &["verify", &cut],
            &["inspect", &cut],
            &["print", &cut],
        ] {
            let done = nyxc(args);
            assert_eq!(done.code, 3, "damage {i}: nyxc {}: {}", done.args, done.err);
        }
    }
    assert_eq!(folder.names(), ["cut.nyx", "in.npz", "mlp.nyx"]);
}

#[test]
fn inputs_that_do_not_fit_the_program_exit_with_3() {
    let folder = Folder::new("inputs");
    let (program, inputs, out) = (folder.file("mlp.nyx"), folder.file("in.npz"), folder.file("out.npz"));
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let arrays: [(&str, &[usize], Vec<f32>); 2] =
        [("image", &[2, 1, 28, 28], random(1568, 1)), ("picture", &[1, 1, 28, 28], random(784, 1))];
    for array in arrays {
        write_npz(&inputs, &[array]);
        let done = nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out]).exits(3);
        assert!(done.err.contains("image"), "{}", done.err);
    }
    std::fs::write(&inputs, b"no zip").unwrap();
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out]).exits(3);
    assert_eq!(folder.names(), ["in.npz", "mlp.nyx"]);
}

#[test]
fn missing_files_and_folders_exit_with_6() {
    let folder = Folder::new("missing");
    let (program, inputs) = (folder.file("mlp.nyx"), image(&folder, 1));
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let before = folder.names();
    let (absent, nowhere) = (|ext: &str| folder.file(&format!("absent.{ext}")), folder.file("no/such/folder/out"));
    for args in [
        &["compile", &absent("onnx")][..],
        &["compile", &mlp(), "-o", &nowhere],
        &["compile", &mlp(), "--dry-run", "--target", &absent("json")],
        &["run", &absent("nyx"), "--inputs", &inputs, "--outputs", &folder.file("out.npz")],
        &["run", &program, "--inputs", &absent("npz"), "--outputs", &folder.file("out.npz")],
        &["run", &program, "--inputs", &inputs, "--outputs", &nowhere],
        &["print", &absent("nyxir")],
        &["verify", &absent("nyx")],
        &["inspect", &absent("onnx")],
        &["diff", &program, &absent("nyx")],
    ] {
        let done = nyxc(args).exits(6);
        assert!(done.err.contains("absent") || done.err.contains("no/such"), "the file is named: {}", done.err);
    }
    assert_eq!(folder.names(), before);
}

#[test]
fn a_failed_write_leaves_nothing_half_done() {
    let folder = Folder::new("partial");
    // A folder stands where the file should go, so that the last step, the rename, fails.
    std::fs::create_dir(folder.0.join("mlp.nyx")).unwrap();
    nyxc(&["compile", &mlp(), "-o", &folder.file("mlp.nyx")]).exits(6);
    assert_eq!(folder.names(), ["mlp.nyx"]);
}

#[test]
fn outputs_go_through_links_into_pipes_and_never_over_inputs() {
    let folder = Folder::new("places");
    let (program, link) = (folder.file("mlp.nyx"), folder.file("link.nyx"));
    let compile = |output: &str| nyxc(&["compile", &mlp(), "--target", "lavapipe", "-o", output]);
    compile(&program).exits(0);
    let bytes = std::fs::read(&program).unwrap();
    std::fs::write(&program, "something else").unwrap();
    std::os::unix::fs::symlink("mlp.nyx", &link).unwrap();
    compile(&link).exits(0);
    assert!(Path::new(&link).is_symlink() && std::fs::read(&program).unwrap() == bytes);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("absent", &link).unwrap();
    assert!(compile(&link).exits(6).err.contains("link.nyx"));
    let pipe = folder.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    compile(&pipe).exits(0);
    assert!(reader.join().unwrap() == bytes);
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    compile("/dev/null").exits(0);
    compile("/dev/full").exits(6);
    assert!(
        ["/dev/null", "/dev/full"].iter().all(|device| std::fs::metadata(device).unwrap().file_type().is_char_device())
    );
    // A copy of the model, whose name the program is to have.
    let copy = folder.file("copy.onnx");
    std::fs::copy(mlp(), &copy).unwrap();
    let refused = nyxc(&["compile", &copy, "-o", &format!("{}/./copy.onnx", folder.0.display())]).exits(2);
    assert!(refused.err.contains("copy.onnx"), "{}", refused.err);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(mlp()).unwrap());
    let inputs = image(&folder, 1);
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &inputs]).exits(2);
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &program]).exits(2);
    assert!(std::fs::read(&program).unwrap() == bytes);
}
