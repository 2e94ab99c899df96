//! Samples of a model's inputs, read one file at a time.

use super::npz;
use crate::ir::{Graph, NarrowError, Tensor, TensorError, TensorType, hint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum SampleError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}: {reason}")]
    Bad { path: String, reason: String },
    #[error("{path}: there is no .npz file in this folder")]
    Empty { path: String },
    #[error("{path}: no array {name:?} ({expected}); there are {given}")]
    Missing { path: String, name: String, expected: String, given: String },
    #[error("{path}: the model has no input {name:?}{hint}")]
    Unknown { path: String, name: String, hint: String },
    #[error("{path}: array {name:?} is {given}, which is neither {expected} nor several of these")]
    Type { path: String, name: String, given: String, expected: String },
    #[error("{path}: array {name:?} has {given} samples, another {expected}")]
    Count { path: String, name: String, given: usize, expected: usize },
    #[error("{path}: array {name:?}: {source}")]
    Value { path: String, name: String, source: NarrowError },
    #[error("{path}: array {name:?}: {source}")]
    Tensor { path: String, name: String, source: TensorError },
}

/// Arrays by name, and where they come from.
type Arrays = (String, BTreeMap<String, Tensor>);

/// Samples of the inputs of a graph, in order of the files' names.
///
/// A file has arrays named as the inputs. Each is one sample's, or those of several: with one axis more, the first, or
/// with a first axis that is a multiple of the input's. What only one sample is given of serves all of them.
pub struct Samples {
    inputs: Vec<(String, TensorType)>,
    sources: Box<dyn Iterator<Item = Result<Arrays, SampleError>> + Send>,
    /// Of the arrays that were read last: the last sample first.
    ready: Vec<Vec<Tensor>>,
    left: usize,
}

impl Samples {
    /// At most `most` samples for the inputs of `graph` from a `.npz` file, all `.npz` files of a folder, or a `.txt`
    /// file that lists one a line.
    ///
    /// # Errors
    /// The path cannot be read, or names no files.
    pub fn open(path: &Path, graph: &Graph, most: usize) -> Result<Samples, SampleError> {
        let io = |source| SampleError::Io { path: path.display().to_string(), source };
        let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
        let mut files: Vec<PathBuf> = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
            let mut files: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).filter(|p| is(p, "npz")).collect();
            files.sort();
            files
        } else if is(path, "txt") {
            let text = std::fs::read_to_string(path).map_err(io)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| folder.join(line)).collect()
        } else {
            std::fs::metadata(path).map_err(io)?;
            vec![path.to_owned()]
        };
        if files.is_empty() {
            return Err(SampleError::Empty { path: path.display().to_string() });
        }
        files.dedup();
        Ok(Samples::of_sources(graph, most, files.into_iter().map(|file| read(&file))))
    }

    /// At most `most` samples for the inputs of `graph` from arrays by name, of one sample or of several as a file has
    /// them.
    pub fn of_arrays(
        graph: &Graph,
        most: usize,
        arrays: impl Iterator<Item = BTreeMap<String, Tensor>> + Send + 'static,
    ) -> Samples {
        let named = |(i, arrays)| Ok((format!("arrays {i}"), arrays));
        Samples::of_sources(graph, most, arrays.enumerate().map(named))
    }

    fn of_sources(
        graph: &Graph,
        most: usize,
        sources: impl Iterator<Item = Result<Arrays, SampleError>> + Send + 'static,
    ) -> Samples {
        let defaults = graph.defaults();
        let port = |id: &crate::ir::NodeId| {
            let value = graph.value(id.out(0));
            (value.name.clone(), value.ty.clone())
        };
        // Inputs with a default keep it.
        let inputs = graph.inputs().iter().map(port).filter(|(name, _)| !defaults.contains_key(name)).collect();
        Samples { inputs, sources: Box::new(sources), ready: Vec::new(), left: most }
    }

    /// The samples of arrays by name; `path` is where they come from.
    fn of(&self, path: &str, mut arrays: BTreeMap<String, Tensor>) -> Result<Vec<Vec<Tensor>>, SampleError> {
        if let Some(name) = arrays.keys().find(|name| !self.inputs.iter().any(|(own, _)| own == *name)) {
            let hint = hint(name, self.inputs.iter().map(|(own, _)| own.as_str()));
            return Err(SampleError::Unknown { path: path.to_owned(), name: name.clone(), hint });
        }
        let given: Vec<String> = arrays.keys().map(|name| format!("{name:?}")).collect();
        let mut columns: Vec<Vec<Tensor>> = Vec::new();
        for (name, ty) in &self.inputs {
            let array = arrays.remove(name).ok_or_else(|| SampleError::Missing {
                path: path.to_owned(),
                name: name.clone(),
                expected: ty.to_string(),
                given: given.join(", "),
            })?;
            let refuse = |source| SampleError::Value { path: path.to_owned(), name: name.clone(), source };
            let array = array.narrowed(ty.dtype).map_err(refuse)?;
            let parts = parts(&array, ty).ok_or_else(|| SampleError::Type {
                path: path.to_owned(),
                name: name.clone(),
                given: array.ty().to_string(),
                expected: ty.to_string(),
            })?;
            let refuse = |source| SampleError::Tensor { path: path.to_owned(), name: name.clone(), source };
            columns.push(parts.map_err(refuse)?);
        }
        let n = columns.iter().map(Vec::len).max().unwrap_or(0);
        if let Some(at) = columns.iter().position(|column| column.len() != n && column.len() != 1) {
            let (name, given) = (self.inputs[at].0.clone(), columns[at].len());
            return Err(SampleError::Count { path: path.to_owned(), name, given, expected: n });
        }
        let one = |column: &Vec<Tensor>, i: usize| column[if column.len() == 1 { 0 } else { i }].clone();
        Ok((0..n).map(|i| columns.iter().map(|column| one(column, i)).collect()).collect())
    }
}

