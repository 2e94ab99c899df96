//! Generated declarations: buffers, the uniform block, and functions that read and write elements whatever their
//! storage.
//!
//! For an operand `a`: `T_a` is `float` or `int`; `T_a ld_a(uint i)`; for a packed one instead `PACKED_a` (its bits in
//! a row, 0 for others), `float value_a(uint row, uint col)`, `float scale_a(uint row, uint col)`, `ZERO_a(row, col)`
//! (its zero point, 0 without one), `int code_a(uint row, uint col)` and `int word_a(uint row, uint word)`, which gives
//! four codes as bytes; where `BYTES_a` is 1, codes are made of the bits of a row as [`coded`] says. For the result:
//! `void st_y(uint i, T_y v)`, which with the flag `notes` notes the magnitude of v, of f32, too.

use crate::ir::packed::{Coding, Granularity, Packing, ScaleType};
use crate::kernels::key::{Flag, KernelKey, Load, OperandKey, Storage, Value};
use crate::targets::Target;
use std::fmt::Write as _;

/// Extensions that the accessors and, where it multiplies f16, the kernel need.
pub(super) fn extensions(key: &KernelKey, target: &Target) -> Vec<&'static str> {
    let native = target.features.storage_16bit && key.storages().any(|s| s == Storage::F16);
    let mut extensions = if native { vec!["GL_EXT_shader_16bit_storage"] } else { Vec::new() };
    let multiplies_matrices = key.template.table().needs.contains(&"cooperative_matrix");
    if key.flag(Flag::Half) != 0 || multiplies_matrices || super::vector::needs_f16(key, target) {
        extensions.push("GL_EXT_shader_explicit_arithmetic_types_float16");
    }
    if multiplies_matrices {
        extensions.extend([
            "GL_KHR_cooperative_matrix",
            "GL_KHR_memory_scope_semantics",
            "GL_KHR_shader_subgroup_basic",
            "GL_KHR_shader_subgroup_shuffle",
            "GL_EXT_shader_explicit_arithmetic_types_int8",
        ]);
    }
    extensions
}

/// The type of one element of a buffer.
pub(super) fn element(storage: Storage, target: &Target) -> &'static str {
    match storage {
        Storage::F32 => "float",
        Storage::F16 if target.features.storage_16bit => "float16_t",
        Storage::I32 => "int",
        Storage::I64 | Storage::U64 => "uvec2",
        Storage::F16 | Storage::U32 | Storage::Packed(_) => "uint",
    }
}

/// All bindings, and the uniform block after them.
pub(super) fn buffers(key: &KernelKey, target: &Target) -> String {
    let mut text = String::new();
    let mut binding = 0;
    let mut buffer = |access: &str, element: &str, name: &str| {
        let _ = writeln!(
            text,
            "layout(set = 0, binding = {binding}, std430) {access}buffer B_{name} {{ {element} d_{name}[]; }};"
        );
        binding += 1;
    };
    for (name, operand) in key.present() {
        buffer("readonly ", element(operand.storage, target), name);
        if operand.scales_apart {
            buffer("readonly ", "uint", &format!("{name}_apart"));
        }
    }
    if let Some(expr) = &key.expr {
        for (i, arg) in expr.args.iter().enumerate() {
            buffer("readonly ", element(arg.storage, target), &format!("x{}", i + expr.first_arg()));
        }
    }
    buffer("", element(key.result, target), "y");
    if key.template.table().faults {
        buffer("", "uint", "faults");
    }
    if key.flag(Flag::Notes) == 1 {
        buffer("", "uint", "noted");
    }
    let params = key.params();
    if !params.is_empty() {
        let _ = write!(text, "layout(set = 0, binding = {binding}, std140) uniform Params {{");
        for param in params {
            let _ = write!(text, " {} {};", param.ty.glsl(), param.name);
        }
        text += " } p;\n";
    }
    if key.template.table().vectors {
        let mut binding = 0;
        for (name, operand) in key.present() {
            // The same bytes as vectors: nothing writes them, so two views agree.
            let _ = writeln!(
                text,
                "layout(set = 0, binding = {binding}, std430) readonly buffer V_{name} {{ uvec4 v_{name}[]; }};"
            );
            let (is_f16, has_blocks, has_zeros) = match operand.storage {
                Storage::Packed(packing) => {
                    (false, matches!(packing.granularity, Granularity::Block(_)), packing.scale.has_zeros())
                }
                storage => (storage == Storage::F16, false, false),
            };
            let _ = writeln!(
                text,
                "#define F16_{name} {}\n#define BLOCK_{name} {}\n#define ZEROS_{name} {}",
                u32::from(is_f16),
                u32::from(has_blocks),
                u32::from(has_zeros)
            );
            binding += 1 + u32::from(operand.scales_apart);
        }
    }
    text
}

