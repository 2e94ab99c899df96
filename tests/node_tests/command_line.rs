//! The same tests through the command line, as a user would: `nyxc compile`, with `--dim` for the sizes that the file
//! leaves open, `--constants` for the inputs and `--holds` for the sequences and optionals that a refusal asks for,
//! then `nyxc run` with the other inputs in a `.npz` file, and what it wrote compared.

use crate::case::{Case, Data, Kind, Set};
use crate::folder::Folder;
use crate::verdict::{Verdict, compare, held, open_dims, tensors};
use nyxc::import::proto::pb::ModelProto;
use nyxc::ir::Tensor;
use nyxc::session::npz;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

/// The place where programs run, as `--device` has it.
pub fn judge(case: &Case, device: &str) -> Verdict {
    let folder = Folder::new(&case.name.replace('/', "-"));
    let mut verdict = Verdict::Crash("no data".to_owned());
    for set in &case.sets {
        verdict = match run_set(case, set, device, &folder.0) {
            Ok(verdict) => verdict,
            Err(verdict) => return verdict,
        };
    }
    verdict
}

/// A finished command: `Err` of one that neither succeeded nor said why it did not, by an exit code of its own.
fn nyxc(args: &[&str]) -> Result<Output, Verdict> {
    let output = crate::child::command(env!("CARGO_BIN_EXE_nyxc"))
        .args(args)
        .env("NYXC_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"))
        .output()
        .map_err(|e| Verdict::Crash(e.to_string()))?;
    let shown = String::from_utf8_lossy(&output.stderr);
    let is_failure = output.status.code().is_some_and(|code| (2..=6).contains(&code)) && !shown.trim().is_empty();
    if output.status.success() || is_failure && !shown.contains("panicked") {
        return Ok(output);
    }
    Err(Verdict::Crash(format!("nyxc {}: {}: {}", args.join(" "), output.status, shown.trim())))
}

fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), Verdict> {
    let file = std::fs::File::create(path).map_err(|e| Verdict::Crash(e.to_string()))?;
    npz::write(file, arrays).map_err(Verdict::Refused)
}

/// The inputs of which a refusal asks for `argument`.
fn asked<'t>(shown: &'t str, argument: &str) -> impl Iterator<Item = &'t str> {
    shown
        .split(argument)
        .skip(1)
        .filter_map(|rest| rest.split_once('='))
        .map(|(name, _)| name.trim_matches([' ', '\'']))
}

fn run_set(case: &Case, set: &Set, device: &str, folder: &Path) -> Result<Verdict, Verdict> {
    let path = |name: &str| folder.join(name).to_str().unwrap_or_default().to_owned();
    let (model, program, constants) = (path("model.onnx"), path("program.nyx"), path("constants.npz"));
    std::fs::write(&model, &case.model).map_err(|e| Verdict::Crash(e.to_string()))?;
    let graph = <ModelProto as prost::Message>::decode(case.model.as_slice()).ok().and_then(|model| model.graph);
    let graph = graph.unwrap_or_default();
    let given = tensors(case, set).map_err(Verdict::Refused)?;
    let mut fixed: BTreeSet<String> = BTreeSet::new();
    let mut holds: BTreeSet<String> = BTreeSet::new();
    loop {
        let mut args = vec!["compile".to_owned(), model.clone(), "-o".to_owned(), program.clone()];
        args.extend(["--budget", "1G", "-q"].map(str::to_owned));
        for (name, tensor) in given.iter().filter(|(name, _)| !fixed.contains(name)) {
            let open = graph.input.iter().find(|info| info.name == *name).and_then(open_dims);
            for axis in open.into_iter().flatten() {
                if let Some(n) = tensor.dims().get(axis) {
                    args.extend(["--dim".to_owned(), format!("{name}.{axis}={n}")]);
                }
            }
        }
        if !fixed.is_empty() {
            let values: Vec<_> = given.iter().filter(|(name, _)| fixed.contains(name)).cloned().collect();
            write(Path::new(&constants), &values)?;
            args.extend(["--constants".to_owned(), constants.clone()]);
        }
        for (input, (name, kind)) in set.inputs.iter().zip(&case.inputs).filter(|(_, (name, _))| holds.contains(name)) {
            let data = input.read(kind).map_err(Verdict::Refused)?;
            args.extend(["--holds".to_owned(), format!("{name}={}", held(&data))]);
        }
        let output = nyxc(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        if output.status.success() {
            break;
        }
        let shown = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let before = (fixed.len(), holds.len());
        let is_given = |name: &&str| given.iter().any(|(given, _)| given == name);
        fixed.extend(asked(&shown, "--constants ").filter(is_given).map(str::to_owned));
        holds.extend(asked(&shown, "--holds ").map(str::to_owned));
        if (fixed.len(), holds.len()) == before {
            return Err(Verdict::Refused(shown.lines().last().unwrap_or_default().to_owned()));
        }
    }
    let mut expected = Vec::new();
    let mut names = Vec::new();
    for ((bytes, kind), info) in set.outputs.iter().zip(&case.outputs).zip(&graph.output) {
        let data = Data::read(bytes, kind).map_err(Verdict::Refused)?;
        let all = data.tensors();
        match kind {
            Kind::Tensor => names.push(info.name.clone()),
            _ => names.extend((0..all.len()).map(|i| format!("{}.{i}", info.name))),
        }
        expected.extend(all);
    }
    let inputs: Vec<_> = given.iter().filter(|(name, _)| !fixed.contains(name)).cloned().collect();
    let (arrays, results) = (path("inputs.npz"), path("outputs.npz"));
    let mut run = || -> Result<Vec<Tensor>, Verdict> {
        let mut args = vec!["run", &program, "--outputs", &results, "--device", device, "-q"];
        if !inputs.is_empty() {
            write(Path::new(&arrays), &inputs)?;
            args.extend(["--inputs", &arrays]);
        }
        let output = nyxc(&args)?;
        if !output.status.success() {
            return Err(Verdict::Wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let file = std::fs::File::open(&results).map_err(|e| Verdict::Wrong(e.to_string()))?;
        let mut arrays = npz::read(file, &mut |_, _| true).map_err(Verdict::Wrong)?;
        // Types that NumPy lacks travel widened.
        let found = names.iter().zip(&expected).map(|(name, expected)| {
            let array = arrays.remove(name).ok_or_else(|| format!("no output {name:?}"))?;
            array.narrowed(expected.dtype()).map_err(|e| format!("output {name:?}: {e}"))
        });
        let found = found.collect::<Result<_, _>>().map_err(Verdict::Wrong)?;
        match arrays.keys().next() {
            Some(name) => Err(Verdict::Wrong(format!("an output {name:?} that the model does not have"))),
            None => Ok(found),
        }
    };
    compare(case, &mut run, &given, &expected, device)?;
    Ok(Verdict::Device(fixed.into_iter().collect()))
}
