//! C headers written from the list: types, constants and prototypes, laid out as a program that includes CANN's headers
//! expects them, so that C programs compile against the simulator and so that the list can be compared with the headers
//! of an installed CANN. The text is this crate's own; the interface is CANN's.

use core::mem::{offset_of, size_of};
use std::fs;
use std::io;
use std::path::Path;

use crate::constants::{CONSTANT_TYPES, ConstantKind, ConstantType, FLAGS};
use crate::handle::{HANDLE_TYPES, HcclCommConfig, HcclRootInfo, OPAQUE_TYPES, aclCANNPackageVersion};
use crate::info::{FUNCTIONS, FunctionInfo, Library, OPERATORS, c_param, c_type};

/// A header: where it lies in an include directory, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFile {
    /// Path in the include directory, for example `acl/acl_rt.h`.
    pub path: String,
    /// The text.
    pub text: String,
}

/// A field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// C type of one element.
    pub c_type: &'static str,
    /// Elements, where it is an array.
    pub len: Option<usize>,
    /// Bytes from the start of the struct.
    pub offset: usize,
}

/// A struct that callers fill or read.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// C name.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Fields in order.
    pub fields: &'static [Field],
}

macro_rules! structs {
    ($($name:ident { $($field:ident: $c_type:literal $([$len:literal])?,)* })*) => {
        /// The structs of the interface. Offsets and sizes are those of the Rust definitions.
        pub const STRUCTS: &[Struct] = &[$(Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$(Field {
                name: stringify!($field),
                c_type: $c_type,
                len: structs!(@len $($len)?),
                offset: offset_of!($name, $field),
            }),*],
        }),*];
    };
    (@len) => { None };
    (@len $len:literal) => { Some($len) };
}

structs! {
    aclCANNPackageVersion {
        version: "char"[128],
        majorVersion: "char"[64],
        minorVersion: "char"[64],
        releaseVersion: "char"[64],
        patchVersion: "char"[64],
        reserved: "char"[128],
    }
    HcclRootInfo {
        internal: "char"[4108],
    }
    HcclCommConfig {
        reserved: "char"[24],
        hcclBufferSize: "uint32_t",
        hcclDeterministic: "uint32_t",
        hcclCommName: "char"[128],
        hcclUdi: "char"[128],
        hcclOpExpansionMode: "uint32_t",
        hcclRdmaTrafficClass: "uint32_t",
        hcclRdmaServiceLevel: "uint32_t",
    }
}

/// Function pointer types: name and the C type of their one parameter. All return nothing.
pub const CALLBACKS: &[(&str, &str)] =
    &[("aclrtCallback", "void*"), ("aclrtHostFunc", "void*"), ("aclrtExceptionInfoCallback", "aclrtExceptionInfo*")];

/// The header that includes all others.
pub const UMBRELLA: &str = "ascend_moe_cann.h";

const BASE: &str = "acl/acl_base.h";
const RUNTIME: &str = "acl/acl_rt.h";
const META: &str = "aclnn/acl_meta.h";

/// Every header, each after those it includes. The same list gives the same text.
pub fn files() -> Vec<HeaderFile> {
    let is_hccl = |name: &str| name.starts_with("Hccl");
    let mut files = vec![
        header(BASE, &["<stdbool.h>", "<stddef.h>", "<stdint.h>"], &(types(|name| !is_hccl(name)) + &flags())),
        header(RUNTIME, &[BASE], &prototypes(|f| f.library == Library::Acl)),
        header("acl/acl.h", &[RUNTIME], ""),
        header(META, &[BASE], &prototypes(|f| f.library == Library::Base)),
        header("aclnn/aclnn_base.h", &[META], ""),
    ];
    let mut operators: Vec<String> = FUNCTIONS.iter().filter_map(operator_header).collect();
    operators.sort();
    operators.dedup();
    files.extend(
        operators.iter().map(|path| header(path, &[META], &prototypes(|f| operator_header(f).as_ref() == Some(path)))),
    );
    files.push(header("hccl/hccl.h", &[BASE], &(types(is_hccl) + &prototypes(|f| f.library.is_hccl()))));

    let all: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let umbrella = header(UMBRELLA, &all, "");
    files.push(umbrella);
    files
}

/// Writes the headers below `dir`, making directories as needed.
///
/// # Errors
/// Those of the file system.
pub fn write_to(dir: &Path) -> io::Result<()> {
    for file in files() {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, file.text)?;
    }
    Ok(())
}

