//! Sizes that change between runs: what they may be, and what the shapes of the inputs, or results that data make
//! longer or shorter, make them.

use super::{Entry, HostStep, Port};
use crate::ir::Dim;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A size that each run of an entry chooses: by the shapes of its inputs, or by its data, known once a host step has
/// computed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRange {
    /// Its name in the shapes and parameters of the entry.
    pub name: String,
    /// Its minimum.
    pub min: i64,
    /// Its maximum; memory is planned for it.
    pub max: i64,
}

/// The sizes of one run, by name.
pub type Sizes = BTreeMap<String, i64>;

/// A shape that an input, or a result of a host step, may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{port:?}: {fault}")]
pub struct SizeError {
    /// Which input or result.
    pub port: String,
    /// What is wrong with its shape, with the numbers.
    pub fault: String,
}

impl Entry {
    /// The sizes that inputs of these shapes, in the entry's order, choose. Those that data choose are not among them.
    ///
    /// # Errors
    /// A shape is none that the input may have: another rank, a size out of its range, or one that other inputs
    /// contradict.
    pub fn sizes_of(&self, shapes: &[Vec<usize>]) -> Result<Sizes, SizeError> {
        let mut sizes = Sizes::new();
        self.solve_sizes(&mut sizes, self.inputs.iter().zip(shapes.iter().map(Vec::as_slice)))?;
        Ok(sizes)
    }

    /// Adds the sizes that results of these shapes determine, in the step's order.
    ///
    /// # Errors
    /// As for [`Entry::sizes_of`].
    pub fn sizes_after(&self, step: &HostStep, shapes: &[Vec<usize>], sizes: &mut Sizes) -> Result<(), SizeError> {
        self.solve_sizes(sizes, step.outputs.iter().zip(shapes.iter().map(Vec::as_slice)))
    }

    fn solve_sizes<'a>(
        &self,
        sizes: &mut Sizes,
        ports: impl Iterator<Item = (&'a Port, &'a [usize])> + Clone,
    ) -> Result<(), SizeError> {
        for (port, shape) in ports.clone().filter(|(port, shape)| port.shape.len() == shape.len()) {
            for (axis, (dim, &given)) in port.shape.iter().zip(shape).enumerate() {
                let given = i64::try_from(given).unwrap_or(i64::MAX);
                let Some((symbol, value)) = dim.solve(given) else { continue };
                let Some(range) = self.sizes.iter().find(|s| s.name == symbol.name()) else { continue };
                if !(range.min..=range.max).contains(&value) {
                    let fault = format!(
                        "axis {axis} has {given}, which makes {} {value}; this program takes {} to {}",
                        range.name, range.min, range.max
                    );
                    return Err(SizeError { port: port.name.clone(), fault });
                }
                sizes.entry(range.name.clone()).or_insert(value);
            }
        }
        for (port, shape) in ports {
            let expected: Option<Vec<i64>> =
                port.shape.iter().map(|dim| dim.eval(&|name| sizes.get(name).copied())).collect();
            let fits = expected.as_ref().is_some_and(|e| {
                e.len() == shape.len() && e.iter().zip(shape).all(|(&e, &n)| usize::try_from(e) == Ok(n))
            });
            if !fits {
                let chosen: Vec<String> = sizes.iter().map(|(name, n)| format!("{name} = {n}")).collect();
                let given = if chosen.is_empty() { String::new() } else { format!(" with {}", chosen.join(", ")) };
                let fault = format!("{shape:?} given, {:?} wanted{given}", port.shape);
                return Err(SizeError { port: port.name.clone(), fault });
            }
        }
        Ok(())
    }

    /// The largest sizes that it takes.
    pub fn largest(&self) -> Sizes {
        self.sizes.iter().map(|size| (size.name.clone(), size.max)).collect()
    }

    /// The minimum and maximum of a size of this entry; `None` where it has a symbol that the entry does not
    /// choose.
    pub fn bounds(&self, dim: &Dim) -> Option<(i64, i64)> {
        let mut known = true;
        let ranges: BTreeMap<&str, (i64, i64)> = self.sizes.iter().map(|s| (s.name.as_str(), (s.min, s.max))).collect();
        dim.for_each_symbol(&mut |symbol| known &= ranges.contains_key(symbol.name()));
        known.then(|| dim.bounds_with(&|symbol| ranges.get(symbol.name()).copied().unwrap_or((0, i64::MAX))))
    }
}

impl Port {
    /// The port of a run with these sizes; `None` where they leave its shape open.
    pub fn at(&self, sizes: &Sizes) -> Option<Port> {
        let size = |dim: &Dim| dim.eval(&|name| sizes.get(name).copied()).filter(|n| *n >= 0).map(Dim::Known);
        Some(Port { shape: self.shape.iter().map(size).collect::<Option<_>>()?, ..self.clone() })
    }
}