/// The arrays of a file.
fn read(file: &Path) -> Result<Arrays, SampleError> {
    let path = file.display().to_string();
    let open = std::fs::File::open(file).map_err(|source| SampleError::Io { path: path.clone(), source })?;
    let bad = |reason| SampleError::Bad { path: path.clone(), reason };
    let arrays = npz::read(std::io::BufReader::new(open), &mut |_, _| true).map_err(bad)?;
    Ok((path, arrays))
}

/// The samples in an array for an input of this type; `None` where it does not fit.
fn parts(array: &Tensor, ty: &TensorType) -> Option<Result<Vec<Tensor>, TensorError>> {
    let dims = array.dims();
    let rank = ty.shape.rank();
    let fits = |dims: &[usize], from: usize| {
        ty.shape.0[from..].iter().zip(&dims[from..]).all(|(own, n)| own.known().is_none_or(|own| own == *n as i64))
    };
    let n = if dims.len() == rank + 1 && fits(&dims[1..], 0) {
        dims[0]
    } else if dims.len() == rank && fits(&dims, 0) {
        return Some(Ok(vec![array.clone()]));
    } else if dims.len() == rank && rank > 0 && fits(&dims, 1) {
        let own = usize::try_from(ty.shape.0[0].known()?).ok().filter(|own| *own > 0)?;
        dims[0].is_multiple_of(own).then_some(dims[0] / own)?
    } else {
        return None;
    };
    let mut one = dims[dims.len() - rank..].to_vec();
    if dims.len() == rank {
        one[0] = dims[0] / n.max(1);
    }
    let part = |i: usize| {
        let bytes = array.bytes()?;
        let len = bytes.len() / n;
        Tensor::from_bytes(TensorType::of(array.dtype(), &one), bytes[i * len..(i + 1) * len].to_vec())
    };
    Some((0..n).map(part).collect())
}

impl Iterator for Samples {
    type Item = Result<Vec<Tensor>, SampleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        while self.ready.is_empty() {
            let source = self.sources.next()?;
            match source.and_then(|(path, arrays)| self.of(&path, arrays)) {
                Ok(samples) => self.ready = samples.into_iter().rev().collect(),
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
        }
        self.left -= 1;
        self.ready.pop().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Level};

    fn graph() -> Graph {
        let mut graph = Graph::new("g", Level::Onnx);
        let x = graph.add_input("x", TensorType::of(DType::F32, &[2, 3]));
        graph.add_input("i", TensorType::of(DType::I64, &[1]));
        graph.add_output("x", x);
        graph
    }

