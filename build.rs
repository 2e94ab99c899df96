//! Reads the kernel templates `shaders/<kernel>.comp` with their tables `shaders/<kernel>.toml` and the parts in
//! `shaders/include`, and writes them as Rust: `kernel_templates.rs` (the typed list of templates, for
//! `nyxc::kernels::key`), `kernel_settings.rs` (what a call may be given, for `nyxc::kernels`) and `kernel_sources.rs`
//! (their text, for `codegen`). A template without a table, a table without a template, and an unknown or duplicate key
//! stop the build.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::collections::btree_map::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What `shaders/<kernel>.toml` may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// One sentence.
    description: String,
    /// Names of the kernel's own operands, in order of binding; an optional one ends in `?`.
    operands: Vec<String>,
    /// Whether an epilogue may follow (the template then ends in `put`).
    epilogue: bool,
    /// Whether the key has a tile.
    tiled: bool,
    /// Of what family of `nyxc::kernels::variant` the key has a variant.
    #[serde(default)]
    variant: Option<String>,
    /// Whether parameters that are known when it is compiled stand in its text as numbers.
    #[serde(default)]
    literals: bool,
    /// Whether its operands are read as vectors of 16 bytes too; those of a kernel with variants always are.
    #[serde(default)]
    vectors: bool,
    /// Features that the target must have.
    #[serde(default)]
    needs: Vec<String>,
    /// `"uint n"`, or `"int s*rank"`: as many scalars `s0`, `s1`, ... as the flag `rank` says.
    params: Vec<String>,
    /// Whether it notes indices out of range: a buffer `faults` of 64 words follows the result.
    #[serde(default)]
    faults: bool,
    /// Values that each flag may have.
    #[serde(default)]
    flags: BTreeMap<String, Vec<u32>>,
}

/// What `shaders/constants.toml` has of each number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constant {
    value: u32,
    /// One sentence.
    description: String,
}

fn main() {
    println!("cargo:rerun-if-changed=shaders");
    println!("cargo:rerun-if-changed=build.rs");
    if let Err(message) = run() {
        println!("cargo:warning=shaders: {message}");
        eprintln!("shaders: {message}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?).join("shaders");
    let out = PathBuf::from(std::env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let includes = files(&root.join("include"), "glsl")?;
    let sources = files(&root, "comp")?;
    let mut tables = files(&root, "toml")?;
    let constants = tables.remove("constants").ok_or("no constants.toml")?;
    let constants: BTreeMap<String, Constant> =
        toml::from_str(&constants).map_err(|e| format!("constants.toml: {e}"))?;
    if let Some(name) = constants.keys().find(|name| !is_word(name)) {
        return Err(format!("constants.toml: {name:?} is no lower-case word"));
    }
    if let Some(name) = tables.keys().find(|name| !sources.contains_key(*name)) {
        return Err(format!("{name}.toml has no template {name}.comp"));
    }
    let mut parsed = BTreeMap::new();
    for (name, source) in &sources {
        let text = tables.get(name).ok_or_else(|| format!("{name}.comp has no table {name}.toml"))?;
        let table: Table = toml::from_str(text).map_err(|e| format!("{name}.toml: {e}"))?;
        check(name, &table)?;
        check_includes(name, source, &includes)?;
        let puts = puts(source, &includes, &mut BTreeSet::new());
        if puts != table.epilogue {
            let what = if puts { "puts its result through an epilogue" } else { "has no put" };
            return Err(format!("{name}.comp {what}, and {name}.toml says otherwise"));
        }
        parsed.insert(name.clone(), table);
    }
    for (name, source) in &includes {
        check_includes(name, source, &includes)?;
    }
    write(&out.join("kernel_templates.rs"), &(templates(&parsed) + &constants_text(&constants)))?;
    write(&out.join("kernel_settings.rs"), &settings(&parsed))?;
    write(&out.join("kernel_sources.rs"), &texts(&sources, &includes))
}

/// The files of `folder` with this extension: stem to text.
fn files(folder: &Path, extension: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|e| e == extension)
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            found.insert(stem.to_owned(), std::fs::read_to_string(&path).map_err(fail)?);
        }
    }
    Ok(found)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn check(name: &str, table: &Table) -> Result<(), String> {
    let refuse = |what: String| Err(format!("{name}.toml: {what}"));
    if !is_word(name) {
        return refuse("the stem is not a lower-case word".to_owned());
    }
    if table.description.is_empty() {
        return refuse("the description is empty".to_owned());
    }
    let mut words = BTreeSet::new();
    for operand in &table.operands {
        let operand = operand.strip_suffix('?').unwrap_or(operand);
        if !is_word(operand) || operand == "y" || !words.insert(operand) {
            return refuse(format!("operand {operand:?} is no free lower-case word (y is the result)"));
        }
    }
    let mut params = BTreeSet::new();
    for param in &table.params {
        let (_, param, count) =
            split_param(param).ok_or_else(|| format!("{name}.toml: {param:?} is no parameter such as \"uint n\""))?;
        if !is_word(param) || !params.insert(param) {
            return refuse(format!("parameter {param:?} is no free lower-case word"));
        }
        if let Some(flag) = count
            && !table.flags.contains_key(flag)
        {
            return refuse(format!("parameter {param:?} counts by {flag:?}, which is no flag"));
        }
    }
    for (flag, values) in &table.flags {
        if !is_word(flag) || values.is_empty() || values.windows(2).any(|w| w[0] >= w[1]) {
            return refuse(format!("flag {flag:?} needs a lower-case word and ascending values"));
        }
    }
    Ok(())
}

fn split_param(text: &str) -> Option<(&'static str, &str, Option<&str>)> {
    let (ty, name) = text.split_once(' ')?;
    let ty = match ty {
        "uint" => "Uint",
        "int" => "Int",
        "float" => "Float",
        _ => return None,
    };
    Some(match name.split_once('*') {
        Some((name, count)) => (ty, name, Some(count)),
        None => (ty, name, None),
    })
}

fn check_includes(name: &str, source: &str, includes: &BTreeMap<String, String>) -> Result<(), String> {
    for line in source.lines().filter(|line| line.starts_with("#include")) {
        let part = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix(".glsl\""));
        if !part.is_some_and(|part| includes.contains_key(part)) {
            return Err(format!("{name}: {line} names no file of shaders/include"));
        }
    }
    Ok(())
}

