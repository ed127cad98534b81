//! What a file is, told from its first bytes, before the dynamic linker is asked: the linker's own words for a wrong
//! file are hard to act on, and it skips some wrong files in silence.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::LoadError;

const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_SHARED: u16 = 3;

/// The machine of this build, as ELF numbers and names it; `None` where CANN has no libraries for it anyway.
const HOST_MACHINE: Option<(u16, &str)> = if cfg!(target_arch = "x86_64") {
    Some((62, "x86-64"))
} else if cfg!(target_arch = "aarch64") {
    Some((183, "aarch64"))
} else {
    None
};

/// Checks that `path` is a shared library for this machine.
pub(super) fn check(path: &Path) -> Result<(), LoadError> {
    let wrong = |found: &str| LoadError::WrongFile { path: path.to_owned(), found: found.to_owned() };
    let header = match read_header(path) {
        Ok(header) => header,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(wrong("a file too short for an ELF header"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            return Err(wrong("a link to a file that is not there"));
        }
        Err(error) => return Err(wrong(&format!("not readable ({error})"))),
    };
    let [m0, m1, m2, m3, class, endianness, ..] = header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(wrong("not an ELF file"));
    }
    if class != CLASS_64 {
        return Err(LoadError::WrongElfClass { path: path.to_owned(), found: class });
    }
    if endianness != LITTLE_ENDIAN {
        return Err(wrong("a big-endian ELF file"));
    }
    let [.., t0, t1, a0, a1] = header;
    match u16::from_le_bytes([t0, t1]) {
        TYPE_SHARED => {}
        1 => return Err(wrong("an ELF object file")),
        2 => return Err(wrong("an ELF program")),
        4 => return Err(wrong("an ELF core dump")),
        other => return Err(wrong(&format!("an ELF file of type {other}"))),
    }
    let machine = u16::from_le_bytes([a0, a1]);
    match HOST_MACHINE {
        Some((number, expected)) if number != machine => {
            Err(LoadError::WrongMachine { path: path.to_owned(), found: machine_name(machine), expected })
        }
        _ => Ok(()),
    }
}

/// The 20 bytes up to and including `e_machine`.
fn read_header(path: &Path) -> io::Result<[u8; 20]> {
    let mut header = [0; 20];
    File::open(path)?.read_exact(&mut header)?;
    Ok(header)
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bits)".to_owned(),
        40 => "arm (32 bits)".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("ELF machine {other}"),
    }
}
