//! Huawei CANN/ACL for Rust, bound at run time.
//!
//! Nothing of CANN is needed to build or test this crate: the C types and constants are declared here, the functions
//! are one declarative list ([`vendor_functions!`]), and the loader opens the libraries of an installed CANN, or the
//! simulator's shared library, and fills a [`Table`]. There is no policy here: what to do without CANN, which operator
//! to prefer, how to own things is decided above.
#![allow(non_camel_case_types, non_snake_case, reason = "C names are kept where C is meant")]

mod constants;
mod functions;
mod handle;
pub mod header;
mod info;
pub mod load;
pub mod ops;
pub mod probe;
mod table;

pub use constants::*;
pub use handle::*;
pub use info::{
    FUNCTIONS, FunctionId, FunctionInfo, Library, Need, OPERATORS, OperatorId, OperatorInfo, Release, c_param, c_type,
};
pub use table::{ALL_IDS, Functions, Implementation, LoadedLibrary, MissingFunction, Origin, Table};
