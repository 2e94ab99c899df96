//! Printing.

use super::{MAX_INLINE, name, quoted, symbol};
use crate::ir::{Attr, Attrs, Class, DType, Graph, NodeId, NodeKind, Shape, Tensor};
use std::fmt::{self, Write};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self, f, 0)?;
        if let Some(memory) = crate::ir::memory::summary(self) {
            writeln!(f, "{memory}")?;
        }
        Ok(())
    }
}

fn print(graph: &Graph, f: &mut dyn Write, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    write!(f, "{indent}graph {} {}", name(&graph.name), graph.level)?;
    if depth == 0 {
        for (i, (name, range)) in graph.ranges().into_iter().enumerate() {
            write!(
                f,
                "{} {} in {}..{}",
                if i == 0 { " where" } else { "," },
                symbol(&name),
                range.start(),
                range.end()
            )?;
        }
    }
    writeln!(f)?;
    for id in graph.order() {
        writeln!(f, "{indent}{}", line(graph, id, depth)?)?;
    }
    for output in graph.outputs() {
        let value = &graph.value(output.value).name;
        write!(f, "{indent}  output %{}", name(value))?;
        if *value != output.name {
            write!(f, " as {}", quoted(&output.name))?;
        }
        writeln!(f)?;
    }
    for state in graph.states().iter().filter(|state| state.last != state.node.out(0)) {
        let [first, last] = [state.node.out(0), state.last].map(|value| name(&graph.value(value).name));
        writeln!(f, "{indent}  state %{first} = %{last}")?;
    }
    Ok(())
}

/// The line of one node.
pub fn node_line(graph: &Graph, id: NodeId) -> String {
    // Writing to a string does not fail.
    line(graph, id, 0).unwrap_or_default()
}

fn line(graph: &Graph, id: NodeId, depth: usize) -> Result<String, fmt::Error> {
    let node = graph.node(id);
    let mut f = String::from("  ");
    for (i, value) in node.outputs.iter().enumerate() {
        write!(f, "{}%{}", if i > 0 { ", " } else { "" }, name(&value.name))?;
    }
    f.push_str(" = ");
    match &node.kind {
        NodeKind::Input => match graph.default_of(id) {
            Some(tensor) => write!(f, "input default {}", data(tensor)?)?,
            None => f.push_str("input"),
        },
        NodeKind::Const(tensor) => write!(f, "const {}", data(tensor)?)?,
        NodeKind::State => {
            f.push_str("state");
            if let Some(state) = graph.state_of(id) {
                let is_whole = *state.initial.ty() == node.outputs[0].ty;
                write!(f, "{} {}", if is_whole { "" } else { " fill" }, data(&state.initial)?)?;
                if state.name != node.outputs[0].name {
                    write!(f, " as {}", quoted(&state.name))?;
                }
            }
        }
        NodeKind::Op(op) => {
            f.push_str(op.def.name);
            f.push('(');
            for (i, operand) in graph.operands(id).into_iter().enumerate() {
                if i > 0 {
                    f.push_str(", ");
                }
                match operand {
                    Some(value) => write!(f, "%{}", name(&graph.value(value).name))?,
                    None => f.push('_'),
                }
            }
            f.push(')');
            attributes(&op.attrs, &mut f, depth)?;
        }
    }
    if let Some(format) = node.format {
        write!(f, " @{format}")?;
    }
    if node.outputs.first().is_none_or(|v| v.name != node.name) {
        write!(f, " named {}", quoted(&node.name))?;
    }
    for (i, origin) in node.origin.iter().enumerate() {
        write!(f, "{}{}", if i == 0 { " from " } else { "," }, quoted(origin))?;
    }
    f.push_str(" : ");
    for (i, value) in node.outputs.iter().enumerate() {
        write!(f, "{}{}", if i > 0 { ", " } else { "" }, value.ty)?;
    }
    let bytes = node.outputs.iter().try_fold(0u64, |sum, v| sum.checked_add(v.ty.bytes()?));
    if let Some(bytes) = bytes {
        write!(f, " {bytes}B")?;
    }
    Ok(f)
}

fn attributes(attrs: &Attrs, f: &mut String, depth: usize) -> fmt::Result {
    if attrs.0.is_empty() {
        return Ok(());
    }
    f.push_str(" {");
    for (i, (key, value)) in attrs.0.iter().enumerate() {
        write!(f, "{}{key}=", if i > 0 { ", " } else { "" })?;
        match value {
            Attr::Int(v) => write!(f, "{v}")?,
            Attr::Float(v) => write!(f, "{v:?}f")?,
            Attr::Str(v) => f.push_str(&quoted(v)),
            Attr::Ints(v) => list(f, "", v.iter())?,
            Attr::Floats(v) => list(f, "f", v.iter().map(|v| format!("{v:?}")))?,
            Attr::Strs(v) => list(f, "s", v.iter().map(|v| quoted(v)))?,
            Attr::Dims(v) => write!(f, "d{}", Shape(v.clone()))?,
            Attr::DType(v) => write!(f, "{v}")?,
            Attr::Expr(v) => write!(f, "`{v}`")?,
            Attr::Tensor(v) => write!(f, "const {} : {}", data(v)?, v.ty())?,
            Attr::Graph(v) => {
                writeln!(f, "(")?;
                print(v, f, depth + 2)?;
                write!(f, "{})", "  ".repeat(depth + 1))?;
            }
        }
    }
    f.push('}');
    Ok(())
}

fn list<T: fmt::Display>(f: &mut String, kind: &str, items: impl Iterator<Item = T>) -> fmt::Result {
    write!(f, "{kind}[")?;
    for (i, item) in items.enumerate() {
        write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
    }
    f.push(']');
    Ok(())
}

/// Whether a text holds the data of a constant; it prints the hash of others, whose data must come from elsewhere.
pub fn is_inline(tensor: &Tensor) -> bool {
    let bits = tensor.dtype().bits();
    let holds = match tensor.dtype().class() {
        Class::Int | Class::Bool => bits >= 4,
        // A NaN may carry bits that its text does not.
        Class::Float => bits <= 32 && tensor.to_f32s().is_ok_and(|v| !v.iter().any(|v| v.is_nan())),
        _ => false,
    };
    let n = tensor.ty().shape.n_elems().unwrap_or(u64::MAX);
    n <= MAX_INLINE as u64 && tensor.is_present() && tensor.ty().packing.is_none() && holds
}

/// Small constants as their values, others as their hash.
fn data(tensor: &Tensor) -> Result<String, fmt::Error> {
    let mut f = String::new();
    let inline = is_inline(tensor);
    match tensor.dtype().class() {
        Class::Float if inline => {
            list(&mut f, "", tensor.to_f32s().map_err(|_| fmt::Error)?.iter().map(|v| format!("{v:?}")))?
        }
        _ if inline && tensor.dtype() == DType::U64 => {
            list(&mut f, "", tensor.to_i64s().map_err(|_| fmt::Error)?.iter().map(|v| v.cast_unsigned()))?
        }
        _ if inline => list(&mut f, "", tensor.to_i64s().map_err(|_| fmt::Error)?.iter())?,
        _ => write!(f, "#{}", tensor.hash())?,
    }
    Ok(f)
}
