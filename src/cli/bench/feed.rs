//! Outputs that stay on the device as inputs of the next run: `nyxc bench --feed`.

use crate::cli::{Failure, run};
use crate::import::DimBinding;
use crate::ir::{Dim, Tensor};
use crate::program::{Entry, Program};
use crate::session::{DeviceTensor, Outcome, Session, SessionError};

/// Inputs that are outputs of the run before. What one run reads and what it writes are different tensors, which change
/// places.
pub(super) struct Feed {
    /// Input and output.
    pairs: Vec<(String, String)>,
    read: Vec<DeviceTensor>,
    written: Vec<DeviceTensor>,
    has_run: bool,
}

impl Feed {
    /// Of `INPUT=OUTPUT`, where a `*` in both stands for the same text.
    pub(super) fn of(session: &mut Session, given: &[String]) -> Result<Feed, Failure> {
        let entry = run::entry(session.program())?.clone();
        let mut pairs = Vec::new();
        for text in given {
            let usage = |fault: &str| Failure::usage(format!("--feed {text}: {fault}"));
            let (input, output) = text.split_once('=').ok_or_else(|| usage("INPUT=OUTPUT is wanted"))?;
            let before = pairs.len();
            for port in &entry.inputs {
                let Some(part) = matched(input, &port.name) else { continue };
                let output = output.replacen('*', part, 1);
                if !entry.outputs.iter().any(|port| port.name == output) {
                    return Err(usage(&format!("the program has no output {output:?}")));
                }
                pairs.push((port.name.clone(), output));
            }
            if pairs.len() == before {
                return Err(usage(&format!("the program has no input {input:?}")));
            }
        }
        let mut tensors = || -> Result<Vec<DeviceTensor>, SessionError> {
            pairs.iter().map(|(_, output)| session.tensor(&entry.name, output)).collect()
        };
        let (read, written) = (tensors()?, tensors()?);
        Ok(Feed { pairs, read, written, has_run: false })
    }

    /// The inputs that the host gives to the next run: random ones at the sizes that the outputs before have.
    pub(super) fn inputs(
        &self,
        program: &Program,
        files: &[std::path::PathBuf],
        random: run::Random<'_>,
    ) -> Result<Vec<Tensor>, Failure> {
        let entry = run::entry(program)?;
        let mut dims = random.dims.to_vec();
        for (name, size) in self.sizes(entry) {
            dims.retain(|own| own.name != name);
            dims.push(DimBinding { name, size });
        }
        run::inputs(program, files, Some(run::Random { dims: &dims, ..random }))
    }

    /// Those of all inputs that the host gives to the next run.
    pub(super) fn of_host(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>, Failure> {
        let entry = run::entry(program)?;
        let is_fed = |name: &str| self.has_run && self.pairs.iter().any(|(input, _)| input == name);
        Ok(entry.inputs.iter().zip(inputs).filter(|(port, _)| !is_fed(&port.name)).map(|(_, t)| t.clone()).collect())
    }

    /// Sizes that the outputs of the previous run determine as inputs.
    fn sizes(&self, entry: &Entry) -> Vec<(String, Dim)> {
        let mut sizes = Vec::new();
        for ((input, _), tensor) in self.pairs.iter().zip(&self.read) {
            let port = entry.inputs.iter().find(|port| port.name == *input);
            let Some((port, ty)) = port.zip(tensor.ty()) else { continue };
            for (dim, size) in port.shape.iter().zip(&ty.shape.0) {
                if let Some((symbol, n)) = size.known().and_then(|n| dim.solve(n)) {
                    sizes.push((symbol.name().to_owned(), Dim::Known(n)));
                }
            }
        }
        sizes
    }

    /// Runs the program once.
    pub(super) fn run(&mut self, session: &mut Session, inputs: &[Tensor]) -> Result<Outcome, SessionError> {
        if self.pairs.is_empty() {
            return session.run(inputs);
        }
        let name = session.entries().next().unwrap_or_default().to_owned();
        let mut call = session.entry(&name)?;
        for ((input, output), (read, written)) in self.pairs.iter().zip(self.read.iter().zip(&mut self.written)) {
            if self.has_run {
                call = call.give(input, read)?;
            }
            call = call.keep(output, written)?;
        }
        let outcome = call.run(inputs)?;
        std::mem::swap(&mut self.read, &mut self.written);
        self.has_run = true;
        Ok(outcome)
    }
}

/// What the `*` of a pattern stands for in a name; nothing where the pattern has none and is the name.
fn matched<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((first, last)) => name.strip_prefix(first)?.strip_suffix(last),
    }
}