/// The functions that read operands and write the result.
pub(super) fn functions(key: &KernelKey, target: &Target) -> String {
    let mut text = String::new();
    for (at, &(name, _)) in key.template.table().operands.iter().enumerate() {
        let present = key.operands.get(at).copied().flatten();
        let bits = match present {
            Some(OperandKey { storage: Storage::Packed(packing), .. }) => packing.coding.row_bits(),
            _ => 0,
        };
        let _ = writeln!(text, "#define HAS_{name} {}\n#define PACKED_{name} {bits}", u32::from(present.is_some()));
        let is_coded = present.is_some_and(|o| matches!(o.storage, Storage::Packed(packing) if is_coded(packing)));
        let _ = writeln!(text, "#define BYTES_{name} {}", u32::from(is_coded));
        if let Some(storage @ (Storage::U32 | Storage::U64)) = present.map(|operand| operand.storage) {
            let _ = writeln!(text, "#define {}_{name}", if storage == Storage::U32 { "U32" } else { "U64" });
        }
        match present {
            Some(OperandKey { storage: Storage::Packed(packing), scales_apart }) => {
                text += &packed(name, packing, scales_apart)
            }
            Some(operand) => text += &load(name, operand.storage, target),
            None => {}
        }
    }
    if let Some(expr) = &key.expr {
        for (i, arg) in expr.args.iter().enumerate() {
            let name = format!("x{}", i + expr.first_arg());
            text += &load(&name, arg.storage, target);
            text += &index(&name, arg.load);
        }
    }
    if key.flag(Flag::Notes) == 1 {
        return text
            + "uint noted = 0u;\n#define T_y float\n#define as_y float\n\
               void note(float v) { noted = max(noted, floatBitsToUint(v) & 0x7fffffffu); }\n\
               void st_y(uint i, float v) { d_y[i] = v; note(v); }\n";
    }
    text + &store(key.result, target)
}

fn load(name: &str, storage: Storage, target: &Target) -> String {
    match storage {
        Storage::F32 => format!("#define T_{name} float\nfloat ld_{name}(uint i) {{ return d_{name}[i]; }}\n"),
        Storage::I32 => format!("#define T_{name} int\nint ld_{name}(uint i) {{ return d_{name}[i]; }}\n"),
        Storage::U32 => {
            format!("#define T_{name} LONG\nLONG ld_{name}(uint i) {{ return w_words(uvec2(d_{name}[i], 0u)); }}\n")
        }
        Storage::I64 | Storage::U64 => {
            format!("#define T_{name} LONG\nLONG ld_{name}(uint i) {{ return w_words(d_{name}[i]); }}\n")
        }
        Storage::F16 if target.features.storage_16bit => {
            format!("#define T_{name} float\nfloat ld_{name}(uint i) {{ return float(d_{name}[i]); }}\n")
        }
        Storage::F16 => format!(
            "#define T_{name} float\nfloat ld_{name}(uint i) {{ vec2 v = unpackHalf2x16(d_{name}[i >> 1]); return (i & 1u) == 0u ? v.x : v.y; }}\n"
        ),
        Storage::Packed(_) => String::new(),
    }
}

