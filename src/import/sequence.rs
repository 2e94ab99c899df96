//! Sequences and optionals, which no graph has: a sequence is a list of values that is known while the graph is built,
//! an optional one of the other two or nothing. Their operators (ONNX, opset 11 and later) move names about, and what
//! they compute is written out.

use super::build::{Builder, Known};
use super::error::{ImportError, Kind};
use super::read::{RawGraph, RawNode};
use super::unroll::form;
use crate::ir::{Attrs, DType, resolve_axis};
use std::rc::Rc;

/// Most elements of a sequence.
const MAX_LENGTH: usize = 1 << 16;
/// Most elements of all sequences that a model makes: each that is longer by one is a list of its own.
const MAX_LISTED: usize = 1 << 23;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Bound {
    /// A tensor.
    One(Known),
    /// A sequence of tensors.
    Many(Rc<[Known]>),
    /// An optional without a value.
    Nothing,
    /// An operand of a function that its call does not give.
    Absent,
    /// What could not be built, since a size or a value is missing.
    Unknown,
}

impl Bound {
    /// What it is, for messages.
    fn what(&self) -> String {
        match self {
            Bound::One(_) => "a tensor".to_owned(),
            Bound::Many(list) => format!("a sequence of {}", list.len()),
            Bound::Nothing => "an optional without a value".to_owned(),
            Bound::Absent => "an operand that is not given".to_owned(),
            Bound::Unknown => "not known".to_owned(),
        }
    }
}

