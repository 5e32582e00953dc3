//! The guest's whole file system: busybox, the binaries under test, the tests, and an `/init` that runs
//! them and powers off.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::clients;
use crate::{shell, workspace};

/// Results go to the second serial line, the exit status to the third.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# One technique fills it.
mount -t tmpfs -o size=256m tmpfs /tmp
ip link set lo up
for module in /modules/*.ko; do
    if [ -f "$module" ]; then insmod "$module"; fi
done
if grep -q guard.shell /proc/cmdline; then
    setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
    poweroff -f
fi
exec >/dev/ttyS1 2>&1
tiers=$(sed -n 's/.*guard\.tiers=\([a-z,-]*\).*/\1/p' /proc/cmdline)
export GUARD_TEST_TIERS=$tiers
storms=$(sed -n 's/.*guard\.storms=\([a-z,-]*\).*/\1/p' /proc/cmdline)
export GUARD_TEST_STORMS=$storms
only=$(sed -n 's/.*guard\.only=\([a-z_,]*\).*/\1/p' /proc/cmdline)
export GUARD_BIN_DIR=/guard/bin GUARD_TEST_PATIENCE=120 GUARD_LABORATORY=1
libssl=/guard/openssl-1.1/libssl.so.1.1
if [ -f $libssl ]; then export GUARD_TEST_LIBSSL_1_1=$libssl; fi
status=0
for program in /guard/deps/*; do
    name=${program##*/}
    case ",${only:-${name%-*}}," in *",${name%-*},"*) ;; *) continue ;; esac
    "$program" --test-threads 1 @ARGS@ || status=$?
done
echo $status >/dev/ttyS2
poweroff -f
"#;

/// Where the test programs are in it; `/init` looks there.
const TESTS: &str = "guard/deps/";

/// Writes it to `target`. `test_args` go to each of the test programs.
pub(super) fn build(
    target: &Path,
    busybox: &Path,
    bin_dir: &Path,
    programs: &[PathBuf],
    test_args: &[String],
) -> Result<()> {
    let mut tree = Tree::default();
    for dir in [
        "proc", "sys", "dev", "tmp", "root", "run", "etc", "var/lib", "guard",
    ] {
        tree.dir(dir);
    }
    tree.file("bin/busybox", fs::read(busybox)?);
    // Every applet at the path it has on a full system.
    for applet in shell::output(Command::new(busybox).arg("--list-full"))?.lines() {
        if !applet.ends_with("busybox") {
            tree.link(applet, "/bin/busybox");
        }
    }
    // Programs that tests use as they are on a full system, where this machine has them; without them a test says what
    // it lacks.
    for name in [
        "bash", "cat", "curl", "echo", "env", "grep", "script", "setpriv", "sleep", "true", "wget",
    ] {
        let from = Path::new("/usr/bin").join(name);
        if from.is_file() {
            for directory in ["bin", "usr/bin"] {
                tree.program(&format!("{directory}/{name}"), &from)?;
            }
        }
    }
    for name in ["guardd", "guardctl"] {
        tree.program(&format!("guard/bin/{name}"), &bin_dir.join(name))?;
    }
    // Where the tests look for them: beside the directory they lie in themselves.
    let fixtures = workspace::target_dir().join("debug");
    for name in [
        "guard-fixture-tool",
        "guard-fixture-agent",
        "guard-fixture-evader",
        "guard-fixture-api",
        "guard-fixture-speaker",
        "guard-fixture-runner",
        "guard-fixture-notifier",
    ] {
        tree.program(&format!("guard/{name}"), &fixtures.join(name))?;
    }
    for program in programs {
        let name = program.file_name().context("a program has a name")?;
        tree.program(&format!("{TESTS}{}", name.to_string_lossy()), program)?;
    }
    tree.file(
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"
            .to_vec(),
    );
    // For tests that have names resolved by their own name server, mounted over these.
    tree.file("etc/resolv.conf", Vec::new());
    tree.file("etc/hosts", Vec::new());
    tree.file("etc/nsswitch.conf", b"hosts: files dns\n".to_vec());
    tree.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n".to_vec());
    let quoted: Vec<String> = test_args.iter().map(|arg| quoted(arg)).collect();
    let init = INIT.replace("@ARGS@", &quoted.join(" "));
    tree.file("init", init.into_bytes());
    let file = fs::File::create(target).with_context(|| format!("{}", target.display()))?;
    tree.write(BufWriter::new(file))
        .with_context(|| format!("{}", target.display()))
}

/// Writes `initramfs` with a kernel's `modules`, and with [`clients`] if they are wanted, to `target`: the kernel unpacks archives
/// that stand one behind the other.
pub(super) fn with_more(
    target: &Path,
    initramfs: &Path,
    busybox: &Path,
    modules: &[PathBuf],
    wants_clients: bool,
) -> Result<()> {
    fs::copy(initramfs, target).with_context(|| format!("{}", target.display()))?;
    let mut tree = Tree::default();
    tree.dir("modules");
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let content = if name.ends_with(".xz") {
            let unpacked = Command::new(busybox)
                .args(["unxz", "-c"])
                .arg(module)
                .output()
                .context("busybox unxz")?;
            if !unpacked.status.success() {
                bail!("{}: busybox unxz: {}", module.display(), unpacked.status);
            }
            unpacked.stdout
        } else {
            fs::read(module)?
        };
        tree.file(
            &format!("modules/{}", name.trim_end_matches(".xz")),
            content,
        );
    }
    if wants_clients {
        clients::add(&mut tree)?;
    }
    let file = fs::File::options().append(true).open(target)?;
    tree.write(BufWriter::new(file))
        .with_context(|| format!("{}", target.display()))
}

