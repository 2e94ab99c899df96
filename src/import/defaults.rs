//! Initializers that are inputs too: from IR version 4 on an input with a default, unless what it is must be known
//! while compiling.

use super::error::ImportError;
use super::read::RawGraph;
use super::{ImportOptions, Initializers};
use std::collections::BTreeMap;

/// From which IR version on an initializer may be given another value by a run.
const IR_VERSION: i64 = 4;
/// Initializers of less than this together are inputs, though the model lists all it has.
const SMALL_BYTES: u64 = 64 << 10;

/// Makes inputs with a default of the initializers that are listed as inputs, where they shall be ones. Gives the
/// others that are listed, and why they are constants.
pub(super) fn choose(raw: &mut RawGraph, ir_version: i64, options: &ImportOptions) -> BTreeMap<String, String> {
    let bytes = raw.initializers.values().filter_map(|t| t.ty().bytes()).fold(0, u64::saturating_add);
    let is_listed = |name: &String| raw.inputs.iter().any(|input| input.name == *name);
    let is_given = |name: &String| options.constants.contains_key(name) || options.values.contains_key(name);
    let all = raw.initializers.keys().filter(|name| !is_given(name)).all(is_listed);
    let reason = match options.initializers {
        _ if ir_version < IR_VERSION => {
            Some(format!("in IR version {ir_version} every initializer is listed as an input"))
        }
        Initializers::Constants => Some("--initializers constants".to_owned()),
        Initializers::Auto if all && bytes >= SMALL_BYTES => Some(format!(
            "the model lists all its initializers, {bytes} bytes, as inputs; --initializers inputs makes them inputs"
        )),
        Initializers::Auto | Initializers::Inputs => None,
    };
    let mut fixed = BTreeMap::new();
    for input in &raw.inputs {
        let name = &input.name;
        if is_given(name) {
            fixed.insert(name.clone(), "--constants gave it a value".to_owned());
        } else if let Some(tensor) = raw.initializers.get(name).cloned() {
            match &reason {
                Some(reason) => {
                    fixed.insert(name.clone(), reason.clone());
                }
                None => {
                    raw.initializers.remove(name);
                    raw.defaults.insert(name.clone(), tensor);
                }
            }
        }
    }
    fixed
}

/// Makes constants of the inputs with a default whose value the graph cannot do without, and gives why: the one that
/// the error names, or all where it names none of them.
///
/// # Errors
/// There is no such input: the error is the model's.
pub(super) fn fix_for(raw: &mut RawGraph, error: ImportError) -> Result<BTreeMap<String, String>, ImportError> {
    if raw.defaults.is_empty() {
        return Err(error);
    }
    let at = error.node().map_or(String::new(), |node| format!(" of node {node:?}"));
    let named = error.free_input().and_then(|name| raw.defaults.remove_entry(name));
    let (taken, reason) = match named {
        Some(entry) => (BTreeMap::from([entry]), format!("types{at} depend on its value")),
        None => (std::mem::take(&mut raw.defaults), format!("with inputs in place of constants, {error}")),
    };
    let fixed = taken.keys().map(|name| (name.clone(), reason.clone())).collect();
    raw.initializers.extend(taken);
    Ok(fixed)
}
