//! From a [`KernelKey`] to SPIR-V: the template's text with generated accessors before it, compiled by shaderc for
//! Vulkan 1.1 (SPIR-V 1.3).

mod access;
mod cache;
mod expr;
pub mod spirv;
#[cfg(test)]
mod tests;
mod vector;

use crate::kernels::key::{Flag, KernelKey, ParamType, Storage, Template, constants};
use crate::kernels::variant::Variant;
use crate::program::Shader;
use crate::targets::Target;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/kernel_sources.rs"));

/// Deepest nesting of includes; ours need one or two.
const MAX_INCLUDES: usize = 8;

/// Why a key gives no shader. All but [`CodegenError::Compiler`] are bugs of the planner.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum CodegenError {
    #[error("kernel {kernel}: {reason}")]
    Key { kernel: String, reason: String },
    #[error("kernel {kernel}: {source}")]
    Expr { kernel: String, source: crate::ir::ExprError },
    #[error("the shader compiler cannot start: {source}")]
    Compiler { source: shaderc::Error },
    #[error("kernel {kernel} does not compile: {source}")]
    Compile { kernel: String, source: shaderc::Error },
}

thread_local! {
    /// The first compilation of a process takes up to half a second, the later ones milliseconds; a compiler must stay
    /// on its thread.
    static COMPILER: RefCell<Option<shaderc::Compiler>> = const { RefCell::new(None) };
}

/// Compiles a kernel for a target, or takes it from the cache. The same key and target give the same words.
///
/// # Errors
/// The key contradicts its template's table, or the text does not compile.
pub fn compile(key: &KernelKey, target: &Target) -> Result<Shader, CodegenError> {
    compile_in(key, target, None)
}

/// [`compile`] with this folder as the cache, so that what one machine compiled another can run.
///
/// # Errors
/// As for [`compile`].
pub fn compile_in(key: &KernelKey, target: &Target, folder: Option<&Path>) -> Result<Shader, CodegenError> {
    let name = key.name();
    let text = glsl(key, target)?;
    let entry = cache::Entry::of(&text, folder);
    if let Some(spirv) = entry.read() {
        return Ok(Shader { name, spirv });
    }
    let spirv = COMPILER.with(|cell| {
        let mut slot = cell.borrow_mut();
        if slot.is_none() {
            *slot = Some(shaderc::Compiler::new().map_err(|source| CodegenError::Compiler { source })?);
        }
        let mut options = shaderc::CompileOptions::new().map_err(|source| CodegenError::Compiler { source })?;
        options.set_target_env(shaderc::TargetEnv::Vulkan, shaderc::EnvVersion::Vulkan1_1 as u32);
        options.set_target_spirv(shaderc::SpirvVersion::V1_3);
        options.set_optimization_level(shaderc::OptimizationLevel::Performance);
        let compile_error = |source| CodegenError::Compile { kernel: name.clone(), source };
        let Some(compiler) = slot.as_ref() else { return Ok(Vec::new()) };
        let artifact = compiler
            .compile_into_spirv(&text, shaderc::ShaderKind::Compute, &name, "main", Some(&options))
            .map_err(compile_error)?;
        Ok(artifact.as_binary().to_vec())
    })?;
    entry.write(&spirv);
    Ok(Shader { name, spirv })
}

