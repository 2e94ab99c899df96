//! Arrays for the ports of a program: from files, or made up; and files for its outputs.

use super::{Failure, write};
use crate::import::DimBinding;
use crate::ir::{Shape, Tensor, TensorType};
use crate::program::{Entry, Port, Sizes};
use crate::session::npz;
use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Calls `read` with the name of an array and its type, and reads it where that says so.
pub(super) type Wants<'a> = &'a mut dyn FnMut(&str, &TensorType) -> bool;

/// Reads the arrays of one `--inputs`: `FILE.npz`, `NAME=FILE.npy`, or `FILE.npy` for the only input.
pub(super) fn read(given: &Path, entry: &Entry, wants: Wants<'_>) -> Result<BTreeMap<String, Tensor>, Failure> {
    let names: Vec<&str> = entry.inputs.iter().map(|p| p.name.as_str()).collect();
    let (name, path) = match named(given, &names) {
        Some((name, path)) => (Some(name.to_owned()), path),
        None if is_npy(given) => match names.as_slice() {
            [name] => (Some((*name).to_owned()), given.to_owned()),
            _ => return Err(unnamed(given, "input", &names)),
        },
        None => (None, given.to_owned()),
    };
    // The file `a=b.npy` may be there; else it is a name that no input has.
    if name.is_some() && path == given && !path.exists() && given.to_str().is_some_and(|text| text.contains('=')) {
        return Err(unnamed(given, "input", &names));
    }
    let file = std::fs::File::open(&path).map_err(|e| Failure::io(&path, e))?;
    let file = BufReader::new(file);
    let refuse = |e: String| Failure::file(format!("{}: {e}", path.display()));
    match name {
        None => npz::read(file, wants).map_err(refuse),
        Some(name) => {
            let tensor = npz::read_npy(file, &mut |ty| wants(&name, ty)).map_err(refuse)?;
            Ok(tensor.into_iter().map(|tensor| (name.clone(), tensor)).collect())
        }
    }
}

/// The file that one `--inputs` or `--outputs` names.
pub(super) fn file_of(given: &Path, names: &[&str]) -> PathBuf {
    named(given, names).map_or_else(|| given.to_owned(), |(_, path)| path)
}

/// Takes `NAME=FILE.npy` apart, with the longest of `names` where several fit.
fn named<'n>(given: &Path, names: &[&'n str]) -> Option<(&'n str, PathBuf)> {
    let text = given.to_str().filter(|_| is_npy(given))?;
    let fits = names.iter().filter_map(|name| Some((*name, text.strip_prefix(name)?.strip_prefix('=')?)));
    fits.max_by_key(|(name, _)| name.len()).map(|(name, path)| (name, PathBuf::from(path)))
}

fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "npy")
}

fn unnamed(given: &Path, what: &str, names: &[&str]) -> Failure {
    let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Failure::usage(format!("{}: expected NAME=FILE.npy, NAME an {what} of the program: {list}", given.display()))
}

/// Sizes of a run whose inputs are made up: those that `--dim` gives, those of inputs that are given, and the largest
/// of all others.
pub(super) fn sizes(entry: &Entry, dims: &[DimBinding], given: &BTreeMap<String, Tensor>) -> Result<Sizes, Failure> {
    let mut sizes = Sizes::new();
    for DimBinding { name, size } in dims {
        let n = size.known().ok_or_else(|| Failure::usage(format!("--dim {name}={size}: a run has one size")))?;
        let found = match entry.sizes.iter().find(|s| s.name == *name) {
            Some(range) => Some((range.name.clone(), n)),
            None => at_axis(entry, name, n)?,
        };
        let Some((symbol, n)) = found else { continue };
        let range = entry.sizes.iter().find(|s| s.name == symbol).filter(|s| (s.min..=s.max).contains(&n));
        if range.is_none() || sizes.insert(symbol, n).is_some_and(|before| before != n) {
            return Err(Failure::usage(format!("--dim {name}={size}: {}", takes(entry))));
        }
    }
    for (port, tensor) in entry.inputs.iter().filter_map(|port| Some((port, given.get(&port.name)?))) {
        for (dim, n) in port.shape.iter().zip(tensor.dims()) {
            if let Some((symbol, n)) = dim.solve(i64::try_from(n).unwrap_or(i64::MAX)) {
                sizes.entry(symbol.name().to_owned()).or_insert(n);
            }
        }
    }
    for (name, largest) in entry.largest() {
        sizes.entry(name).or_insert(largest);
    }
    Ok(sizes)
}

/// The size that `INPUT.AXIS=n` determines; `None` where the axis has `n` elements in any case.
fn at_axis(entry: &Entry, name: &str, n: i64) -> Result<Option<(String, i64)>, Failure> {
    let dim = name.rsplit_once('.').and_then(|(input, axis)| {
        let port = entry.inputs.iter().find(|port| port.name == input)?;
        port.shape.get(axis.parse::<usize>().ok()?)
    });
    match dim.map(|dim| (dim.known(), dim.solve(n))) {
        Some((Some(fixed), _)) if fixed == n => Ok(None),
        Some((None, Some((symbol, n)))) => Ok(Some((symbol.name().to_owned(), n))),
        _ => Err(Failure::usage(format!("--dim {name}={n}: {}", takes(entry)))),
    }
}

fn takes(entry: &Entry) -> String {
    let ranges: Vec<_> = entry.sizes.iter().map(|s| format!("{} in {}..{}", s.name, s.min, s.max)).collect();
    if ranges.is_empty() {
        "all sizes of this program are fixed".to_owned()
    } else {
        format!("the program takes {}", ranges.join(", "))
    }
}

