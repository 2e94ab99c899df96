//! The text form: one node a line, deterministic, and it reads back: `parse(print(g)) == g`.

mod consts;
mod parse;
mod print;

pub use consts::Consts;
pub use parse::{ConstSource, ParseError, parse, parse_dim, parse_module, parse_open_type, parse_type};
pub use print::{is_inline, node_line};

/// A name after `%`, or a symbol: bare where it can be, quoted otherwise.
pub(super) fn name(text: &str) -> String {
    let bare =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./:-".contains(c)) && text != "_";
    if bare { text.to_owned() } else { quoted(text) }
}

/// A symbol of a size: bare where it is an identifier, quoted otherwise.
pub(super) fn symbol(text: &str) -> String {
    let mut chars = text.chars();
    let bare = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !["floordiv", "min", "max"].contains(&text);
    if bare { text.to_owned() } else { quoted(text) }
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Constants of at most this many elements print their values instead of a hash.
pub(super) const MAX_INLINE: usize = 8;

#[cfg(test)]
mod tests;
