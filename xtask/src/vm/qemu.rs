//! QEMU: one guest from boot to power-off.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::archive;
use crate::shell::{self, say};

const PROGRAM: &str = "qemu-system-x86_64";
/// Older ones crash guests of 6.12 at random.
const OLDEST: u32 = 8;
/// Everything that can be emulated, but what an emulator is slow at and a kernel prefers where it is there: copying byte by byte
/// ("enhanced" and "fast short" `rep movsb`, to a processor of silicon the fastest way), and tables of pages in five levels.
const PROCESSOR: &str = "max,-erms,-fsrm,-la57";
/// Debian's kernels clear all memory that they hand out, look for its misuse and for processors that stand still, and move each call's
/// stack by chance: none of it is what a guest tries.
const QUICKER: &str =
    " init_on_alloc=0 kfence.sample_interval=0 randomize_kstack_offset=off nowatchdog";
/// A guest that says nothing for so long hangs: the longest test (a stress run, emulated) takes less.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// As does one that has not powered off by then; the whole suite takes more than an hour, emulated.
const WHOLE: Duration = Duration::from_secs(180 * 60);
/// How often its output is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What a guest that wants to be booted again says instead of a status.
const AGAIN: &str = "again";
/// What the kernel says of an archive that does not fit.
/// <https://github.com/torvalds/linux/blob/v6.12/init/initramfs.c#L721>
const UNPACKING_FAILED: &str = "Initramfs unpacking failed";
/// Lines of the console that a failure shows.
const TAIL: usize = 25;

/// An emulator.
pub(crate) struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it is not installed.
    root: Option<PathBuf>,
}

impl Qemu {
    /// The machine's own, or one that is unpacked into the cache.
    pub(crate) fn find(cache: &Path) -> Result<Self> {
        if let Some(program) = shell::which(PROGRAM) {
            let own = Self {
                program,
                root: None,
            };
            if own.major().is_ok_and(|major| major >= OLDEST) {
                return Ok(own);
            }
        }
        let root = cache.join("qemu");
        let unpacked = Self {
            program: root.join("usr/bin").join(PROGRAM),
            root: Some(root.clone()),
        };
        if unpacked.major().is_ok_and(|major| major >= OLDEST) {
            return Ok(unpacked);
        }
        say("vm", "fetching QEMU");
        archive::unpack_for_host(cache, "qemu-system-x86", &root).context(
            "vm: QEMU 8 or later: not installed, and not to be had for this distribution: install it",
        )?;
        let major = unpacked.major().context("vm: the fetched QEMU")?;
        if major < OLDEST {
            bail!(
                "vm: QEMU {major} is too old for the newer kernels: install version {OLDEST} or later"
            );
        }
        Ok(unpacked)
    }