/// The header that declares an operator's function: `aclnnop/aclnn_moe_gating_top_k.h`. A function beside the two phases
/// stands with the operator whose name its own starts with.
fn operator_header(function: &FunctionInfo) -> Option<String> {
    if !function.library.is_operators() {
        return None;
    }
    let plain = function.name.strip_prefix("aclnn").unwrap_or(function.name);
    let operator = match function.operator {
        Some(id) => id.name(),
        None => OPERATORS
            .iter()
            .map(|operator| operator.name)
            .filter(|name| plain.starts_with(name))
            .max_by_key(|name| name.len())
            .unwrap_or(plain),
    };
    Some(format!("aclnnop/aclnn_{}.h", snake_case(operator)))
}

/// `MoeGatingTopK` as `moe_gating_top_k`, `WeightNzV2` as `weight_nz_v2`.
fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (index, &c) in chars.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|index| chars.get(index));
        let starts_word = c.is_ascii_uppercase()
            && previous
                .is_some_and(|p| !p.is_ascii_uppercase() || chars.get(index + 1).is_some_and(char::is_ascii_lowercase));
        if starts_word {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

fn header(path: &str, includes: &[&str], body: &str) -> HeaderFile {
    let guard: String =
        path.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let mut text = format!(
        "/* {path}: the part of CANN's C interface that ascend-moe binds. Generated; see ascend_sys::header. */\n\
         #ifndef ASCEND_MOE_{guard}\n#define ASCEND_MOE_{guard}\n\n"
    );
    for include in includes {
        text += &if include.starts_with('<') {
            format!("#include {include}\n")
        } else {
            format!("#include \"{include}\"\n")
        };
    }
    if !body.is_empty() {
        let open = "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
        let close = "#ifdef __cplusplus\n}\n#endif\n";
        text += &format!("\n{open}\n{}\n\n{close}", body.trim_end());
    }
    text += &format!("\n#endif /* ASCEND_MOE_{guard} */\n");
    HeaderFile { path: path.to_owned(), text }
}

/// Declarations of the types whose name `keep` keeps.
fn types(keep: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for name in OPAQUE_TYPES.iter().filter(|name| keep(name)) {
        text += &format!("typedef struct {name} {name};\n");
    }
    for name in HANDLE_TYPES.iter().filter(|name| keep(name)) {
        text += &format!("typedef void* {name};\n");
    }
    for (name, parameter) in CALLBACKS.iter().filter(|(name, _)| keep(name)) {
        text += &format!("typedef void (*{name})({parameter});\n");
    }
    for constants in CONSTANT_TYPES.iter().filter(|constants| keep(constants.c_type)) {
        text += &constant_type(constants);
    }
    for item in STRUCTS.iter().filter(|item| keep(item.name)) {
        text += &format!("\ntypedef struct {} {{\n", item.name);
        for field in item.fields {
            let len = field.len.map(|len| format!("[{len}]")).unwrap_or_default();
            text += &format!("    {} {}{len};\n", field.c_type, field.name);
        }
        text += &format!("}} {};\n", item.name);
    }
    text + "\n"
}

fn constant_type(constants: &ConstantType) -> String {
    let name = constants.c_type;
    match constants.kind {
        ConstantKind::Enum => {
            let members: String =
                constants.members.iter().map(|member| format!("    {} = {},\n", member.name, member.value)).collect();
            format!("\ntypedef enum {{\n{members}}} {name};\n")
        }
        ConstantKind::Integer => {
            let members: String = constants
                .members
                .iter()
                .map(|member| format!("static const {name} {} = {};\n", member.name, member.value))
                .collect();
            format!("\ntypedef {} {name};\n{members}", c_type(constants.repr))
        }
    }
}

fn flags() -> String {
    FLAGS.iter().map(|flag| format!("#define {} {:#x}u\n", flag.name, flag.value)).collect()
}

fn prototypes(keep: impl Fn(&FunctionInfo) -> bool) -> String {
    FUNCTIONS.iter().filter(|function| keep(function)).map(|function| prototype(function) + "\n").collect()
}

/// The C prototype of a function of the list, with the release that first had it.
pub fn prototype(function: &FunctionInfo) -> String {
    let parameters: Vec<String> =
        function.params.iter().map(|(name, ty)| format!("{} {}", c_type(ty), c_param(name))).collect();
    let parameters = if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") };
    format!("/* since {} */\n{} {}({parameters});", function.since, c_type(function.returns), function.name)
}