    fn floats(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        Tensor::from_f32s(DType::F32, dims, &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn write(folder: &Path, name: &str, arrays: &[(&str, Tensor)]) -> PathBuf {
        let path = folder.join(name);
        let arrays: Vec<(String, Tensor)> = arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        npz::write(std::fs::File::create(&path).unwrap(), &arrays).unwrap();
        path
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("nyxc-samples-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_holds_one_sample_or_several() {
        let folder = folder("several");
        let one = Tensor::from_i64s(DType::I64, &[1], &[7]).unwrap();
        let two = Tensor::from_i64s(DType::I64, &[2], &[7, 8]).unwrap();
        write(&folder, "a.npz", &[("x", floats(&[2, 3])), ("i", one.clone())]);
        write(&folder, "b.npz", &[("x", floats(&[2, 2, 3])), ("i", two)]);
        write(&folder, "c.npz", &[("x", floats(&[6, 3])), ("i", one)]);
        let samples: Vec<Vec<Tensor>> =
            Samples::open(&folder, &graph(), usize::MAX).unwrap().map(Result::unwrap).collect();
        let first = |sample: &Vec<Tensor>| (sample[0].to_f32s().unwrap()[0], sample[1].to_i64s().unwrap()[0]);
        let firsts: Vec<(f32, i64)> = samples.iter().map(first).collect();
        assert_eq!(firsts, [(0.0, 7), (0.0, 7), (6.0, 8), (0.0, 7), (6.0, 7), (12.0, 7)]);
        assert!(samples.iter().all(|s| s[0].dims() == [2, 3] && s[1].dims() == [1]));
        assert_eq!(Samples::open(&folder, &graph(), 3).unwrap().count(), 3);
        let list = folder.join("list.txt");
        std::fs::write(&list, "c.npz\n\na.npz\n").unwrap();
        assert_eq!(Samples::open(&list, &graph(), 9).unwrap().count(), 4);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn arrays_are_samples_as_files_are() {
        let two = Tensor::from_i64s(DType::I64, &[2], &[7, 8]).unwrap();
        let arrays = |i: Tensor| BTreeMap::from([("x".to_owned(), floats(&[2, 2, 3])), ("i".to_owned(), i)]);
        let three = Tensor::from_i64s(DType::I64, &[3], &[7, 8, 9]).unwrap();
        let mut samples = Samples::of_arrays(&graph(), 9, [arrays(two), arrays(three)].into_iter());
        let sample = samples.nth(1).unwrap().unwrap();
        assert_eq!((sample[0].to_f32s().unwrap()[0], sample[1].to_i64s().unwrap()[0]), (6.0, 8));
        let error = samples.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("arrays 1") && error.contains("3"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = folder("named");
        let i = Tensor::from_i64s(DType::I64, &[1], &[7]).unwrap();
        let three = Tensor::from_i64s(DType::I64, &[3], &[7, 8, 9]).unwrap();
        for (arrays, said) in [
            (vec![("x", floats(&[2, 3]))], "no array \"i\""),
            (vec![("x", floats(&[2, 4])), ("i", i.clone())], "\"x\" is f32[2,4]"),
            (vec![("x", floats(&[3, 3])), ("i", i.clone())], "\"x\" is f32[3,3]"),
            (vec![("x", floats(&[4, 3])), ("i", three)], "has 2 samples, another 3"),
            (vec![("x", floats(&[2, 3])), ("i", i.clone()), ("z", i)], "no input \"z\""),
        ] {
            let path = write(&folder, "one.npz", &arrays);
            let mut samples = Samples::open(&path, &graph(), 9).unwrap();
            let error = samples.next().unwrap().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("one.npz"), "{error}");
            assert!(samples.next().is_none());
        }
        std::fs::write(folder.join("one.npz"), b"no archive").unwrap();
        assert!(matches!(Samples::open(&folder, &graph(), 9).unwrap().next(), Some(Err(SampleError::Bad { .. }))));
        assert!(matches!(Samples::open(&folder.join("absent"), &graph(), 9), Err(SampleError::Io { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
