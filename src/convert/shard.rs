//! Writing a file of weights as a stream: its header first, as the plan knows every size, then what the steps give, while the next
//! piece is already being worked out. It gets its name when it is whole and on the disk.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use serde_json::{Map, Value, json};

use super::encode::{self, Pool};
use super::plan::{Job, Shard};
use super::{ConvertError, Options, TensorReport};
use crate::checkpoint::Checkpoint;

/// A file that is being written.
pub(super) trait Output: Write + Send {
    /// Begins to bring these bytes, which were written, to the disk, without waiting for it: the disk works while the next pieces
    /// are worked out.
    fn begin(&mut self, _written: Range<u64>) {}

    /// Waits until everything is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Output for File {
    #[cfg(target_os = "linux")]
    fn begin(&mut self, written: Range<u64>) {
        if let (Ok(start), Ok(bytes)) = (i64::try_from(written.start), i64::try_from(written.end - written.start)) {
            // A file system that does not take the hint writes at the end, and what fails is told there.
            // SAFETY: the file is open, and no memory is passed.
            unsafe { libc::sync_file_range(self.as_raw_fd(), start, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Makes a new file of a path, in place of one that is there.
pub(super) type Create = dyn Fn(&Path) -> io::Result<Box<dyn Output>> + Sync;

/// Files on the disk.
pub(super) fn on_disk(path: &Path) -> io::Result<Box<dyn Output>> {
    Ok(Box::new(File::create(path)?))
}

/// Whole pieces that wait for the disk.
const WAITING: usize = 2;

/// Words of 8 bytes that a checksum takes at a time, each in a chain of its own: one chain alone is slower than a disk.
const CHAINS: usize = 4;

/// A checksum over a stream: a multiplication and a rotation for each 8 bytes, whatever pieces they come in. It tells whether a file
/// is what was written; it is no protection against intent.
#[derive(Debug, Default, Clone)]
pub(super) struct Checksum {
    chains: [u64; CHAINS],
    bytes: u64,
    rest: Vec<u8>,
}

impl Checksum {
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(8 * CHAINS - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() < 8 * CHAINS {
                return;
            }
            let rest = std::mem::take(&mut self.rest);
            self.mix(rest.as_chunks().0.as_chunks().0);
        }
        let (words, _) = bytes.as_chunks();
        let (blocks, _) = words.as_chunks();
        self.mix(blocks);
        self.rest.extend(bytes.iter().skip(8 * CHAINS * blocks.len()));
    }

    fn mix(&mut self, blocks: &[[[u8; 8]; CHAINS]]) {
        for block in blocks {
            self.chains
                .iter_mut()
                .zip(block)
                .for_each(|(chain, word)| *chain = mixed(*chain, u64::from_le_bytes(*word)));
        }
    }

    /// The checksum of everything so far.
    pub(super) fn finish(mut self) -> String {
        self.rest.resize(8 * CHAINS, 0);
        let rest = std::mem::take(&mut self.rest);
        self.mix(rest.as_chunks().0.as_chunks().0);
        format!("{:016x}", self.chains.into_iter().fold(self.bytes, mixed))
    }
}

fn mixed(state: u64, word: u64) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    (state ^ word).wrapping_mul(FACTOR).rotate_left(31)
}

/// What became of a file.
pub(super) struct Written {
    pub(super) checksum: String,
    pub(super) tensors: Vec<TensorReport>,
}

/// The header of a file: its length, and JSON filled up with spaces so that tensors start at whole words.
fn header(shard: &Shard<'_>, nz: bool) -> Vec<u8> {
    let mut entries = Map::new();
    let mut metadata = json!({"format": "pt"});
    if nz {
        metadata["ascend_moe.layout"] = "fractal_nz".into();
    }
    entries.insert("__metadata__".to_owned(), metadata);
    let mut start = 0;
    for tensor in shard.steps.iter().flat_map(|step| &step.tensors) {
        let (dtype, end) = (tensor.dtype.to_string(), start + tensor.bytes);
        entries
            .insert(tensor.name.clone(), json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}));
        start = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()
}

/// Writes a file into the folder `dir`; `wrote` is told of every piece that is written.
pub(super) fn write(
    checkpoint: &Checkpoint,
    shard: &Shard<'_>,
    dir: &Path,
    options: Options,
    create: &Create,
    pool: &Pool,
    wrote: &mut dyn FnMut(u64),
) -> Result<Written, ConvertError> {
    let (path, partial) = (dir.join(&shard.file), dir.join(format!("{}.partial", shard.file)));
    let written = stream(checkpoint, shard, &partial, options, create, pool, wrote).and_then(|written| {
        fs::rename(&partial, &path).map_err(|error| ConvertError::io(&path, error))?;
        sync_folder(dir)?;
        Ok(written)
    });
    if written.is_err() {
        // Best effort: the first failure is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn stream(
    checkpoint: &Checkpoint,
    shard: &Shard<'_>,
    partial: &Path,
    options: Options,
    create: &Create,
    pool: &Pool,
    wrote: &mut dyn FnMut(u64),
) -> Result<Written, ConvertError> {
    let io = |error| ConvertError::io(partial, error);
    let mut out = create(partial).map_err(io)?;
    let (pieces, waiting) = sync_channel::<Cow<'_, [u8]>>(WAITING);
    let (lengths, done) = std::sync::mpsc::channel::<u64>();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || -> io::Result<String> {
            let mut checksum = Checksum::default();
            let mut at = 0;
            for piece in waiting {
                checksum.add(&piece);
                out.write_all(&piece)?;
                let start = at;
                at += piece.len() as u64;
                out.begin(start..at);
                let _ = lengths.send(piece.len() as u64);
                if let Cow::Owned(buffer) = piece {
                    encode::give_back(pool, buffer);
                }
            }
            out.flush()?;
            out.sync()?;
            Ok(checksum.finish())
        });
        let mut tensors = Vec::new();
        let mut failed = None;
        let mut going = pieces.send(Cow::Owned(header(shard, options.nz))).is_ok();
        for step in &shard.steps {
            if !going {
                break;
            }
            let found = encode::step(checkpoint, step, options, pool, &mut |piece| {
                done.try_iter().for_each(&mut *wrote);
                going = pieces.send(piece).is_ok();
                going
            });
            match (found, &step.job) {
                (Err(error), _) => {
                    failed = Some(error);
                    break;
                }
                (Ok(error), Job::Encode { name, from, target, .. }) => tensors.push(TensorReport {
                    name: name.clone(),
                    from: from.to_string(),
                    to: target.stored().to_string(),
                    rms: error.rms(),
                    max: error.max(),
                }),
                _ => {}
            }
        }
        drop(pieces);
        let ended = writer.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes ended")));
        done.try_iter().for_each(&mut *wrote);
        match failed {
            Some(error) => Err(error),
            None => Ok(Written { checksum: ended.map_err(io)?, tensors }),
        }
    })
}

