//! An index out of range: what the CPU reference and a device say of it alike.

use std::fmt;

/// The first of some indices that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct IndexFault {
    /// Which element of the tensor of indices, counted in row-major order from 0.
    pub element: u64,
    /// Its value.
    pub index: i64,
    /// The minimum of the range.
    pub least: i64,
    /// The maximum of the range; below `least` where nothing is.
    pub most: i64,
}

impl fmt::Display for IndexFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IndexFault { element, index, least, most } = self;
        write!(f, "index {index} (element {element} of the indices) is out of range: ")?;
        if most < least { write!(f, "its axis is empty") } else { write!(f, "{least} to {most} are allowed") }
    }
}
