//! `--constants`: values for inputs of a model, from a file or in line.

use super::{Failure, load};
use crate::import::ImportOptions;
use std::path::{Path, PathBuf};

/// What `--constants` is given; it may be given more than once.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// The arrays of a `.npz` file, by name.
    File(PathBuf),
    /// The value of one input.
    Value(String, serde_json::Value),
}

impl Constant {
    /// Reads `FILE.npz`, `NAME=16000`, `NAME=true` or `NAME=[1,2,3]`; a number becomes what the input's type is.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<Constant, String> {
        if text.ends_with(".npz") && !text.contains(['[', '{']) {
            return Ok(Constant::File(text.into()));
        }
        let (name, value) = text
            .rsplit_once('=')
            .filter(|(name, _)| !name.trim().is_empty())
            .ok_or_else(|| format!("{text:?} is neither FILE.npz nor NAME=VALUE"))?;
        let refuse = || format!("{value:?} is no value: a number, true, false, or a list of these as [1,2,3]");
        let value: serde_json::Value = serde_json::from_str(value.trim()).map_err(|_| refuse())?;
        match value {
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) | serde_json::Value::Array(_) => {
                Ok(Constant::Value(name.trim().to_owned(), value))
            }
            _ => Err(refuse()),
        }
    }
}

/// The files among them: what is written must spare these.
pub fn files(given: &[Constant]) -> impl Iterator<Item = &Path> {
    given.iter().filter_map(|constant| if let Constant::File(path) = constant { Some(path.as_path()) } else { None })
}

/// Puts them into the options of an import.
///
/// # Errors
/// A file cannot be read, or a name is given twice.
pub fn put(given: &[Constant], options: &mut ImportOptions) -> Result<(), Failure> {
    for constant in given {
        let twice = match constant {
            Constant::File(path) => {
                let mut twice = None;
                for (name, tensor) in load::values(path)? {
                    if options.constants.insert(name.clone(), tensor).is_some() {
                        twice = Some(name);
                    }
                }
                twice
            }
            Constant::Value(name, value) => options.values.insert(name.clone(), value.clone()).map(|_| name.clone()),
        };
        if let Some(name) = twice {
            return Err(Failure::usage(format!("--constants gives {name:?} twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_and_values_are_distinguished() {
        for (text, value) in [
            ("sr=16000", json!(16000)),
            ("scale=-0.5", json!(-0.5)),
            ("on = true", json!(true)),
            ("axes=[1, 2]", json!([1, 2])),
            ("a=b=[[1],[2]]", json!([[1], [2]])),
        ] {
            let name = text.rsplit_once('=').unwrap().0.trim().to_owned();
            assert_eq!(Constant::parse(text), Ok(Constant::Value(name, value)), "{text}");
        }
        for text in ["a.npz", "folder/x=1.npz"] {
            assert_eq!(Constant::parse(text), Ok(Constant::File(text.into())));
        }
        for text in ["sr", "=3", "sr=", "sr=fast", "sr=\"16\"", "sr={}", "sr=[1", "sr=null"] {
            assert!(Constant::parse(text).is_err(), "{text}");
        }
    }
}
