//! torch and numpy as peers: a process of `benches/peers.py` that does a job when it is told to.
//!
//! `PEERS_PYTHON` names a Python that has both (`pip install torch numpy`); without it these peers do not run.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Contender;

/// A peer's process, which holds the operands of one job.
pub(crate) struct PythonPeer {
    name: &'static str,
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl PythonPeer {
    /// Starts a process for a job: the words that `benches/peers.py` takes after the number of threads. `ids` are the expert
    /// ids that it reads; `None` where `PEERS_PYTHON` is not set.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub(crate) fn start(name: &'static str, job: &str, ids: &[i32]) -> Result<Option<Box<dyn Contender>>> {
        let Some(python) = std::env::var_os("PEERS_PYTHON") else {
            println!("  {name}: set PEERS_PYTHON to a Python with torch and numpy to run it");
            return Ok(None);
        };
        let mut process = Command::new(python)
            .args(["-c", include_str!("../peers.py")])
            .arg(rayon::current_num_threads().to_string())
            .arg(name)
            .args(job.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the Python of PEERS_PYTHON")?;
        let to = process.stdin.take().context("standard input of the peer")?;
        let from = BufReader::new(process.stdout.take().context("standard output of the peer")?);
        let mut peer = Self { name, process, to, from };
        let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
        writeln!(peer.to, "{}", ids.join(" "))?;
        Ok(Some(Box::new(peer)))
    }
}

impl Contender for PythonPeer {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn run(&mut self, times: u64) -> Result<Duration> {
        writeln!(self.to, "{times}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        match answer.trim().parse() {
            Ok(seconds) => Ok(Duration::from_secs_f64(seconds)),
            Err(_) if answer.is_empty() => bail!("the process ended"),
            Err(_) => bail!("{}", answer.trim()),
        }
    }
}

impl Drop for PythonPeer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