fn packed(name: &str, packing: Packing, scales_apart: bool) -> String {
    let bits = u32::from(packing.coding.row_bits());
    let (per_word, mask) = (32 / bits, 32 / bits - 1);
    let shift = per_word.trailing_zeros();
    let mut text = format!("#define T_{name} float\n");
    let _ = writeln!(text, "uint raw_{name}(uint row, uint word) {{ return d_{name}[row * p.{name}_pitch + word]; }}");
    let buffer = if scales_apart { format!("d_{name}_apart") } else { format!("d_{name}") };
    if is_coded(packing) {
        text += &coded(name, packing.coding, &buffer);
    } else {
        let _ = writeln!(
            text,
            "int code_{name}(uint row, uint col) {{ return bitfieldExtract(int(raw_{name}(row, col >> {shift})), int(col & {mask}u) * {bits}, {bits}); }}"
        );
    }
    let at = match packing.granularity {
        Granularity::Block(block) => format!("row * p.{name}_blocks + (col >> {})", block.trailing_zeros()),
        Granularity::Row => "row".to_owned(),
        Granularity::Tensor => "0u".to_owned(),
    };
    let read = match packing.scale {
        ScaleType::F32 => format!("return uintBitsToFloat({buffer}[p.{name}_scales + s]);"),
        ScaleType::F16 => {
            format!("vec2 v = unpackHalf2x16({buffer}[p.{name}_scales + (s >> 1)]); return (s & 1u) == 0u ? v.x : v.y;")
        }
        ScaleType::F16Zero => format!("return unpackHalf2x16({buffer}[p.{name}_scales + s]).x;"),
        ScaleType::F32Zero => format!("return uintBitsToFloat({buffer}[p.{name}_scales + 2u * s]);"),
    };
    let zero = match packing.scale {
        ScaleType::F16 | ScaleType::F32 => None,
        ScaleType::F16Zero => Some(format!("int({buffer}[p.{name}_scales + s]) >> 16")),
        ScaleType::F32Zero => Some(format!("int({buffer}[p.{name}_scales + 2u * s + 1u])")),
    };
    let _ = writeln!(text, "float scale_{name}(uint row, uint col) {{ uint s = {at}; {read} }}");
    let value = match zero {
        None => format!(
            "#define ZERO_{name}(row, col) 0\nfloat value_{name}(uint row, uint col) {{ return float(code_{name}(row, col)) * scale_{name}(row, col); }}"
        ),
        Some(zero) => format!(
            "int zero_{name}(uint row, uint col) {{ uint s = {at}; return {zero}; }}\n#define ZERO_{name}(row, col) zero_{name}(row, col)\n\
             float value_{name}(uint row, uint col) {{ return float(code_{name}(row, col) - zero_{name}(row, col)) * scale_{name}(row, col); }}"
        ),
    };
    text += &value;
    text.push('\n');
    text += &match packing.coding {
        _ if is_coded(packing) => String::new(),
        Coding::I8 => format!("int word_{name}(uint row, uint word) {{ return int(raw_{name}(row, word)); }}\n"),
        // Spreads four nibbles over bytes, then copies each sign bit into the high nibble: 0x08 * 0x1e is 0xf0.
        _ => format!(
            "int word_{name}(uint row, uint word) {{\n    uint v = (raw_{name}(row, word >> 1) >> ((word & 1u) * 16u)) & 0xffffu;\n    \
             v = (v | (v << 8)) & 0x00ff00ffu;\n    v = (v | (v << 4)) & 0x0f0f0f0fu;\n    return int(v | ((v & 0x08080808u) * 0x1eu));\n}}\n"
        ),
    };
    text
}

/// Whether the bits that a row has of a code are no integer of as many bits.
fn is_coded(packing: Packing) -> bool {
    !matches!(packing.coding, Coding::I4 | Coding::I8)
}

/// Codes of four bits and what makes integers of them: `uvec2 low_a(uint row, uint word)`, the words of the planes that
/// go with 32 columns, and `uint bytes_a(uint nibbles, uvec2 low)`, four codes as bytes, of the low half of each byte
/// and the lowest bit of each byte of the planes' words.
fn coded(name: &str, coding: Coding, buffer: &str) -> String {
    let plane =
        |n: u32| format!("{buffer}[p.{name}_planes + {n}u * p.{name}_plane + row * p.{name}_plane_pitch + word]");
    // Bits above those of a code repeat its sign.
    let (low, bytes) = match coding {
        Coding::I5 => (
            format!("uvec2({}, 0u)", plane(0)),
            "uint v = (nibbles << 1) | low.x; return v | ((v & 0x10101010u) * 0xeu);",
        ),
        Coding::I6 => (
            format!("uvec2({}, {})", plane(0), plane(1)),
            "uint v = (nibbles << 2) | (low.x << 1) | low.y; return v | ((v & 0x20202020u) * 0x6u);",
        ),
        // `NON_LINEAR` of ir/packed/coding.rs by magnitudes: no byte of a sum is beyond 127, and no negative code is 0.
        _ => (
            "uvec2(0u)".to_owned(),
            "uint s = (nibbles >> 3) & 0x01010101u, m = (nibbles ^ (s * 15u)) + s, b = m & (m >> 1) & 0x01010101u;\n    \
             uint f = (m >> 2) & 0x01010101u, v = m * 11u + b + f * 3u \
             + (f & m) * 5u + (f & (m >> 1)) * 12u + (f & b) * 5u;\n    \
             return ((v + ((m >> 3) & 0x01010101u) * 39u) ^ (s * 255u)) + s;",
        ),
    };
    format!(
        "uvec2 low_{name}(uint row, uint word) {{ return {low}; }}\n\
         uint bytes_{name}(uint nibbles, uvec2 low) {{\n    {bytes}\n}}\n\
         int code_{name}(uint row, uint col) {{\n    uint at = col & 31u;\n    \
         uvec2 low = (low_{name}(row, col >> 5) >> (at % 8u / 2u * 8u + at / 8u * 2u + at % 2u)) & 1u;\n    \
         return bitfieldExtract(int(bytes_{name}((raw_{name}(row, col >> 3) \
         >> (col % 8u * 4u)) & 15u, low)), 0, 8);\n}}\n\
         int word_{name}(uint row, uint word) {{\n    \
         uint v = (raw_{name}(row, word >> 1) >> ((word & 1u) * 16u)) & 0xffffu;\n    \
         v = (v | (v << 8)) & 0x00ff00ffu;\n    v = (v | (v << 4)) & 0x0f0f0f0fu;\n    \
         uvec2 low = low_{name}(row, word >> 3) >> ((word & 1u) * 16u + word / 2u % 4u * 2u);\n    \
         low = (low & 1u) | ((low & 2u) << 7) | ((low & 0x100u) << 8) | ((low & 0x200u) << 15);\n    \
         return int(bytes_{name}(v, low));\n}}\n"
    )
}

