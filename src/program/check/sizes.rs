//! Sizes that change from run to run.

use super::place::DispatchPlace;
use super::{Checked, Scope, fault};
use crate::ir::Dim;
use crate::program::{Entry, HostStep, Port, Step};
use std::collections::BTreeSet;

impl Scope<'_> {
    /// The sizes of an entry have ranges and names of their own, and each is defined, by the shape of an input or of a
    /// host step's result, before it is used.
    pub(super) fn sizes(&self, entry: &Entry, at: &str) -> Checked {
        for (i, size) in entry.sizes.iter().enumerate() {
            let place = format!("{at}, size {:?}", size.name);
            if size.min < 0 || size.max < size.min || size.max > 1 << 31 {
                return Err(fault(&place, format!("{}..{} is no range of sizes", size.min, size.max)));
            }
            if entry.sizes.iter().take(i).any(|other| other.name == size.name) {
                return Err(fault(&place, "is listed twice".to_owned()));
            }
        }
        if entry.sizes.is_empty() {
            return Ok(());
        }
        let mut defined: BTreeSet<&str> = BTreeSet::new();
        add_defined(&entry.inputs, &mut defined);
        let known = |place: &str, dims: &mut dyn Iterator<Item = &Dim>, defined: &BTreeSet<&str>| {
            let mut missing = None;
            dims.for_each(|dim| {
                dim.for_each_symbol(&mut |symbol| {
                    missing = (!defined.contains(symbol.name())).then(|| symbol.clone()).or(missing.take())
                })
            });
            missing.map_or(Ok(()), |symbol| {
                Err(fault(place, format!("nothing before it determines the size {:?}", symbol.name())))
            })
        };
        fn shapes(ports: &[Port]) -> impl Iterator<Item = &Dim> {
            ports.iter().flat_map(|port| &port.shape)
        }
        known(at, &mut shapes(&entry.inputs), &defined)?;
        for (s, step) in entry.steps.iter().enumerate() {
            match step {
                Step::Device(dispatches) => {
                    for (d, dispatch) in dispatches
                        .iter()
                        .enumerate()
                        .filter(|(_, d)| d.is_indirect() || d.params.iter().any(|word| word.known().is_none()))
                    {
                        let place =
                            DispatchPlace { plan: self.index, entry, step: s, dispatch: d, node: &dispatch.node };
                        let place = place.to_string();
                        known(&place, &mut dispatch.params.iter().chain(&dispatch.groups), &defined)?;
                    }
                }
                Step::Host(HostStep { node, inputs, outputs }) => {
                    let place = format!("{at}, step {s}, host node {node:?}");
                    known(&place, &mut inputs.iter().flatten().flat_map(|port| &port.shape), &defined)?;
                    add_defined(outputs, &mut defined);
                    known(&place, &mut shapes(outputs), &defined)?;
                }
            }
        }
        known(at, &mut shapes(&entry.outputs), &defined)
    }
}

/// Adds the sizes that the shapes of `ports` determine.
fn add_defined<'a>(ports: &'a [Port], defined: &mut BTreeSet<&'a str>) {
    defined.extend(
        ports.iter().flat_map(|port| &port.shape).filter_map(|dim| dim.solved_symbol().map(|symbol| symbol.name())),
    );
}
