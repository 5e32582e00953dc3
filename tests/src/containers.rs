//! A containerd, and if a test wants one a dockerd, of the test's own: in a mount and a pid namespace, so that nothing of
//! them is left, whatever becomes of the test.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Place, eventually, has_program};

/// Running servers.
pub struct Containers {
    place: Place,
    dockers: bool,
    child: Child,
}

impl Containers {
    /// `None` where the programs for it are missing, which is told.
    #[track_caller]
    pub fn start(place: &Place, dockers: bool) -> Option<Self> {
        let docker = ["dockerd", "docker"];
        let needed = ["containerd", "ctr", "runc", "unshare"].into_iter();
        if !needed
            .chain(docker.into_iter().filter(|_| dockers))
            .all(has_program)
        {
            return None;
        }
        let at = |name: &str| place.path(name).display().to_string();
        let config = place.file(
            "containerd.toml",
            &format!(
                "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
                 [grpc]\naddress = '{}'\n[plugins.'io.containerd.internal.v1.opt']\npath = '{}'\n",
                at("containerd/root"),
                at("containerd/state"),
                at("containerd.sock"),
                at("containerd/opt"),
            ),
        );
        // Shims listen in a directory that cannot be chosen.
        let mut script = format!(
            "mkdir -p /run/containerd && mount -t tmpfs none /run/containerd || exit 1\n\
             containerd --config {} >{} 2>&1 &\n",
            config.display(),
            at("containerd.log")
        );
        if dockers {
            script.push_str(&format!(
                "dockerd --iptables=false --bridge=none --storage-driver=vfs --data-root {} --exec-root {} \
                 --pidfile {} --host unix://{} --containerd {} >{} 2>&1 &\n",
                at("docker/data"),
                at("docker/exec"),
                at("docker.pid"),
                at("docker.sock"),
                at("containerd.sock"),
                at("docker.log"),
            ));
        }
        script.push_str("wait\n");
        let script = place.script("servers", &format!("#!/bin/sh\n{script}"));
        Self::make_root(place);
        let child = place
            .command("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let servers = Self {
            place: place.clone(),
            dockers,
            child,
        };
        servers.wait("containerd.log", &format!("{} version", servers.ctr()));
        if dockers {
            servers.wait("docker.log", &format!("{} version", servers.docker()));
            let tar = format!(
                "tar -C {} -c . | {} import - box >/dev/null",
                at("rootfs"),
                servers.docker()
            );
            assert!(servers.sh(&tar), "{tar}");
        }
        Some(servers)
    }

    /// The system's own programs as a container's: `/usr` is to be mounted there.
    fn make_root(place: &Place) {
        let root = place.path("rootfs");
        for dir in ["usr", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(PathBuf::from("/").join(name)) {
                symlink(target, root.join(name)).unwrap();
            }
        }
    }

    #[track_caller]
    fn wait(&self, log: &str, command: &str) {
        eventually(&format!("{command} answers; {log}"), || {
            self.sh(&format!("{command} >/dev/null 2>&1")).then_some(())
        });
    }

    fn sh(&self, line: &str) -> bool {
        let status = self.command(line).stdin(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// A shell's command in no session.
    pub fn command(&self, line: &str) -> Command {
        let mut command = self.place.command("sh");
        command
            .args(["-c", line])
            .env("DOCKER_CONFIG", self.place.dir());
        command
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.place.path("containerd.sock")
    }

    /// dockerd's socket.
    pub fn docker_socket(&self) -> PathBuf {
        self.place.path("docker.sock")
    }

    /// The words that begin a command for containerd.
    pub fn ctr(&self) -> String {
        format!("ctr --address {}", self.containerd_socket().display())
    }

    /// And for dockerd.
    pub fn docker(&self) -> String {
        format!("docker --host unix://{}", self.docker_socket().display())
    }

    /// Options, root and name for `ctr run` or `ctr container create`: a container that sees the system's programs and the test's directory.
    pub fn ctr_options(&self, id: &str) -> String {
        let dir = self.place.dir().display();
        format!(
            "--rootfs --mount type=bind,src=/usr,dst=/usr,options=rbind:ro \
             --mount type=bind,src={dir},dst={dir},options=rbind:rw {} {id}",
            self.place.path("rootfs").display()
        )
    }

    /// An option for each command that starts something: pipes that are seen inside the namespaces as well.
    pub fn fifos(&self) -> String {
        format!("--fifo-dir {}", self.place.path("fifos").display())
    }

    /// Options for `docker run` or `docker create`, with the image behind.
    pub fn docker_options(&self) -> String {
        let dir = self.place.dir().display();
        format!("--network none --volume /usr:/usr:ro --volume {dir}:{dir}")
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // In order, so that no control group of theirs is left.
        if self.dockers {
            let docker = self.docker();
            self.sh(&format!(
                "{docker} rm --force $({docker} ps --all --quiet) >/dev/null 2>&1"
            ));
        }
        let ctr = self.ctr();
        self.sh(&format!(
            "for id in $({ctr} containers ls -q); do {ctr} tasks rm --force $id; done >/dev/null 2>&1"
        ));
        // Its child is the first of the namespace: with it goes all.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
