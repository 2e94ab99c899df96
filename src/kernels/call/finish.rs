//! A call made of its draft: the epilogue added, everything checked against key and target.

use super::{Draft, WIDE_BITS};
use crate::ir::{Binary, Class, Dim, Expr};
use crate::kernels::key::{ExprKey, Flag, KernelKey, ParamType, Storage, Value};
use crate::kernels::shape::groups;
use crate::kernels::{KernelCall, KernelError, Loop, Operand, Resource, most_device_bytes, storage};
use std::collections::BTreeMap;

impl Draft<'_> {
    /// The call of `n_groups` workgroups.
    pub(in crate::kernels) fn workgroups(mut self, n_groups: impl Into<Dim>) -> Result<KernelCall, KernelError> {
        let node = self.node;
        let expr = self.add_epilogue();
        let result = self.add_result();
        let literals = self.take_literals();
        let Draft { template, operands, bindings, flags, tile, variant, mut params, loops, .. } = self;
        let key = KernelKey { literals, template, operands, expr, result, flags, tile, variant };
        let mismatch = |what: String| KernelError::Mismatch { node: node.name.to_owned(), kernel: key.name(), what };
        if let Some(fault) = key.fault() {
            return Err(mismatch(fault));
        }
        let limits = &node.target.limits;
        for binding in &bindings {
            if binding.bytes > limits.max_storage_buffer_range {
                return Err(node.too_large(binding.value, binding.bytes));
            }
            if binding.bytes == 0 {
                return Err(node.unsupported(format!("the empty operand {}", node.graph.value(binding.value).name)));
            }
        }
        let params = block(&key, &mut params).map_err(mismatch)?;
        let Some(params) = params else { return Err(node.unsupported("a size beyond 32 bits")) };
        let n_groups = n_groups.into();
        let groups = groups(&n_groups).ok_or_else(|| node.unsupported(format!("{n_groups} workgroups")))?;
        let call = KernelCall {
            key,
            operands: bindings,
            params,
            groups,
            check: None,
            result_slice: None,
            alternative: None,
            loops,
        };
        let within = |resource: Resource, needed: u64, limit: u64| match needed <= limit {
            true => Ok(()),
            false => {
                let (node, kernel) = (node.name.to_owned(), call.key.name());
                Err(KernelError::OverLimit { node, kernel, resource, needed, limit })
            }
        };
        let max_buffers = u64::from(limits.max_per_stage_descriptor_storage_buffers);
        within(Resource::StorageBuffers, call.key.n_buffers() as u64, max_buffers)?;
        within(Resource::ParameterBytes, 4 * call.params.len() as u64, limits.max_uniform_buffer_range)?;
        within(Resource::LoopIterations, call.loop_iterations(), limits.max_loop_iterations.unwrap_or(u64::MAX))?;
        Ok(call)
    }

    /// Binds the operands of the node's expression, where the template stores through one, with its parameters and
    /// loops.
    fn add_epilogue(&mut self) -> Option<ExprKey> {
        let epilogue = self.node.epilogue.as_ref().filter(|_| self.with_epilogue)?;
        let mut key: ExprKey = epilogue.key.clone();
        if self.vector > 1 {
            let runs = epilogue.runs(self.vector);
            key.args.iter_mut().zip(runs).for_each(|(arg, run)| arg.run = run);
        }
        for (i, (value, numbers)) in epilogue.args.iter().enumerate() {
            let number = i + key.first_arg();
            for (name, value) in epilogue.param_names(i, number).iter().zip(numbers) {
                self.set_uint(name, value.clone());
            }
            let bytes = most_device_bytes(self.node.graph.ty(*value)).unwrap_or(u64::MAX);
            self.bindings.push(Operand { value: *value, offset_bytes: 0, bytes, write: false });
        }
        for (i, number) in &epilogue.numbers {
            self.set_float(&format!("x{i}"), *number);
        }
        let numbers = std::iter::repeat_n(Value::Float, key.n_numbers);
        let values = key.own.into_iter().chain(key.args.iter().map(|arg| arg.value)).chain(numbers);
        let operands: Vec<Class> = values
            .map(|value| match value {
                Value::Float => Class::Float,
                Value::Int | Value::Wide => Class::Int,
                Value::Bool => Class::Bool,
            })
            .collect();
        let times = Expr::parse(&key.text).map(|expr| loops_of(&expr, &operands)).unwrap_or_default();
        self.loops.extend(times.into_iter().map(|times| Loop { entries: self.puts, times, in_epilogue: true }));
        Some(key)
    }

    /// Binds the result, and the word in which its magnitude is noted where somebody asks for it.
    fn add_result(&mut self) -> Storage {
        let node = self.node;
        let result = storage(node.result).unwrap_or(Storage::F32);
        let bytes = most_device_bytes(node.result).unwrap_or(u64::MAX);
        self.bindings.push(Operand { value: node.value, offset_bytes: 0, bytes, write: true });
        if self.template.table().flags.iter().any(|(flag, _)| *flag == Flag::Notes) {
            // Of the values as they are stored: rounding to f16 on the way differs between devices.
            let noted = node.notes.filter(|_| result == Storage::F32);
            self.flags.insert(Flag::Notes, u32::from(noted.is_some()));
            if let Some(value) = noted {
                self.bindings.push(Operand { value, offset_bytes: 0, bytes: 4, write: true });
            }
        }
        result
    }

    /// Takes the parameters out that the kernel's text has as numbers, where the template wants that.
    fn take_literals(&mut self) -> BTreeMap<String, u32> {
        if !self.template.table().literals {
            return BTreeMap::new();
        }
        let known = |(name, (ty, value)): (&String, &(ParamType, Dim))| {
            let word = value.known().filter(|_| *ty != ParamType::Float)?;
            // What does not fit is refused with the others.
            let fits = if *ty == ParamType::Int { i32::try_from(word).is_ok() } else { u32::try_from(word).is_ok() };
            fits.then(|| (name.clone(), word as u32))
        };
        let literals: BTreeMap<String, u32> = self.params.iter().filter_map(known).collect();
        self.params.retain(|name, _| !literals.contains_key(name));
        literals
    }
}

