//! Arrays by name as the inputs of a program: each is known, has its type and shape, and what is not given has a
//! default.

use crate::ir::{Dim, NarrowError, Shape, Tensor, TensorType, hint};
use crate::program::{Entry, Port, Program, parse_hex};
use std::collections::BTreeMap;

/// Why arrays are no inputs of a program.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum InputError {
    #[error("the program has no input {name:?}{hint} (it has {available})")]
    Unknown { name: String, hint: String, available: String },
    #[error("input {name:?} is a constant of this program: {reason}; nyxc compile --constants gives it another value")]
    Fixed { name: String, reason: String },
    #[error("no array {name:?} ({expected}); there are {given}")]
    Missing { name: String, expected: String, given: String },
    #[error("input {name:?} is {given}, expected {expected}")]
    Type { name: String, given: TensorType, expected: String },
    #[error("input {name:?}: {source}")]
    Value { name: String, source: NarrowError },
    #[error("{given} inputs, the program has {wanted} without a default and {with_default} with one")]
    Count { given: usize, wanted: usize, with_default: usize },
}

impl Program {
    /// The entry that a run calls.
    pub fn entry(&self) -> Option<&Entry> {
        self.plans.first().and_then(|plan| plan.entries.first())
    }

    /// The value that an input of an entry has where a run gives none.
    pub fn default_of(&self, entry: &Entry, port: &Port) -> Option<&Tensor> {
        self.constants.get(&parse_hex(entry.defaults.get(&port.name)?)?)
    }

    /// The inputs of an entry, in its order, from arrays by name: widened types are narrowed ([`Tensor::narrowed`]),
    /// defaults fill what is not there.
    ///
    /// # Errors
    /// An array is no input of the entry or has another type or shape, a value does not fit its type, or one without a
    /// default is missing.
    pub fn inputs(&self, entry: &Entry, mut arrays: BTreeMap<String, Tensor>) -> Result<Vec<Tensor>, InputError> {
        for (name, tensor) in &arrays {
            entry.takes(name, tensor.ty())?;
        }
        let given: Vec<String> = arrays.keys().cloned().collect();
        let one = |port: &Port| {
            let name = port.name.clone();
            match arrays.remove(&name) {
                Some(tensor) => tensor.narrowed(port.dtype).map_err(|source| InputError::Value { name, source }),
                None => self.default_of(entry, port).cloned().ok_or_else(|| InputError::Missing {
                    expected: entry.expected(port),
                    name,
                    given: list(given.iter().map(String::as_str)),
                }),
            }
        };
        entry.inputs.iter().map(one).collect()
    }

    /// The inputs of an entry where a run gives the first of them, in its order: those with defaults come last.
    ///
    /// # Errors
    /// There are too many, or too few.
    pub fn with_defaults(&self, entry: &Entry, given: &[Tensor]) -> Result<Vec<Tensor>, InputError> {
        let rest = entry.inputs.get(given.len()..).unwrap_or_default();
        let defaults: Option<Vec<Tensor>> = rest.iter().map(|port| self.default_of(entry, port).cloned()).collect();
        match defaults.filter(|_| given.len() <= entry.inputs.len()) {
            Some(defaults) => Ok([given, &defaults].concat()),
            None => {
                let with_default = entry.defaults.len();
                let wanted = entry.inputs.len() - with_default.min(entry.inputs.len());
                Err(InputError::Count { given: given.len(), wanted, with_default })
            }
        }
    }
}

impl Entry {
    /// Whether an array of this name and type may be an input, before its data is looked at. What its shape asks of
    /// others is seen when all are there.
    ///
    /// # Errors
    /// There is no such input, it is a constant of the program, or its type or shape is another.
    pub fn takes(&self, name: &str, ty: &TensorType) -> Result<(), InputError> {
        let Some(port) = self.inputs.iter().find(|port| port.name == name) else {
            if let Some(reason) = self.fixed.get(name) {
                return Err(InputError::Fixed { name: name.to_owned(), reason: reason.clone() });
            }
            let known = || self.inputs.iter().map(|port| port.name.as_str());
            let (hint, available) = (hint(name, known()), list(known()));
            return Err(InputError::Unknown { name: name.to_owned(), hint, available });
        };
        let within = |(dim, given): (&Dim, &Dim)| {
            self.bounds(dim).zip(given.known()).is_some_and(|((low, high), n)| (low..=high).contains(&n))
        };
        let fits = port.shape.len() == ty.shape.rank() && port.shape.iter().zip(&ty.shape.0).all(within);
        // Floats are taken for floats, integers and truth values for each other: which values fit, the data says.
        if fits && port.dtype.is_float() == ty.dtype.is_float() {
            Ok(())
        } else {
            Err(InputError::Type { name: name.to_owned(), given: ty.clone(), expected: self.expected(port) })
        }
    }

    /// The type of an input, with the ranges of its sizes.
    pub fn expected(&self, port: &Port) -> String {
        let ty = TensorType::new(port.dtype, Shape(port.shape.clone()));
        let is_its =
            |name: &str| port.shape.iter().any(|dim| dim.solved_symbol().is_some_and(|symbol| symbol.name() == name));
        let own = self.sizes.iter().filter(|s| is_its(&s.name));
        let ranges: Vec<String> = own.map(|s| format!("{} in {}..{}", s.name, s.min, s.max)).collect();
        if ranges.is_empty() { ty.to_string() } else { format!("{ty} with {}", ranges.join(", ")) }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
