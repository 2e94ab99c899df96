//! Floats read and written four at a time, for templates whose table says `fours`: `vec4 ld4_a(uint i)` gives elements i to i + 3 of operand `a`, `put4(i, v)`
//! applies the epilogue to four and stores them; i is a multiple of 4. Packed INT8 with one scale gives codes.

use super::access;
use crate::ir::packed::Granularity;
use crate::ops::kernel_key::{ArgKey, KernelKey, Load, Storage, Value};
use crate::target::Target;
use std::fmt::Write as _;

/// A second view of a buffer, of four elements a time, and what reads it.
fn view(text: &mut String, access: &str, storage: Storage, binding: usize, name: &str, target: &Target) -> bool {
    let ty = match storage {
        Storage::F32 => "vec4",
        Storage::F16 if target.features.storage_16bit => "f16vec4",
        Storage::F16 => "uvec2",
        _ => return false,
    };
    let _ =
        writeln!(text, "layout(set = 0, binding = {binding}, std430) {access}buffer Q_{name} {{ {ty} q_{name}[]; }};");
    true
}

fn load(text: &mut String, storage: Storage, name: &str, target: &Target) {
    let value = match storage {
        Storage::F16 if !target.features.storage_16bit => {
            format!("uvec2 v = q_{name}[i >> 2]; return vec4(unpackHalf2x16(v.x), unpackHalf2x16(v.y));")
        }
        _ => format!("return vec4(q_{name}[i >> 2]);"),
    };
    let _ = writeln!(text, "vec4 ld4_{name}(uint i) {{ {value} }}");
}

/// The views and the functions that read and write them.
pub(super) fn functions(key: &KernelKey, target: &Target) -> String {
    let mut text = String::new();
    let mut binding = 0;
    for (name, operand) in key.present() {
        match operand.storage {
            Storage::Packed(packing) if packing.bits == 8 && packing.granularity == Granularity::Tensor => {
                let _ = writeln!(
                    text,
                    "vec4 ld4_{name}(uint i) {{ int v = int(d_{name}[i >> 2]); return vec4(bitfieldExtract(v, 0, 8), \
                     bitfieldExtract(v, 8, 8), bitfieldExtract(v, 16, 8), v >> 24); }}"
                );
            }
            storage if view(&mut text, "readonly ", storage, binding, name, target) => {
                load(&mut text, storage, name, target);
            }
            _ => {}
        }
        binding += 1 + usize::from(operand.scales_apart);
    }
    for (i, arg) in
        key.expr.iter().flat_map(|e| e.args.iter().enumerate().map(move |(i, arg)| (i + e.first_arg(), arg)))
    {
        let name = format!("x{i}");
        if is_float(arg) && view(&mut text, "readonly ", arg.storage, binding, &name, target) {
            load(&mut text, arg.storage, &name, target);
        }
        binding += 1;
    }
    if view(&mut text, "", key.result, binding, "y", target) {
        text += match key.result {
            Storage::F32 => "void st4_y(uint i, vec4 v) { q_y[i >> 2] = v; }\n",
            _ if target.features.storage_16bit => {
                "void st4_y(uint i, vec4 v) { q_y[i >> 2] = f16vec4(vec4(saturate(v.x), saturate(v.y), saturate(v.z), saturate(v.w))); }\n"
            }
            _ => {
                "uint half_of(float v) { return isnan(v) ? 0x7e00u : isinf(v) ? (v < 0.0 ? 0xfc00u : 0x7c00u) : packHalf2x16(vec2(clamp(v, -65504.0, 65504.0), 0.0)) & 0xffffu; }\n\
                 void st4_y(uint i, vec4 v) { q_y[i >> 2] = uvec2(half_of(v.x) | half_of(v.y) << 16, half_of(v.z) | half_of(v.w) << 16); }\n"
            }
        };
    }
    text
}

fn is_float(arg: &ArgKey) -> bool {
    arg.value == Value::Float && matches!(arg.storage, Storage::F32 | Storage::F16)
}

/// How an operand of the expression is read for four elements of the result.
enum Four {
    /// Four neighbours.
    Neighbours,
    /// One for all.
    One,
    /// Each by itself.
    Each,
}

fn four(key: &KernelKey, number: usize, arg: &ArgKey) -> Four {
    let literal = |part: &str| key.literals.get(&format!("x{number}_{part}")).copied();
    match arg.load {
        Load::Scalar => Four::One,
        Load::Same if is_float(arg) => Four::Neighbours,
        Load::Periodic if literal("inner") == Some(1) && is_float(arg) && literal("n").is_some_and(|n| n % 4 == 0) => {
            Four::Neighbours
        }
        Load::Periodic if literal("inner").is_some_and(|n| n % 4 == 0) => Four::One,
        _ => Four::Each,
    }
}

/// `put` and `put4` around a function `finished` of the kernel's own result and the operands of the expression: `value`, after `statements`.
pub(super) fn put(key: &KernelKey, own: &str, operands: &str, value: &str, statements: &str) -> String {
    let args: Vec<(usize, &ArgKey)> =
        key.expr.iter().flat_map(|e| e.args.iter().enumerate().map(move |(i, arg)| (i + e.first_arg(), arg))).collect();
    let test = |arg: &ArgKey| if arg.value == Value::Bool { " != 0" } else { "" };
    let mut text = format!("#define V_OWN {own}\nT_y finished({operands}) {{\n{statements}    return {value};\n}}\n");
    let one: String = args.iter().map(|(i, arg)| format!(", ld_x{i}(at_x{i}(i)){}", test(arg))).collect();
    let _ = writeln!(text, "void put(uint i, {own} v) {{ st_y(i, finished(v{one})); }}");
    text += "void put4(uint i, vec4 v) {\n";
    for (i, arg) in &args {
        let _ = match four(key, *i, arg) {
            Four::Neighbours => writeln!(text, "    vec4 x{i} = ld4_x{i}(at_x{i}(i));"),
            Four::One => {
                writeln!(text, "    {} x{i} = ld_x{i}(at_x{i}(i)){};", access::value_type(arg.value), test(arg))
            }
            Four::Each => Ok(()),
        };
    }
    let finished = |lane: usize| {
        let mut call = format!("finished(v[{lane}]");
        for (i, arg) in &args {
            let _ = match four(key, *i, arg) {
                Four::Neighbours => write!(call, ", x{i}[{lane}]"),
                Four::One => write!(call, ", x{i}"),
                Four::Each => write!(call, ", ld_x{i}(at_x{i}(i + {lane}u)){}", test(arg)),
            };
        }
        call + ")"
    };
    if matches!(key.result, Storage::F32 | Storage::F16) {
        let all: Vec<String> = (0..4).map(finished).collect();
        let _ = writeln!(text, "    st4_y(i, vec4({}));", all.join(", "));
    } else {
        for lane in 0..4 {
            let _ = writeln!(text, "    st_y(i + {lane}u, {});", finished(lane));
        }
    }
    text + "}\n"
}
