//! The models of `models/` on a Vulkan device and on the CPU, held against the outputs of ONNX Runtime beside them.

use super::*;

/// Every model of the folder, by its file's name without `.onnx`.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(".onnx").map(str::to_owned)).collect();
    names.sort();
    names
}

/// The sizes with which `models/README.md` compiles a model: `--dim` with its value, for each.
fn dims(name: &str) -> Vec<&'static str> {
    let command = format!("nyxc compile {name}.onnx ");
    let line = include_str!("../../models/README.md").lines().find_map(|line| line.strip_prefix(&command));
    let words: Vec<&str> = line.unwrap_or_else(|| panic!("the README compiles no {name}")).split(' ').collect();
    words.windows(2).filter(|pair| pair[0] == "--dim").flatten().copied().collect()
}

/// The names of the arrays of a `.npz` file.
fn arrays(path: &str) -> Vec<String> {
    let zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    zip.file_names().map(|name| name.strip_suffix(".npy").unwrap().to_owned()).collect()
}

#[test]
fn every_model_gives_what_onnx_runtime_gives() {
    let folder = Folder::new("models");
    let names = names();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let (program, outputs) = (folder.file("m.nyx"), folder.file("out.npz"));
        let file = model(&format!("{name}.onnx"));
        let mut compile = vec!["compile", &file, "--policy", "uniform:f32", "-o", &program];
        compile.extend(dims(&name));
        nyxc(&compile).exits(0);
        let inputs = model(&format!("{name}.inputs.npz"));
        let expected = model(&format!("{name}.outputs.npz"));
        for device in ["cpu", "vulkan,cpu"] {
            let run = ["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", device, "--json"];
            let report = nyxc(&run).exits(0).json();
            if device != "cpu" && report["device"] == "cpu" {
                eprintln!("SKIPPED: no Vulkan device, so {name} was computed on the CPU reference alone");
                continue;
            }
            let arrays = arrays(&expected);
            assert!(!arrays.is_empty(), "{expected} is empty");
            for array in arrays {
                let error = relative_l2(&read_npz(&outputs, &array), &read_npz(&expected, &array));
                assert!(error <= 1e-4, "{name} on {device}, {array}: relative L2 {error:e}");
            }
        }
    }
}