/// The GLSL text of a kernel: what [`compile`] compiles.
///
/// # Errors
/// The key contradicts its template's table, or its expression is none.
pub fn glsl(key: &KernelKey, target: &Target) -> Result<String, CodegenError> {
    let refuse = |reason: String| CodegenError::Key { kernel: key.name(), reason };
    if let Some(fault) = key.fault() {
        return Err(refuse(fault));
    }
    if key.flag(Flag::Half) != 0 && !target.features.f16_arithmetic {
        return Err(refuse(format!("it multiplies f16, which {} does not", target.name)));
    }
    if let Some(lacking) = key.template.table().needs.iter().find(|name| target.features.named(name) != Some(true)) {
        return Err(refuse(format!("it needs {lacking}, which {} lacks", target.name)));
    }
    let put = if key.template.table().epilogue { Some(expr::put(key)?) } else { None };
    let is_wide = key.storages().any(Storage::is_wide) || put.as_ref().is_some_and(|p| p.is_wide);
    let mut text = String::from("#version 450\n");
    let mut extensions: Vec<&str> = access::extensions(key, target);
    let dot = target.features.integer_dot_product
        && (key.template.multiplies_codes() || key.template.table().needs.contains(&"integer_dot_product"));
    if dot {
        extensions.push("GL_EXT_integer_dot_product");
    }
    let joins_subgroups = key.flag(Flag::Notes) == 1 && target.features.subgroup_arithmetic;
    if key.template.table().needs.contains(&"subgroup_arithmetic") || joins_subgroups {
        extensions.extend(["GL_KHR_shader_subgroup_basic", "GL_KHR_shader_subgroup_arithmetic"]);
    }
    extensions.push("GL_EXT_control_flow_attributes");
    for extension in extensions {
        let _ = writeln!(text, "#extension {extension} : require");
    }
    let _ = writeln!(text, "// {}", key.name());
    // `vector` is passed as WIDTH.
    for (flag, value) in key.flags.iter().filter(|(flag, _)| **flag != Flag::Vector) {
        let _ = writeln!(text, "#define {} {value}", flag.name().to_uppercase());
    }
    if let Some(tile) = key.tile {
        let _ = writeln!(text, "#define TILE_M {}u\n#define TILE_N {}u\n#define TILE_K {}u", tile.m, tile.n, tile.k);
    }
    for (name, value) in key.variant.into_iter().flat_map(Variant::constants) {
        let _ = writeln!(text, "#define {name} {value}");
    }
    if let Some(width) = key.width() {
        let _ = writeln!(text, "#define WIDTH {width}u");
    }
    if joins_subgroups {
        text += "#define SUBGROUP_MAX 1\n";
    }
    let _ = writeln!(text, "#define NATIVE_DOT {}", u32::from(dot));
    expand(&mut text, "#include \"numbers.glsl\"", 0).map_err(refuse)?;
    if is_wide {
        expand(&mut text, "#include \"wide.glsl\"", 0).map_err(refuse)?;
    }
    let mut body = access::buffers(key, target);
    body += &access::functions(key, target);
    body += &vector::functions(key, target);
    expand(&mut body, put.as_ref().map_or("", |put| &put.text), 0).map_err(refuse)?;
    if key.flag(Flag::Notes) == 0 {
        expand(&mut body, template(key.template), 0).map_err(refuse)?;
    } else {
        expand(&mut body, &template(key.template).replace("void main()", "void work()"), 0).map_err(refuse)?;
        expand(&mut body, "#include \"noted.glsl\"", 0).map_err(refuse)?;
    }
    for (name, value) in constants::ALL.iter().filter(|(name, _)| body.contains(name)) {
        let _ = writeln!(text, "#define {name} {value}u");
    }
    let _ = writeln!(text, "layout(local_size_x = {}) in;", key.threads());
    text += &body;
    Ok(if key.literals.is_empty() { text } else { with_literals(&text, key) })
}

/// The text with numbers in the place of parameters `p.name` that are known.
fn with_literals(text: &str, key: &KernelKey) -> String {
    let params = key.all_params();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("p.") {
        let (before, from) = rest.split_at(at);
        let name = &from[2..];
        let name = &name[..name.find(|c| !is_word(c)).unwrap_or(name.len())];
        let starts = !(before.ends_with(is_word) || before.is_empty() && done.ends_with(is_word));
        done += before;
        match key.literals.get(name).filter(|_| starts) {
            Some(&bits) => {
                let is_int = params.iter().any(|param| param.name == name && param.ty == ParamType::Int);
                done += &if is_int { format!("({})", bits.cast_signed()) } else { format!("{bits}u") };
            }
            None => done += &from[..2 + name.len()],
        }
        rest = &from[2 + name.len()..];
    }
    done + rest
}

/// Appends `source` with its includes in place.
fn expand(text: &mut String, source: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_INCLUDES {
        return Err("includes nest too deeply".to_owned());
    }
    for line in source.lines() {
        match line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix(".glsl\"")) {
            Some(name) => expand(text, include(name).ok_or_else(|| format!("no include {name}"))?, depth + 1)?,
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    Ok(())
}