/// How often the bodies of loops run that the device's code of an expression has (`shaders/include/maths.glsl`,
/// `expr.glsl`, `wide.glsl`), whatever the operands.
fn loops_of(expr: &Expr, operands: &[Class]) -> Vec<u64> {
    use Binary::{Div, Fmod, Mod, Pow, UDiv, UMod};
    let mut times = Vec::new();
    expr.visit(&mut |part| {
        let Expr::Binary(function, a, _) = part else { return };
        match (function, a.class(operands)) {
            // 8 bits of a quotient of at most 2^254 at a time.
            (Fmod | Mod, Ok(Class::Float)) => times.push(32),
            // A bit of a quotient or an exponent at a time.
            (Div | Mod | Fmod | UDiv | UMod | Pow, Ok(Class::Int)) => times.push(WIDE_BITS),
            _ => {}
        }
    });
    times
}

/// The uniform block: every parameter of the key exactly once, words or expressions of sizes that are words. `None`
/// where a value does not fit in 32 bits.
fn block(key: &KernelKey, given: &mut BTreeMap<String, (ParamType, Dim)>) -> Result<Option<Vec<Dim>>, String> {
    let mut words = Vec::new();
    let mut fits = true;
    for param in key.params() {
        let (ty, value) = given.remove(&param.name).ok_or_else(|| format!("parameter {} is missing", param.name))?;
        if ty != param.ty {
            return Err(format!("parameter {} is {}, not {}", param.name, param.ty.glsl(), ty.glsl()));
        }
        let (low, high) = value.bounds();
        let (least, most) =
            if ty == ParamType::Int { (i64::from(i32::MIN), i64::from(i32::MAX)) } else { (0, i64::from(u32::MAX)) };
        // What a size can be at least is known loosely; the largest is what makes numbers overflow.
        fits &= high <= most && (low >= least || value.known().is_none());
        words.push(value.known().map_or(value, |word| Dim::Known(i64::from(word as u32))));
    }
    if let Some(name) = given.keys().next() {
        return Err(format!("no parameter is named {name}"));
    }
    // The size of a uniform block is rounded up to 16 bytes.
    words.resize(words.len().next_multiple_of(4), Dim::Known(0));
    Ok(fits.then_some(words))
}
