//! C types, constants, the function list and the loader.