/// Random values for a port: floats between -1 and 1, integers and truth values 0 or 1, but indices that the table has.
pub(super) fn random(entry: &Entry, port: &Port, sizes: &Sizes, seed: u64) -> Result<Tensor, Failure> {
    let port = port.at(sizes).ok_or_else(|| Failure::file(format!("input {:?}: its size is not known", port.name)))?;
    let ty = TensorType::new(port.dtype, Shape(port.shape.clone()));
    let refuse = |e: &dyn std::fmt::Display| Failure::file(format!("input {:?}: {e}", port.name));
    let dims = ty.shape.known().ok_or_else(|| refuse(&"its size is not known"))?;
    let n = ty.shape.n_elems().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| refuse(&"it is too large"))?;
    // SplitMix64 (Steele et al. 2014).
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let most = u64::from(entry.index_limit(&port, sizes).is_none_or(|n| n > 1));
    let tensor = match port.dtype {
        dtype if dtype.is_float() => {
            let values: Vec<f32> = (0..n).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
            Tensor::from_f32s(dtype, &dims, &values)
        }
        dtype => Tensor::from_i64s(dtype, &dims, &(0..n).map(|_| (next() & most) as i64).collect::<Vec<_>>()),
    };
    tensor.map_err(|e| refuse(&e))
}

/// Writes outputs, by name and in order, to each place that one `--outputs` names: `FILE.npz`, `NAME=FILE.npy`,
/// `FILE.npy` for the only output, or a folder, made where it is not there, which gets `NAME.npy` for each. All is made
/// ready before the first file is written.
pub(super) fn write_outputs(places: &[PathBuf], outputs: &[(String, Tensor)]) -> Result<(), Failure> {
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    let npy = |path: &Path, tensor: &Tensor| {
        let mut bytes = Vec::new();
        npz::write_npy(&mut bytes, tensor).map_err(|e| Failure::io(path, e))?;
        Ok::<_, Failure>((path.to_owned(), bytes))
    };
    for place in places {
        if let Some((name, path)) = named(place, &names) {
            let tensor = outputs.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor);
            files.extend(tensor.map(|tensor| npy(&path, tensor)).transpose()?);
        } else if is_folder(place) {
            let mut taken = std::collections::BTreeSet::new();
            for (name, tensor) in outputs {
                let file = file_name(name, &mut taken);
                files.push(npy(&place.join(file), tensor)?);
            }
        } else if is_npy(place) {
            let [(_, tensor)] = outputs else { return Err(unnamed(place, "output", &names)) };
            files.push(npy(place, tensor)?);
        } else {
            let mut bytes = std::io::Cursor::new(Vec::new());
            npz::write(&mut bytes, outputs).map_err(|e| Failure::io(place, e))?;
            files.push((place.clone(), bytes.into_inner()));
        }
    }
    for folder in places.iter().filter(|place| is_folder(place) && !place.is_dir()) {
        std::fs::create_dir(folder).map_err(|e| Failure::io(folder, e))?;
    }
    files.iter().try_for_each(|(path, bytes)| write::file(path, |out| out.write_all(bytes)))
}

/// Checks, before anything runs, that each place is one that [`write_outputs`] can use.
pub(super) fn check_places(places: &[PathBuf], outputs: &[Port]) -> Result<(), Failure> {
    let names: Vec<&str> = outputs.iter().map(|port| port.name.as_str()).collect();
    let files = || places.iter().filter(|p| !is_folder(p));
    if let Some(place) = files().find(|p| is_npy(p) && named(p, &names).is_none() && names.len() != 1) {
        return Err(unnamed(place, "output", &names));
    }
    // Devices and pipes have any name.
    let is_file = |p: &Path| p.metadata().map_or(true, |m| m.is_file());
    match files().find(|p| p.extension().is_some_and(|e| e != "npz" && e != "npy") && is_file(p)) {
        Some(place) => Err(Failure::usage(format!(
            "{}: outputs go to a .npz or .npy file, or to a folder, as {}/",
            place.display(),
            place.display()
        ))),
        None => Ok(()),
    }
}

fn is_folder(place: &Path) -> bool {
    place.is_dir() || place.to_str().is_some_and(|text| text.ends_with('/'))
}

/// The name of an output's file in a folder: characters that lead elsewhere, or that file systems refuse, become `_`.
fn file_name(name: &str, taken: &mut std::collections::BTreeSet<String>) -> String {
    let keep = |c: char| if c.is_alphanumeric() || "-_.+=@,".contains(c) { c } else { '_' };
    let base: String = name.chars().map(keep).collect();
    let mut file = format!("{base}.npy");
    let mut n = 2;
    while !taken.insert(file.to_lowercase()) {
        file = format!("{base}.{n}.npy");
        n += 1;
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_outputs_become_names_of_files_that_stay_in_their_folder() {
        let mut taken = Default::default();
        let mut file = |name: &str| file_name(name, &mut taken);
        assert_eq!(file("../../etc/passwd"), ".._.._etc_passwd.npy");
        assert_eq!((file("a/b"), file("a:b"), file("A_B")), ("a_b.npy".into(), "a_b.2.npy".into(), "A_B.3.npy".into()));
    }

    #[test]
    fn a_name_before_a_file_may_itself_have_an_equals_sign() {
        let named = |text: &str| named(Path::new(text), &["x", "x=y"]).map(|(n, p)| (n, p.display().to_string()));
        assert_eq!(named("x=a.npy"), Some(("x", "a.npy".to_owned())));
        assert_eq!(named("x=y=a=b.npy"), Some(("x=y", "a=b.npy".to_owned())));
        assert_eq!((named("x=a.npz"), named("z=a.npy"), named("a.npy")), (None, None, None));
    }
}
