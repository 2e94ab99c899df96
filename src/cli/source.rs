//! How a model is imported, as every command that reads one takes it.

use super::Failure;
use super::constants::{self, Constant};
use crate::import::{DimBinding, Held, ImportOptions, Initializers};
use std::path::Path;

/// Sizes, values and types for a model, and what becomes of its initializers.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Source {
    /// The size of a dimension: batch=1 by its name, input.0=1 by input and axis, seq=1..512 for any size of a range,
    /// total=past+seq for an expression of names with ranges
    #[arg(long, value_name = "NAME=SIZE", value_parser = DimBinding::parse)]
    pub(super) dim: Vec<DimBinding>,
    #[command(flatten)]
    pub(super) values: Values,
    /// Initializers that the model has as inputs too (IR version 4 and later): inputs with a default, constants, or
    /// auto, which takes them for constants where the model lists all its initializers and they have 64 KiB or more
    #[arg(long, default_value = "auto", value_name = "auto|inputs|constants")]
    pub(super) initializers: Initializers,
}

/// What inputs of a model are and hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Values {
    /// Values for inputs of the model, which become constants: where an input decides shapes. In line, as sr=16000 or
    /// axes=[0,2], or arrays of these names in a file
    #[arg(long, value_name = "NAME=VALUE|FILE.npz", value_parser = Constant::parse)]
    pub(super) constants: Vec<Constant>,
    /// What an input holds that is a sequence or an optional: the types of its elements as seq=[f32[2,3],f32[4,3]], the
    /// type of an optional's value as opt=f32[5], or opt=none. The program takes the elements as seq.0, seq.1 and so on
    #[arg(long, value_name = "NAME=TYPE|[TYPE,...]|none", value_parser = holds)]
    pub(super) holds: Vec<(String, Held)>,
}

/// Reads what `--holds` takes.
fn holds(text: &str) -> Result<(String, Held), String> {
    let (name, held) = text
        .rsplit_once('=')
        .filter(|(name, _)| !name.trim().is_empty())
        .ok_or_else(|| format!("{text:?} is no NAME=TYPE, as seq=[f32[2,3],f32[4,3]], opt=f32[5] or opt=none"))?;
    Ok((name.trim().to_owned(), held.parse()?))
}

impl Source {
    /// The options of an import.
    ///
    /// # Errors
    /// A file of values cannot be read, or a name is given twice.
    pub(super) fn options(&self) -> Result<ImportOptions, Failure> {
        let dims = self.dim.clone();
        let mut options = ImportOptions { dims, initializers: self.initializers, ..ImportOptions::default() };
        constants::put(&self.values.constants, &mut options)?;
        for (name, held) in &self.values.holds {
            if options.held.insert(name.clone(), held.clone()).is_some() {
                return Err(Failure::usage(format!("--holds gives {name:?} twice")));
            }
        }
        Ok(options)
    }

    /// Refuses what only a model could use.
    ///
    /// # Errors
    /// Something is given, and `path` is no model.
    pub(super) fn refuse_unused(&self, path: &Path) -> Result<(), Failure> {
        let Source { dim, values: Values { constants, holds }, initializers } = self;
        let given = [
            ("--dim", !dim.is_empty()),
            ("--constants", !constants.is_empty()),
            ("--holds", !holds.is_empty()),
            ("--initializers", *initializers != Initializers::Auto),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                let path = path.display();
                Err(Failure::usage(format!("{name} is for models: {path} is compiled already, or a text of one")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_inputs_hold_is_read_as_it_is_printed() {
        for (text, printed) in [
            ("s=[f32[2,3],i64[4]]", "[f32[2,3],i64[4]]"),
            ("s = [ f32[n,3] , f32[max(a,b)] ]", "[f32[n,3],f32[max(a,b)]]"),
            ("s=[]", "[]"),
            ("a=b=f32[]", "f32[]"),
            ("o=none", "none"),
        ] {
            let (name, held) = holds(text).unwrap();
            assert_eq!((name.as_str(), held.to_string().as_str()), (text.rsplit_once('=').unwrap().0.trim(), printed));
        }
        for text in
            ["s", "=none", "s=", "s=[f32[2]", "s=f32[2]]", "s=f32", "s=[f32[2],]", "s=[,]", "s=float", "s=f32[-1]x"]
        {
            assert!(holds(text).is_err(), "{text}");
        }
        assert!(holds("s=i4<g16:f16>[2,16]").unwrap_err().contains("packed"));
    }
}