/// For a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

enum Node {
    Dir,
    File(Vec<u8>, u32),
    Link(String),
}

/// Paths without a leading slash.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<String, Node>);

impl Tree {
    pub(super) fn dir(&mut self, path: &str) {
        self.parents(path);
        self.0.entry(path.to_owned()).or_insert(Node::Dir);
    }

    fn parents(&mut self, path: &str) {
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            at += slash;
            self.0.entry(path[..at].to_owned()).or_insert(Node::Dir);
            at += 1;
        }
    }

    pub(super) fn file(&mut self, path: &str, content: Vec<u8>) {
        self.parents(path);
        self.0.insert(path.to_owned(), Node::File(content, 0o755));
    }

    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.0.insert(path.to_owned(), Node::Link(to.to_owned()));
    }

    /// A program without its debug information, and the libraries that it is linked with; one of the test programs without
    /// its symbols too, which are a quarter of it: what is unpacked may take no more than half of a guest's memory.
    fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let strip = if path.starts_with(TESTS) {
            "--strip-all"
        } else {
            "--strip-debug"
        };
        let stripped = workspace::tools_dir()?.join("vm/stripped");
        shell::output(
            Command::new("strip")
                .args([strip, "-o"])
                .arg(&stripped)
                .arg(from),
        )?;
        self.file(path, fs::read(&stripped)?);
        fs::remove_file(&stripped)?;
        self.libraries_of(from)
    }

    /// The libraries that a program, or a library, is linked with.
    pub(super) fn libraries_of(&mut self, from: &Path) -> Result<()> {
        // `name => /path (address)`, or `/path (address)` for the loader itself.
        let linked = Command::new("ldd").arg(from).output().context("ldd")?;
        let said = String::from_utf8_lossy(&linked.stderr);
        if !linked.status.success() && !said.contains("not a dynamic executable") {
            bail!("ldd {}: {}", from.display(), said.trim());
        }
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        for library in linked
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let path = library.trim_start_matches('/');
            if !self.0.contains_key(path) {
                self.file(path, fs::read(library).with_context(|| library.to_owned())?);
            }
        }
        Ok(())
    }

    /// In the "newc" format:
    /// <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>
    fn write(&self, mut out: impl Write) -> Result<()> {
        let mut inode = 0;
        for (path, node) in &self.0 {
            inode += 1;
            match node {
                Node::Dir => entry(&mut out, inode, path, 0o040_755, &[])?,
                Node::File(content, mode) => {
                    entry(&mut out, inode, path, 0o100_000 | mode, content)?;
                }
                Node::Link(to) => entry(&mut out, inode, path, 0o120_777, to.as_bytes())?,
            }
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[])?;
        out.flush()?;
        Ok(())
    }
}

fn entry(out: &mut impl Write, inode: u32, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let (size, name_size) = (
        u32::try_from(content.len())?,
        u32::try_from(path.len() + 1)?,
    );
    // Inode, mode, uid, gid, links, time, size, device and device number (major and minor each), size of
    // the name, checksum.
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08x}"));
    }
    let padding = |length: usize| &[0u8; 3][..(4 - length % 4) % 4];
    out.write_all(header.as_bytes())?;
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    out.write_all(padding(header.len() + path.len() + 1))?;
    out.write_all(content)?;
    out.write_all(padding(content.len()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_back_by_the_format_that_it_is_written_in() {
        let mut tree = Tree::default();
        tree.file("a/b/c", b"hello".to_vec());
        tree.link("a/link", "/a/b/c");
        let mut bytes = Vec::new();
        tree.write(&mut bytes).expect("memory takes it");
        let mut names = Vec::new();
        let mut at = 0;
        let number = |at: usize, bytes: &[u8]| {
            let text = std::str::from_utf8(&bytes[at..at + 8]).expect("hex");
            usize::from_str_radix(text, 16).expect("hex")
        };
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (number(at + 54, &bytes), number(at + 94, &bytes));
            let name = at + 110;
            let text = &bytes[name..name + name_size - 1];
            let text = String::from_utf8_lossy(text).into_owned();
            let content = (name + name_size).next_multiple_of(4);
            if text == "TRAILER!!!" {
                break;
            }
            let content = bytes[content..content + size].to_vec();
            names.push((text, content));
            at = ((name + name_size).next_multiple_of(4) + size).next_multiple_of(4);
        }
        let file = |name: &str| {
            names
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, c)| c.clone())
        };
        assert_eq!(file("a/b/c").as_deref(), Some(&b"hello"[..]));
        assert_eq!(file("a/link").as_deref(), Some(&b"/a/b/c"[..]));
        assert!(file("a").is_some() && file("a/b").is_some());
    }

    #[test]
    fn a_word_is_one_word_to_a_shell() {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("printf %s {}", quoted("it's $HOME; *")))
            .output()
            .expect("a shell");
        assert_eq!(output.stdout, b"it's $HOME; *");
    }
}