impl Builder<'_> {
    /// What a name stands for.
    ///
    /// # Errors
    /// Nothing yet, or nothing at all.
    pub(super) fn bound(&self, name: &str) -> Result<Bound, ImportError> {
        for scope in self.scopes.iter().rev() {
            if let Some(bound) = scope.lists.get(name) {
                return Ok(bound.clone());
            }
            if scope.values.contains_key(name) {
                break;
            }
        }
        self.get(name).map(Bound::One)
    }

    /// Gives a name of the innermost scope its value, whatever it is.
    pub(super) fn bind(&mut self, name: &str, bound: Bound) -> Result<(), ImportError> {
        if let Bound::One(known) = bound {
            return self.define(name, known);
        }
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        if scope.values.contains_key(name) || scope.lists.insert(name.to_owned(), bound).is_some() {
            return Err(Kind::Twice { value: name.to_owned() }.into());
        }
        Ok(())
    }

    /// An error where an operand of a node is no tensor.
    pub(super) fn refuse_lists(&self, raw: &RawNode) -> Result<(), ImportError> {
        for name in raw.inputs.iter().filter(|name| !name.is_empty()) {
            let bound = self.bound(name)?;
            if !matches!(bound, Bound::One(_) | Bound::Absent) {
                return Err(form(format!("operand {name:?} is {}, expected a tensor", bound.what())));
            }
        }
        Ok(())
    }

    /// Resolves a node that works on sequences or optionals; whether it was one.
    pub(super) fn sequence(&mut self, raw: &RawNode, order: u32) -> Result<bool, ImportError> {
        if !raw.domain.is_empty() {
            return Ok(false);
        }
        let results = match raw.op.as_str() {
            "SequenceEmpty" => vec![self.listed(Vec::new())?],
            "SequenceConstruct" => vec![
                self.listed((0..raw.inputs.len()).map(|slot| self.required(raw, slot)).collect::<Result<_, _>>()?)?,
            ],
            "SequenceLength" => {
                let n = self.list(raw, 0)?.len();
                vec![Bound::One(self.integer(raw, DType::I64, &[], &[n as i64], order)?)]
            }
            "SequenceAt" => {
                let list = self.list(raw, 0)?;
                let at = self.place_in(raw, list.len(), list.len())?;
                vec![Bound::One(list[at])]
            }
            "SequenceInsert" => {
                let (mut list, new) = (self.list(raw, 0)?.to_vec(), self.required(raw, 1)?);
                let at =
                    if self.is_given(raw, 2) { self.place_of(raw, 2, list.len(), list.len() + 1)? } else { list.len() };
                list.insert(at, new);
                vec![self.listed(list)?]
            }
            "SequenceErase" => {
                let mut list = self.list(raw, 0)?.to_vec();
                let last =
                    list.len().checked_sub(1).ok_or_else(|| form("an element of an empty sequence is erased"))?;
                list.remove(if self.is_given(raw, 1) { self.place_in(raw, list.len(), list.len())? } else { last });
                vec![self.listed(list)?]
            }
            "SplitToSequence" => {
                let list = self.split_to_sequence(raw, order)?;
                vec![self.listed(list)?]
            }
            "ConcatFromSequence" => vec![Bound::One(self.concat_from_sequence(raw, order)?)],
            "SequenceMap" => self.sequence_map(raw, order)?,
            "Optional" => vec![if self.is_given(raw, 0) { self.bound(&raw.inputs[0])? } else { Bound::Nothing }],
            "OptionalHasElement" => {
                let has = self.is_given(raw, 0) && !matches!(self.bound(&raw.inputs[0])?, Bound::Nothing);
                vec![Bound::One(self.integer(raw, DType::Bool, &[], &[i64::from(has)], order)?)]
            }
            "OptionalGetElement" if self.is_given(raw, 0) => match self.bound(&raw.inputs[0])? {
                Bound::Nothing => {
                    return Err(form(format!("operand {:?} is an optional without a value", raw.inputs[0])));
                }
                // The registry has it for tensors.
                Bound::One(_) => return Ok(false),
                list => vec![list],
            },
            "Identity" if self.is_given(raw, 0) => match self.bound(&raw.inputs[0])? {
                Bound::One(_) => return Ok(false),
                other => vec![other],
            },
            _ => return Ok(false),
        };
        self.bind_outputs(raw, results)
    }

    fn is_given(&self, raw: &RawNode, slot: usize) -> bool {
        raw.inputs.get(slot).is_some_and(|name| !name.is_empty() && !self.is_absent(name))
    }

    /// Whether a name stands for an operand that the call of a function does not give.
    pub(super) fn is_absent(&self, name: &str) -> bool {
        !self.calls.is_empty() && matches!(self.bound(name), Ok(Bound::Absent))
    }

    /// The sequence in operand `slot`.
    fn list(&self, raw: &RawNode, slot: usize) -> Result<Rc<[Known]>, ImportError> {
        let name = raw
            .inputs
            .get(slot)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| form(format!("operand {slot} is missing")))?;
        match self.bound(name)? {
            Bound::Many(list) => Ok(list),
            other => Err(form(format!("operand {name:?} is {}, expected a sequence", other.what()))),
        }
    }

    /// A new sequence.
    fn listed(&self, list: Vec<Known>) -> Result<Bound, ImportError> {
        let n = self.model.n_listed.get().saturating_add(list.len());
        self.model.n_listed.set(n);
        if n > MAX_LISTED {
            return Err(form(format!("more than {MAX_LISTED} elements of sequences in all")));
        }
        Ok(Bound::Many(list.into()))
    }

    /// The place in a sequence of `len` that operand 1 names, below `n`.
    fn place_in(&self, raw: &RawNode, len: usize, n: usize) -> Result<usize, ImportError> {
        self.place_of(raw, 1, len, n)
    }

    fn place_of(&self, raw: &RawNode, slot: usize, len: usize, n: usize) -> Result<usize, ImportError> {
        let known = self.required(raw, slot)?;
        let Some(tensor) = self.tensor(known) else {
            return Err(self.input_behind(known).map_or_else(
                || form(format!("operand {slot} is computed while the program runs: which element of a sequence is meant must be known")),
                |name| Kind::FreeInput { slot, name }.into(),
            ));
        };
        let at = tensor.to_i64s().map_err(form)?.first().copied().unwrap_or(0);
        let place = if at < 0 { at.saturating_add(len as i64) } else { at };
        let place = usize::try_from(place).ok().filter(|place| *place < n);
        place.ok_or_else(|| form(format!("place {at} of a sequence of {len}")))
    }

    /// SplitToSequence, opset 24: parts along an axis; of one element each, perhaps without the axis, where no sizes
    /// are given.
    fn split_to_sequence(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Known>, ImportError> {
        let x = self.required(raw, 0)?;
        let ty = self.ty(x).clone();
        let given = raw.attrs.int("axis").unwrap_or(0);
        let axis = resolve_axis(given, ty.shape.rank()).ok_or_else(|| form(format!("axis {given} of {ty}")))?;
        let size =
            ty.shape.0[axis].known().ok_or_else(|| form(format!("{ty}: the size of axis {axis} must be known")))?;
        let is_given = self.is_given(raw, 1);
        let sizes: Vec<i64> = if is_given {
            let known = self.required(raw, 1)?;
            let tensor = self.tensor(known).ok_or_else(|| {
                let name = self.input_behind(known);
                name.map_or_else(
                    || form("operand 1 is computed while the program runs: sizes of parts must be known"),
                    |name| Kind::FreeInput { slot: 1, name }.into(),
                )
            })?;
            let sizes = tensor.to_i64s().map_err(form)?;
            match (tensor.ty().shape.rank(), sizes.first().copied()) {
                (0, Some(each)) if each > 0 && size / each < MAX_LENGTH as i64 => {
                    (0..size).step_by(usize::try_from(each).unwrap_or(1)).map(|first| each.min(size - first)).collect()
                }
                (0, each) => return Err(form(format!("parts of {each:?} of {size}"))),
                _ => sizes,
            }
        } else {
            vec![
                1;
                usize::try_from(size)
                    .ok()
                    .filter(|n| *n <= MAX_LENGTH)
                    .ok_or_else(|| form(format!("a sequence of {size}, at most {MAX_LENGTH}")))?
            ]
        };
        let sum = sizes.iter().try_fold(0i64, |sum, n| sum.checked_add(*n));
        if sum != Some(size) || sizes.iter().any(|n| *n < 0) || sizes.len() > MAX_LENGTH {
            return Err(form(format!("parts of {sizes:?} of an axis of {size}")));
        }
        self.count_written(sizes.len())?;
        let axes = self.integer(raw, DType::I64, &[1], &[axis as i64], order)?;
        let mut first = 0;
        let mut list = Vec::with_capacity(sizes.len());
        for n in sizes {
            let bounds = [
                self.integer(raw, DType::I64, &[1], &[first], order)?,
                self.integer(raw, DType::I64, &[1], &[first + n], order)?,
            ];
            let mut part = self.made(raw, "Slice", &[x, bounds[0], bounds[1], axes], Attrs::new(), order)?;
            if !is_given && raw.attrs.int("keepdims") == Some(0) {
                part = self.made(raw, "Squeeze", &[part, axes], Attrs::new(), order)?;
            }
            list.push(part);
            first += n;
        }
        Ok(list)
    }

    /// ConcatFromSequence, opset 11.
    fn concat_from_sequence(&mut self, raw: &RawNode, order: u32) -> Result<Known, ImportError> {
        let list = self.list(raw, 0)?;
        let axis = raw.attrs.int("axis").ok_or_else(|| form("attribute axis is missing"))?;
        if list.is_empty() {
            return Err(form("an empty sequence is joined: its result has no shape"));
        }
        if raw.attrs.int("new_axis").unwrap_or(0) != 0 {
            return self.stacked(raw, &list, axis, order);
        }
        self.made(raw, "Concat", &list, Attrs::new().with_int("axis", axis), order)
    }

    /// SequenceMap, opset 17: the body for each element, beside those of other sequences or whole tensors.
    fn sequence_map(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Bound>, ImportError> {
        let body: &RawGraph = Self::body_of_node(raw, "body")?;
        let n = self.list(raw, 0)?.len();
        let operands = raw.inputs.iter().map(|name| self.bound(name)).collect::<Result<Vec<_>, _>>()?;
        Self::check_count(raw, body, n)?;
        let mut results = vec![Vec::with_capacity(n); body.outputs.len()];
        for i in 0..n {
            let element = |bound: &Bound| match bound {
                Bound::Many(list) => list
                    .get(i)
                    .copied()
                    .map(Bound::One)
                    .ok_or_else(|| form(format!("sequences of {n} and {}", list.len()))),
                other => Ok(other.clone()),
            };
            let inputs = operands.iter().map(element).collect::<Result<Vec<_>, _>>()?;
            for (list, bound) in results.iter_mut().zip(self.inline(body, &inputs, order)?) {
                let Bound::One(known) = bound else {
                    return Err(form(format!("the body gives {}, expected a tensor", bound.what())));
                };
                list.push(known);
            }
        }
        results.into_iter().map(|list| self.listed(list)).collect()
    }

    /// `condition ? yes : no`, element by element of sequences; both have one type. Else `Err` says what they are.
    pub(super) fn select(
        &mut self,
        raw: &RawNode,
        condition: Known,
        yes: &Bound,
        no: &Bound,
        order: u32,
    ) -> Result<Result<Bound, String>, ImportError> {
        let pairs: Vec<(Known, Known)> = match (yes, no) {
            (Bound::One(yes), Bound::One(no)) => vec![(*yes, *no)],
            (Bound::Many(yes), Bound::Many(no)) if yes.len() == no.len() => {
                yes.iter().copied().zip(no.iter().copied()).collect()
            }
            (Bound::Nothing, Bound::Nothing) => return Ok(Ok(Bound::Nothing)),
            _ => return Ok(Err(format!("{} and {}", yes.what(), no.what()))),
        };
        self.count_written(pairs.len())?;
        let mut list = Vec::with_capacity(pairs.len());
        for (yes, no) in pairs {
            let (a, b) = (self.ty(yes), self.ty(no));
            if a != b {
                return Ok(Err(format!("{a} and {b}")));
            }
            list.push(self.made(raw, "Where", &[condition, yes, no], Attrs::new(), order)?);
        }
        Ok(Ok(if matches!(yes, Bound::Many(_)) { self.listed(list)? } else { Bound::One(list[0]) }))
    }
}