    fn major(&self) -> Result<u32> {
        // `QEMU emulator version 10.0.2 (…)`
        let text = shell::output(self.command().arg("--version"))?;
        text.split_whitespace()
            .nth(3)
            .and_then(|version| version.split('.').next()?.parse().ok())
            .with_context(|| format!("{text:?} names no version"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
                .map(|dir| root.join(dir).display().to_string())
                .join(":");
            command.env("LD_LIBRARY_PATH", libraries);
            for dir in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(dir));
            }
        }
        command
    }

    fn guest(&self, machine: &Machine<'_>, more: &str) -> Command {
        let mut command = self.command();
        if machine.counted {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command
            .args([
                "-accel",
                if machine.counted {
                    "tcg,thread=single"
                } else {
                    "tcg,thread=multi"
                },
                "-cpu",
                if machine.counted { "max" } else { PROCESSOR },
                "-smp",
                machine.processors,
            ])
            .args([
                "-m",
                machine.memory,
                "-nic",
                "none",
                "-no-reboot",
                "-display",
                "none",
            ])
            .arg("-kernel")
            .arg(machine.kernel);
        let root = match machine.root {
            Root::Initramfs(path) => {
                command.arg("-initrd").arg(path);
                ""
            }
            Root::Disk(path) => {
                // What Debian's cloud kernels have built in. A test's disk need not survive this machine's power cut.
                command.arg("-drive").arg(format!(
                    "file={},if=none,id=root,format=raw,cache=unsafe",
                    path.display()
                ));
                command.args(["-device", "nvme,drive=root,serial=guard"]);
                " root=/dev/nvme0n1 rootfstype=ext4 rw"
            }
        };
        // What is counted is to be what a kernel does by itself.
        let quicker = if machine.counted { "" } else { QUICKER };
        command.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 quiet printk.devkmsg=on mitigations=off lsm={}{quicker}{root}{more}",
            machine.lsm
        ));
        command
    }

    /// Boots, gives each line of the results to `on_line`, and says how the guest ended.
    /// `limits` are words for the kernel's command line; `dir` keeps what the guest wrote.
    ///
    /// # Errors
    /// When a test failed, or the guest panicked, hung or gave no result; with the console's tail.
    pub(crate) fn run(
        &self,
        machine: &Machine<'_>,
        limits: &str,
        dir: &Path,
        mut on_line: impl FnMut(&str),
    ) -> Result<Ended> {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        let mut command = self.guest(machine, limits);
        command.args(["-monitor", "none"]).stdin(Stdio::null());
        let outputs = ["console", "results", "status"].map(|name| dir.join(name));
        for (index, path) in outputs.iter().enumerate() {
            fs::write(path, "")?;
            command
                .arg("-chardev")
                .arg(format!("file,id=c{index},path={}", path.display()))
                .arg("-serial")
                .arg(format!("chardev:c{index}"));
        }
        // A fourth, for somebody to be logged in at.
        command.args(["-serial", "null"]);
        let [console, results, status] = outputs;
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", shell::shown(&command)))?;
        let deadline = Instant::now() + WHOLE;
        let written = || -> u64 {
            let len = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
            len(&console) + len(&results)
        };
        let mut heard = (written(), Instant::now());
        let mut lines = Lines::open(&results)?;
        let ended = loop {
            lines.each(&mut on_line)?;
            if let Some(ended) = child.try_wait()? {
                break Some(ended);
            }
            let now = Instant::now();
            if written() != heard.0 {
                heard = (written(), now);
            }
            if now >= deadline || now - heard.1 >= PATIENCE {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(LOOK);
        };
        lines.each(&mut on_line)?;
        // It would go on with what there was room for, and its tests say that this or that is not installed.
        let said = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
        if let Some(line) = said.lines().find(|line| line.contains(UNPACKING_FAILED)) {
            bail!("{}: it needs more memory", line.trim());
        }
        let status = fs::read_to_string(&status)?;
        match (ended, status.trim().parse::<u32>()) {
            (Some(ended), Ok(0)) if ended.success() => Ok(Ended::Over),
            (Some(ended), Err(_)) if ended.success() && status.trim() == AGAIN => Ok(Ended::Again),
            (Some(_), Ok(code)) => bail!("a test program ended with {code}"),
            (None, _) => bail!(
                "no end; silent for {} s; the console's last lines:\n{}",
                heard.1.elapsed().as_secs(),
                tail(&console)
            ),
            (Some(ended), Err(_)) => bail!(
                "the guest gave no result (QEMU: {ended}); the console's last lines:\n{}",
                tail(&console)
            ),
        }
    }

    /// A guest for a person, on this terminal.
    pub(crate) fn shell(&self, machine: &Machine<'_>) -> Result<()> {
        say(
            "vm",
            "the guest's shell; `exit` powers it off, Ctrl-A X ends QEMU",
        );
        let mut command = self.guest(machine, " guard.shell");
        shell::run(command.args(["-serial", "mon:stdio"]))
    }
}

/// How a guest that did nothing wrong ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It has done all that it was to do.
    Over,
    /// It wants to be booted again, with the disk as it has left it.
    Again,
}

/// Where its file system is.
#[derive(Clone, Copy)]
pub(crate) enum Root<'a> {
    Initramfs(&'a Path),
    /// An ext4 image.
    Disk(&'a Path),
}

/// What boots.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) root: Root<'a>,
    pub(crate) processors: &'static str,
    /// MiB.
    pub(crate) memory: &'static str,
    /// The active security modules.
    pub(crate) lsm: &'static str,
    /// The guest's clock goes on by a nanosecond with each instruction, and skips what nobody does anything in: what a guest measures is
    /// a number of instructions, whatever else this machine does.
    pub(crate) counted: bool,
}

/// The lines of a file that grows.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            rest: Vec::new(),
        })
    }

    fn each(&mut self, on_line: &mut impl FnMut(&str)) -> Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            on_line(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }
}

fn tail(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.seek(SeekFrom::Start(0));
        let mut bytes = Vec::new();
        let _ = file.read_to_end(&mut bytes);
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