/// Writes a small file whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8], create: &Create) -> Result<(), ConvertError> {
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let written = create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        ConvertError::io(path, error)
    })
}

/// Waits until the names in a folder are on the disk.
pub(super) fn sync_folder(dir: &Path) -> Result<(), ConvertError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| ConvertError::io(dir, error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::convert::{Format, Report, work};

    /// Room on the disk, in bytes.
    static ROOM: AtomicUsize = AtomicUsize::new(0);

    /// A file on a disk that has no more than so much room.
    struct Small(File);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let take = |room: usize| room.checked_sub(bytes.len());
            match ROOM.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(_) => self.0.write_all(bytes).map(|()| bytes.len()),
                Err(_) => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl Output for Small {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn small(path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(Small(File::create(path)?)))
    }

    #[test]
    fn a_checksum_is_of_bytes_and_not_of_pieces() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        let sum = |bytes: &[u8], piece: usize| {
            let mut checksum = Checksum::default();
            bytes.chunks(piece).for_each(|piece| checksum.add(piece));
            checksum.finish()
        };
        for end in [0, 1, 7, 8, 31, 32, 33, 64, 999, 1000] {
            let bytes = &bytes[..end];
            let whole = sum(bytes, 1000);
            assert!([1, 3, 8, 31, 32, 33, 100].iter().all(|piece| sum(bytes, *piece) == whole), "{end} bytes");
            // With a byte more, even a zero, and with any byte changed, it is another.
            assert_ne!(sum(&[bytes, &[0]].concat(), 1000), whole);
            for at in 0..end {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1 << (at % 8);
                assert_ne!(sum(&changed, 1000), whole, "byte {at} of {end}");
            }
        }
    }

    /// A disk that is full at any point of a conversion: no output, no file that is not whole, and with more room it goes on.
    #[test]
    fn a_disk_that_is_full() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints/deepseek-v3");
        let checkpoint = Checkpoint::open(from).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let run = |room: usize| -> Result<Report, ConvertError> {
            ROOM.store(room, Ordering::Relaxed);
            work::run(&checkpoint, &to, Options::new(Format::W8a8), &small, &mut |_| {})
        };
        let mut kept = 0;
        for attempt in 0.. {
            match run(190_000) {
                Ok(report) => {
                    assert!(attempt > 2 && report.resumed == kept, "{attempt} tries, {} files kept", report.resumed);
                    break;
                }
                Err(error) => assert!(matches!(error, ConvertError::NoSpace { .. }), "{error}"),
            }
            assert!(!to.exists());
            let names = |folder: &str| -> Vec<String> {
                let entries = fs::read_dir(dir.path().join(folder)).unwrap();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
            };
            let files = names("out.partial");
            assert!(files.iter().all(|name| !name.ends_with(".partial")), "{files:?}");
            let now = names("out.partial/.conversion").iter().filter(|name| name.starts_with("model")).count();
            assert!(now > kept, "each try gets on: {now} files after {kept}");
            kept = now;
        }
        Checkpoint::open(&to).unwrap().layer_weights(2).unwrap();
    }

    #[test]
    fn checksums_do_not_depend_on_pieces() {
        let bytes: Vec<u8> = (0..1000u32).map(|at| (at * 7) as u8).collect();
        let of = |pieces: &[usize]| {
            let (mut checksum, mut rest) = (Checksum::default(), bytes.as_slice());
            for piece in pieces {
                let (head, tail) = rest.split_at(*piece);
                checksum.add(head);
                rest = tail;
            }
            checksum.add(rest);
            checksum.finish()
        };
        let due = of(&[]);
        for pieces in [&[1, 1, 1, 997][..], &[7, 1, 8, 9, 3], &[0, 1000], &[500, 3]] {
            assert_eq!(of(pieces), due);
        }
        let mut others = vec![due];
        for changed in [bytes[..999].to_vec(), [&bytes[..], &[0]].concat(), [&[1], &bytes[1..]].concat()] {
            let mut checksum = Checksum::default();
            checksum.add(&changed);
            others.push(checksum.finish());
        }
        others.sort();
        others.dedup();
        assert_eq!(others.len(), 4);
    }
}