/// Whether a source, or a part that it includes, puts results through the epilogue.
fn puts<'s>(source: &'s str, includes: &'s BTreeMap<String, String>, seen: &mut BTreeSet<&'s str>) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let calls = |name: &str| {
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        code.match_indices(name).any(|(at, _)| !code[..at].ends_with(is_word))
    };
    let mut parts = source.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix(".glsl\""));
    calls("put(")
        || calls("puts(")
        || parts.any(|part| seen.insert(part) && includes.get(part).is_some_and(|text| puts(text, includes, seen)))
}

/// `conv_depthwise` as `ConvDepthwise`.
fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

fn templates(tables: &BTreeMap<String, Table>) -> String {
    let mut text = String::from(
        "/// The kernel templates, one a file of `shaders/`.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\npub enum Template {\n",
    );
    for (name, table) in tables {
        let _ = writeln!(text, "    #[doc = {:?}]\n    {},", table.description, camel(name));
    }
    text += "}\n\nimpl Template {\n    /// Every template, by name.\n    pub const ALL: &'static [Template] = &[";
    for name in tables.keys() {
        let _ = write!(text, "Template::{}, ", camel(name));
    }
    text += "];\n    /// Its table.\n    pub fn table(self) -> &'static Table {\n        match self {\n";
    for (name, table) in tables {
        let operands: Vec<_> = table
            .operands
            .iter()
            .map(|o| format!("({:?}, {})", o.strip_suffix('?').unwrap_or(o), o.ends_with('?')))
            .collect();
        let params: Vec<_> = table
            .params
            .iter()
            .filter_map(|p| split_param(p))
            .map(|(ty, name, count)| {
                let count = count.map_or("None".to_owned(), |flag| format!("Some(Flag::{})", camel(flag)));
                format!("TableParam {{ ty: ParamType::{ty}, name: {name:?}, count: {count} }}")
            })
            .collect();
        let flags: Vec<_> =
            table.flags.iter().map(|(flag, values)| format!("(Flag::{}, &{values:?})", camel(flag))).collect();
        let _ = writeln!(
            text,
            "            Template::{} => &Table {{ name: {name:?}, operands: &[{}], epilogue: {}, tiled: {}, variant: {}, vectors: {}, literals: {}, needs: &{:?}, faults: {}, params: &[{}], flags: &[{}] }},",
            camel(name),
            operands.join(", "),
            table.epilogue,
            table.tiled,
            table.variant.as_ref().map_or("None".to_owned(), |family| format!("Some(Family::{})", camel(family))),
            table.variant.is_some() || table.vectors,
            table.literals,
            table.needs,
            table.faults,
            params.join(", "),
            flags.join(", ")
        );
    }
    text += "        }\n    }\n}\n";
    let flags: BTreeSet<&String> = tables.values().flat_map(|table| table.flags.keys()).collect();
    text += "\n/// The flags of all templates, by name.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[allow(missing_docs, reason = \"the tables document them\")]\npub enum Flag {\n";
    for flag in &flags {
        let _ = writeln!(text, "    {},", camel(flag));
    }
    text += "}\n\nimpl Flag {\n    /// Its name in the table.\n    pub fn name(self) -> &'static str {\n        match self {\n";
    for flag in &flags {
        let _ = writeln!(text, "            Flag::{} => {flag:?},", camel(flag));
    }
    text + "        }\n    }\n}\n"
}

