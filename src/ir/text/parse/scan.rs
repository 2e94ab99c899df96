//! Words, names, numbers and lists of a text.

use super::{ParseError, Parsed, Parser};

impl<'a> Parser<'a> {
    pub(super) fn refuse(&self, message: impl Into<String>) -> ParseError {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = self.at - before.rfind('\n').map_or(0, |n| n + 1) + 1;
        ParseError { line, column, message: message.into() }
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self, token: &str) -> bool {
        self.rest().starts_with(token)
    }

    /// Skips blanks, line ends included.
    pub(super) fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    pub(super) fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
    }

    pub(super) fn take(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.at += token.len();
        }
        found
    }

    pub(super) fn eat(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.refuse(format!("expected {token:?}"))) }
    }

    pub(super) fn word(&mut self, extra: &str) -> &'a str {
        let rest = self.rest();
        let len =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || extra.contains(c))).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    pub(super) fn quoted(&mut self) -> Parsed<String> {
        let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        match stream.next() {
            Some(Ok(text)) => {
                self.at += stream.byte_offset();
                Ok(text)
            }
            _ => Err(self.refuse("expected a quoted string")),
        }
    }

    pub(super) fn name(&mut self) -> Parsed<String> {
        if self.peek("\"") {
            return self.quoted();
        }
        let word = self.word("./:-");
        if word.is_empty() { Err(self.refuse("expected a name")) } else { Ok(word.to_owned()) }
    }

    pub(super) fn int(&mut self) -> Parsed<i64> {
        let start = self.at;
        self.take("-");
        self.word("");
        self.text[start..self.at].parse().map_err(|_| {
            self.at = start;
            self.refuse("expected an integer")
        })
    }

    pub(super) fn float(&mut self) -> Parsed<f32> {
        let start = self.at;
        let word = self.word("+-.");
        // `inf` ends in f, which is no suffix there.
        let number = if word.ends_with("inf") && !word.ends_with("inff") {
            word
        } else {
            word.strip_suffix('f').unwrap_or(word)
        };
        number.parse().map_err(|_| {
            self.at = start;
            self.refuse("expected a number")
        })
    }

    pub(super) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.eat("[")?;
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            self.blank();
            if self.take("]") {
                return Ok(items);
            }
            self.eat(",")?;
            self.blank();
        }
    }
}
