//! Reading C headers: bindgen turns them into Rust text, syn reads that into an [`Interface`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use syn::{Expr, FnArg, ForeignItem, Item, Lit, Pat, ReturnType, Type, UnOp};

use super::interface::{Interface, Prototype, Shape};

/// Rust declarations of what the headers say about the names of the list.
pub(crate) fn generate(include: &Path, headers: &[PathBuf], listed: &Interface) -> Result<String> {
    clang_sys::load().map_err(|reason| {
        anyhow!(
            "libclang is not there ({reason}); install it (Debian and Ubuntu: apt-get install libclang-dev), or say \
             where it is in LIBCLANG_PATH"
        )
    })?;
    let umbrella: String = headers.iter().map(|path| format!("#include \"{}\"\n", path.display())).collect();
    let mut builder = bindgen::Builder::default()
        .header_contents("read.hpp", &umbrella)
        // CANN's headers are for C++ first: some include <cstdint>.
        .clang_args(["-x", "c++", "-std=c++17"])
        .clang_arg(format!("-I{}", include.display()))
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate_comments(false)
        .derive_copy(false)
        .derive_debug(false)
        .formatter(bindgen::Formatter::None);
    for name in listed.functions.keys() {
        builder = builder.allowlist_function(name);
    }
    for name in listed.types.keys() {
        builder = builder.allowlist_type(name);
    }
    for name in listed.constants.keys() {
        builder = builder.allowlist_var(name);
    }
    let bindings =
        builder.generate().with_context(|| format!("clang cannot read the headers in {}", include.display()))?;
    Ok(bindings.to_string())
}

/// Reads bindgen's text.
pub(crate) fn parse(text: &str) -> Result<Interface> {
    let mut interface = Interface::default();
    for item in syn::parse_file(text)?.items {
        match item {
            Item::ForeignMod(block) => {
                for item in block.items {
                    if let ForeignItem::Fn(function) = item {
                        let name = function.sig.ident.to_string();
                        interface.functions.insert(name, prototype(&function.sig)?);
                    }
                }
            }
            Item::Type(item) => {
                interface.types.insert(item.ident.to_string(), Shape::Alias(spelled(&item.ty)?));
            }
            Item::Struct(item) => {
                let mut fields = Vec::new();
                for field in item.fields {
                    let name = field.ident.map(|name| name.to_string()).unwrap_or_default();
                    fields.push((name, spelled(&field.ty)?));
                }
                // What bindgen writes for a struct without a definition.
                let opaque = matches!(fields.as_slice(), [(name, _)] if name == "_unused");
                let shape = if opaque { Shape::Opaque } else { Shape::Struct(fields) };
                interface.types.insert(item.ident.to_string(), shape);
            }
            Item::Const(item) => {
                if let Some(value) = integer(&item.expr) {
                    interface.constants.insert(item.ident.to_string(), value);
                }
            }
            _ => {}
        }
    }
    Ok(interface)
}

fn prototype(signature: &syn::Signature) -> Result<Prototype> {
    let mut params = Vec::new();
    for input in &signature.inputs {
        let FnArg::Typed(parameter) = input else { continue };
        let name = match &*parameter.pat {
            // bindgen adds an underscore to names that are words of Rust.
            Pat::Ident(pattern) => pattern.ident.to_string().trim_end_matches('_').to_owned(),
            _ => String::new(),
        };
        params.push((spelled(&parameter.ty)?, name));
    }
    let returns = match &signature.output {
        ReturnType::Default => "()".to_owned(),
        ReturnType::Type(_, ty) => spelled(ty)?,
    };
    Ok(Prototype { params, returns })
}

/// A type as the list spells it.
fn spelled(ty: &Type) -> Result<String> {
    match ty {
        Type::Ptr(pointer) => {
            let kind = if pointer.mutability.is_some() { "mut" } else { "const" };
            Ok(format!("*{kind} {}", spelled(&pointer.elem)?))
        }
        Type::Array(array) => {
            let len = integer(&array.len).context("an array without a number for its length")?;
            Ok(format!("[{}; {len}]", spelled(&array.elem)?))
        }
        Type::BareFn(function) => {
            let inputs: Result<Vec<String>> = function.inputs.iter().map(|input| spelled(&input.ty)).collect();
            Ok(format!("fn({})", inputs?.join(", ")))
        }
        Type::Tuple(tuple) if tuple.elems.is_empty() => Ok("()".to_owned()),
        Type::Never(_) => Ok("!".to_owned()),
        Type::Path(path) => {
            let last = path.path.segments.last().context("a path without a name")?;
            match &last.arguments {
                // Only `Option<extern fn>` and bindgen's helpers have arguments; the option is how C's null is spelled.
                syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                    Some(syn::GenericArgument::Type(inner)) => spelled(inner),
                    _ => Ok(last.ident.to_string()),
                },
                _ => Ok(last.ident.to_string()),
            }
        }
        _ => Err(anyhow!("bindgen wrote a type of a kind that this task does not read")),
    }
}

fn integer(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => integer(&unary.expr).map(|value| -value),
        _ => None,
    }
}