/// `uint at_x1(uint i)`: which element of the operand goes with element `i` of the result.
fn index(name: &str, load: Load) -> String {
    let body = match load {
        Load::Same => "return i;".to_owned(),
        Load::Scalar => "return 0u;".to_owned(),
        Load::Periodic => format!("return (i / p.{name}_inner) % p.{name}_n;"),
        Load::Strided(rank) => {
            let mut body = String::from("uint at = 0u, rest;");
            for axis in (0..rank).rev() {
                // What is left of `i` is the place along the outermost axis.
                body += &match axis {
                    0 => format!(" at += i * p.{name}_s0;"),
                    _ => format!(
                        " rest = i / p.{name}_d{axis}; at += (i - rest * p.{name}_d{axis}) * p.{name}_s{axis}; i = rest;"
                    ),
                };
            }
            body + " return at;"
        }
    };
    format!("uint at_{name}(uint i) {{ {body} }}\n")
}

fn store(storage: Storage, target: &Target) -> String {
    // Finite values beyond f16's range become its largest; infinities and NaN stay.
    const SATURATE: &str =
        "float saturate(float v) { return isinf(v) || isnan(v) ? v : clamp(v, -65504.0, 65504.0); }\n";
    match storage {
        Storage::F32 => "#define T_y float\n#define as_y float\nvoid st_y(uint i, float v) { d_y[i] = v; }\n".to_owned(),
        Storage::I32 => "#define T_y int\n#define as_y(v) (v)\nvoid st_y(uint i, int v) { d_y[i] = v; }\n".to_owned(),
        Storage::U32 => {
            "#define T_y LONG\n#define as_y w_of\nvoid st_y(uint i, LONG v) { d_y[i] = w_bits(v).x; }\n".to_owned()
        }
        Storage::I64 | Storage::U64 => "#define T_y LONG\n#define as_y w_of\nvoid st_y(uint i, LONG v) { d_y[i] = w_bits(v); }\n".to_owned(),
        Storage::F16 if target.features.storage_16bit => {
            format!("#define T_y float\n#define as_y float\n{SATURATE}void st_y(uint i, float v) {{ d_y[i] = float16_t(saturate(v)); }}\n")
        }
        // Another invocation may write the other half of the word at the same time: atomics touch only this half.
        Storage::F16 => "#define T_y float\n#define as_y float\nuint half_word(float v) {\n    \
             // Infinities and NaN apart: what packHalf2x16 makes of them differs between drivers.\n    \
             if (isnan(v) || isinf(v)) return isnan(v) ? 0x7e00u : v < 0.0 ? 0xfc00u : 0x7c00u;\n    \
             return packHalf2x16(vec2(clamp(v, -65504.0, 65504.0), 0.0)) & 0xffffu;\n}\n\
             void st_y(uint i, float v) {\n    \
             uint shift = (i & 1u) * 16u;\n    atomicAnd(d_y[i >> 1], ~(0xffffu << shift));\n    atomicOr(d_y[i >> 1], half_word(v) << shift);\n}\n"
            .to_owned(),
        Storage::Packed(_) => "#define T_y uint\n".to_owned(),
    }
}

/// A value as GLSL has it inside an expression.
pub(super) fn value_type(value: Value) -> &'static str {
    match value {
        Value::Float => "float",
        Value::Int => "int",
        Value::Wide => "LONG",
        Value::Bool => "bool",
    }
}
