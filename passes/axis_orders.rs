//! Small questions about the two orders in which images have their axes, `[N,C,H,W]` and `[N,H,W,C]`.

use crate::ir::{Attr, Dim, Graph, Op, Shape, ValueId};
use crate::ops::core::layout::TO_NHWC;
use crate::ops::core::strided;

/// `op` with another attribute.
pub(super) fn with(op: &Op, name: &str, value: Attr) -> Op {
    let mut op = op.clone();
    op.attrs.0.insert(name.to_owned(), value);
    op
}

/// Where an axis of `[N,C,H,W]` stands with channels last.
pub(super) fn last_axis(axis: i64) -> Option<i64> {
    let at = TO_NHWC.iter().position(|own| usize::try_from(axis) == Ok(*own))?;
    i64::try_from(at).ok()
}

/// The shape with axes of one element before it, so that there are four.
pub(super) fn leading(shape: &Shape) -> Shape {
    let missing = 4usize.saturating_sub(shape.rank());
    Shape(std::iter::repeat_n(Dim::Known(1), missing).chain(shape.0.iter().cloned()).collect())
}

/// Whether only axes of one element change their places.
pub(super) fn moves_nothing(shape: &Shape, perm: &[usize; 4]) -> bool {
    shape.rank() == 4 && perm.iter().filter(|&&axis| shape.0[axis] != Dim::Known(1)).is_sorted()
}

/// `[N,C,H,W]` as `[N,H*W,C]`.
pub(super) fn pixels_of(image: &Shape) -> Option<Shape> {
    let [n, c, h, w] = &image.0[..] else { return None };
    Some(Shape(vec![n.clone(), h * w, c.clone()]))
}

/// What a value is the transposition of.
pub(super) fn source_of_transposition(graph: &Graph, value: ValueId, perm: &[usize]) -> Option<ValueId> {
    let op = graph.node(value.node).op().filter(|op| op.is(&strided::DEF) && op.attrs.expr("epilogue").is_none())?;
    let source = graph.operands(value.node).first().copied().flatten()?;
    let view = strided::permuted(&graph.ty(source).shape, perm)?.attrs();
    let is_same = |name: &str| op.attrs.get(name) == view.get(name);
    let keeps_type = graph.ty(source).dtype == graph.ty(value).dtype;
    (keeps_type && ["shape", "strides", "offset", "lo", "hi"].into_iter().all(is_same)).then_some(source)
}