/// What a call of each template may be given: a type for each template (`of`), a trait for each name (`has`), and a
/// method for each that takes what the template's table says. Flags that count parameters follow from these, and `half`
/// and `vector` have methods of their own.
fn settings(tables: &BTreeMap<String, Table>) -> String {
    let mut of = String::from(
        "/// The templates as types.\npub(in crate::kernels) mod of {\n    use super::{Kernel, Template};\n",
    );
    let mut given: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    let mut flags: BTreeSet<&str> = BTreeSet::new();
    for (name, table) in tables {
        let (camel, description) = (camel(name), &table.description);
        let _ = writeln!(of, "    #[doc = {description:?}]\n    pub(in crate::kernels) struct {camel};");
        let _ = writeln!(
            of,
            "    impl Kernel for {camel} {{\n        const TEMPLATE: Template = Template::{camel};\n    }}"
        );
        let params: Vec<_> = table.params.iter().filter_map(|param| split_param(param)).collect();
        for (ty, param, count) in &params {
            let ty = match (*ty, count) {
                ("Uint", None) => "Uint",
                ("Uint", Some(_)) => "Uints",
                ("Int", None) => "Int",
                ("Int", Some(_)) => "Ints",
                _ => "Float",
            };
            given.entry(param).or_default().push((name, ty));
        }
        for (flag, values) in &table.flags {
            if params.iter().any(|(_, _, count)| *count == Some(flag.as_str())) {
                continue;
            }
            flags.insert(flag);
            let ty = if values.iter().all(|value| *value < 2) { "Switch" } else { "Number" };
            given.entry(flag).or_default().push((name, ty));
        }
    }
    let mut has = String::from(
        "/// What a template may be given, by name.\npub(in crate::kernels) mod has {\n    use super::Kernel;\n",
    );
    let (mut impls, mut methods) = (String::new(), String::from("impl<T: Kernel> Call<'_, T> {\n"));
    // What the building of a call itself finds out is nobody's to give.
    for (name, templates) in given.iter().filter(|(name, _)| **name != "notes") {
        let trait_name = camel(name);
        let _ = writeln!(
            has,
            "    /// It has `{name}`.\n    pub(in crate::kernels) trait {trait_name}: Kernel {{\n        /// What that is.\n        type Given;\n    }}"
        );
        for (template, ty) in templates {
            let _ =
                writeln!(impls, "impl has::{trait_name} for of::{} {{\n    type Given = {ty};\n}}", camel(template));
        }
        if matches!(*name, "half" | "vector") {
            continue;
        }
        let flag = if flags.contains(name) { format!("Some(Flag::{trait_name})") } else { "None".to_owned() };
        let _ = writeln!(
            methods,
            "    /// Gives `{name}`.\n    pub(in crate::kernels) fn {name}(self, value: impl Give<T::Given>) -> Self\n    where\n        T: has::{trait_name},\n    {{\n        self.set({name:?}, {flag}, value.give())\n    }}"
        );
    }
    [of, "}\n\n".to_owned(), has, "}\n\n".to_owned(), impls, "\n".to_owned(), methods, "}\n".to_owned()].concat()
}

fn constants_text(constants: &BTreeMap<String, Constant>) -> String {
    let mut text = String::from("/// Numbers that templates and planner both need.\npub mod constants {\n");
    for (name, constant) in constants {
        let _ = writeln!(
            text,
            "    #[doc = {:?}]\n    pub const {}: u32 = {};",
            constant.description,
            name.to_uppercase(),
            constant.value
        );
    }
    text += "    /// All of them, by their names in GLSL.\n    pub const ALL: &[(&str, u32)] = &[";
    for name in constants.keys() {
        let name = name.to_uppercase();
        let _ = write!(text, "({name:?}, {name}), ");
    }
    text + "];\n}\n"
}

fn texts(sources: &BTreeMap<String, String>, includes: &BTreeMap<String, String>) -> String {
    let mut text = String::from(
        "/// The text of a template.\nfn template(template: Template) -> &'static str {\n    match template {\n",
    );
    for (name, source) in sources {
        let _ = writeln!(text, "        Template::{} => {source:?},", camel(name));
    }
    text += "    }\n}\n\n/// The text of a part that templates include.\nfn include(name: &str) -> Option<&'static str> {\n    Some(match name {\n";
    for (name, source) in includes {
        let _ = writeln!(text, "        {name:?} => {source:?},");
    }
    text + "        _ => return None,\n    })\n}\n"
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
